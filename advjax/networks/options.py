"""The choice of a network and its weights, as commands and reproductions take it."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from advjax.errors import AdvjaxError

if TYPE_CHECKING:
    from advjax.networks.network import Network

DEFAULT = "efficientnet_lite0"


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """A network and its weights.

    None is as in the attacks that a command measures; where there are none, it is the default.

    Attributes:
        network: The network's name ('advjax networks' shows them); or MODULE:FUNCTION or
            FILE.py:FUNCTION, a function that returns an advjax.Network.
        weights: The network's weights: a .safetensors or .caffemodel file, 'random' or
            'orthonormal'; what 'advjax weights fetch' has brought when not given.
        mean: A mean image (.binaryproto or .npy) to subtract instead of the network's mean per
            channel.
        resize: Resize files straight to the network's input, as the paper's authors did, instead of
            the network's own resize and crop.
        layers_up_to: Use the layers up to this one, and need the weights of these alone; for
            networks that were fine-tuned with other last layers.

    Example:
        >>> NetworkOptions("lenet", "random").load(seed=0).name
        'lenet'
    """

    network: str | None = DEFAULT
    weights: str | None = None
    mean: Path | None = None
    resize: bool = False
    layers_up_to: str | None = None

    def load(self, seed: int) -> "Network":
        """Return the network, of images in levels of 255 as files are.

        Args:
            seed: That of random weights.
        """
        from advjax.networks import zoo

        if (own := self._own()) is not None:
            return own
        net = zoo.load(
            self.network or DEFAULT,
            self.weights,
            seed=seed,
            mean=self.mean,
            resize=self.resize,
            layers_up_to=self.layers_up_to,
        )
        return net.in_levels

    def files(self) -> "dict[str, str | Path | None]":
        """Return the names of the files that the network comes from, as a run keeps them."""
        from advjax.checkpoints.catalogue import cached, load_catalogue
        from advjax.networks.imported import is_imported

        if is_imported(self.network):
            return {"network": self.network}
        name = self.network or DEFAULT
        weights = self.weights or load_catalogue()[name].package or cached(name)
        return {"weights": weights, "mean": self.mean}

    def outline(self) -> "Network":
        """Return the network without its weights, to check what can be before they are loaded.

        Raises:
            AdvjaxError: A name, a file or a mean that cannot be.
        """
        from advjax.checkpoints import content
        from advjax.networks import zoo

        if (own := self._own()) is not None:
            return own
        net = zoo.outline(self.network or DEFAULT, resize=self.resize)
        if self.layers_up_to is not None:
            net.check_layers(self.layers_up_to)
        if self.weights not in (None, "random", "orthonormal"):
            content.sniff(self.weights)
        return net

    def _own(self) -> "Network | None":
        """Return the network of MODULE:FUNCTION, imported once; None for one of the zoo."""
        from advjax.networks.imported import is_imported

        if not is_imported(self.network):
            return None
        for option in ("weights", "mean", "resize", "layers_up_to"):
            if given := getattr(self, option):
                raise AdvjaxError(
                    f"{option} is {str(given)!r}, and {self.network!r} returns a whole network; "
                    "leave it out"
                )
        return _import_once(self.network)


@functools.cache
def _import_once(name: str) -> "Network":
    from advjax.networks.imported import import_network

    return import_network(name).in_levels
