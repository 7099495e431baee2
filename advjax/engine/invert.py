"""Inversion: images from activations, by the same engine (Mahendran and Vedaldi, 2015)."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from advjax.attacks.inversion import Inversion
from advjax.data.units import from_levels
from advjax.display import spread
from advjax.engine.api import attack_stream
from advjax.engine.inputs import CheckedPairs, guide_batch
from advjax.engine.results import Pair
from advjax.errors import AdvjaxError
from advjax.networks.network import Network
from advjax.results import stack


class InversionResult(NamedTuple):
    """n reconstructions, in the order of the targets."""

    image: Float[np.ndarray, "n h w c"]
    image_uint8: UInt8[np.ndarray, "n h w c"]
    loss: Float[np.ndarray, "n"]  # |phi(I) - phi_0|^2 / |phi_0|^2; of several layers the sum
    loss_uint8: Float[np.ndarray, "n"]
    objective: Float[np.ndarray, "n"]  # the loss with the priors, in the solver's precision
    evaluations: Int[np.ndarray, "n"]
    status: Int[np.ndarray, "n"]  # advjax.Status
    trace: Float[np.ndarray, "n e"] | None  # the objective; NaN after the last evaluation

    def __repr__(self) -> str:
        """Describe the reconstructions in one line."""
        return f"InversionResult(images: {len(self.image):,}, loss {spread(self.loss)})"


def invert(
    net: Network, targets: Any, *, progress: bool | None = None, **settings: Any
) -> InversionResult:
    """Reconstruct images from activations; two priors make them look natural.

    Each image I minimises ||phi(I) - phi_0||^2 / ||phi_0||^2 + a R_alpha(I) + v R_V^beta(I) over
    0 <= I <= 255, from random pixels (Mahendran and Vedaldi, CVPR 2015, eq. 5). See
    `advjax.Inversion`.

    Args:
        net: The network.
        targets: Images [n, h, w, c] whose activations are inverted, or one image; or
            [n, k, h, w, c], for means over k images; or activations, a dict of [n, ...] by layer.
        progress: Show a bar; None: on a terminal and in a notebook.
        **settings: `layer` (the network's default layer when None), those of `advjax.Inversion`
            (`variation`, `alpha_weight`, `jitter`, ...) and of `advjax.attack_stream` (`solver`,
            `batch_size`, `start`, `seed`, `trace`, ...); the default of `start` is "random".

    Returns:
        The reconstructions.

    Raises:
        AdvjaxError: An argument that cannot be used.

    Example:
        >>> import advjax
        >>> net = advjax.load("lenet", "orthonormal")
        >>> images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
        >>> result = invert(net, images, layer="conv1", solver=advjax.ProjectedLBFGS(20))
        >>> result.image.shape, bool((result.loss < 0.2).all())
        ((2, 28, 28, 1), True)
    """
    fields = {field.name for field in dataclasses.fields(Inversion)}
    own = {name: settings.pop(name) for name in list(settings) if name in fields}
    layers = net.check_layers(settings.pop("layer", None))
    inversion = Inversion(layers, **own)
    given = guide_batch(net, targets, 0, "targets")
    if not given:
        raise AdvjaxError("targets is empty; give at least one image")
    grey = from_levels(np.full(net.input_shape, inversion.grey), net.bounds)
    pairs = CheckedPairs(Pair(grey, target) for target in given)
    settings = {"start": "random", "progress": progress} | settings
    results = stack(list(attack_stream(net, pairs, attack=inversion, **settings)))
    return InversionResult(
        image=results.adversarial,
        image_uint8=results.adversarial_uint8,
        loss=results.distance**2,
        loss_uint8=results.distance_uint8**2,
        objective=results.objective,
        evaluations=results.evaluations,
        status=results.status,
        trace=results.trace,
    )
