"""The choice of a network and its weights, as commands and reproductions take it."""

import dataclasses
from pathlib import Path

from advjax.checkpoints import content
from advjax.networks import zoo
from advjax.networks.network import Network

DEFAULT = "efficientnet_lite0"


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """A network and its weights.

    None is as in the attacks that a command measures; where there are none, it is the default.

    Attributes:
        network: The network's name ('advjax weights list' shows them).
        weights: A .safetensors or .caffemodel file, 'random' or 'orthonormal'; what 'advjax weights
            fetch' has brought when not given.
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

    def load(self, seed: int) -> Network:
        """Return the network; `seed` is that of random weights."""
        return zoo.load(
            self.network or DEFAULT,
            self.weights,
            seed=seed,
            mean=self.mean,
            resize=self.resize,
            layers_up_to=self.layers_up_to,
        )

    def outline(self) -> Network:
        """Return the network without its weights, to check what can be before they are loaded.

        Raises:
            AdvjaxError: A name, a file or a mean that cannot be.
        """
        net = zoo.outline(self.network or DEFAULT, resize=self.resize)
        if self.layers_up_to is not None:
            net.check_layers(self.layers_up_to)
        if self.weights not in (None, "random", "orthonormal"):
            content.sniff(self.weights)
        return net
