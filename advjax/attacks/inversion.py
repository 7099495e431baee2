"""Inversion: an image with given activations, among the natural ones (Mahendran and Vedaldi)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from advjax.attacks.base import Activate, Attack, PairData, distance
from advjax.attacks.box import PixelBox, whole_box
from advjax.errors import AdvjaxError, whole
from advjax.networks.network import Network

# Root mean square of a pixel minus the mean in the authors' training images: their norm of 27,098
# (x0_sigma.mat) at 227x227x3.
RMS = 68.92
# The published 2.16e8 of ||x||_6^6, x being an image divided by that norm, per value of the image.
ALPHA_WEIGHT = 2.16e8 / (227 * 227 * 3) ** 2


def alpha_norm(
    images: Float[Array, "b h w c"], alpha: float = 6.0, grey: float = 127.5
) -> Float[Array, "b"]:
    """Compute the mean of |x|^alpha, x = (I - grey) / 68.92 (section 3.2, R_alpha): the range.

    Example:
        >>> alpha_norm(jnp.full((1, 2, 2, 1), 127.5 + 2 * RMS)).round(3).tolist()
        [64.0]
    """
    x = (images - grey) / RMS
    return jnp.mean((x**2) ** (alpha / 2), (1, 2, 3))


def total_variation(images: Float[Array, "b h w c"], beta: float = 2.0) -> Float[Array, "b"]:
    """Compute the mean of (dx^2 + dy^2)^(beta/2) / 68.92^beta (section 3.2, R_V^beta).

    The differences are forward; those across the last row and column are 0. A beta under 2 has no
    gradient where the image is constant; it is taken as 0 there.

    Example:
        >>> ramp = RMS * jnp.arange(4.0).reshape(1, 2, 2, 1)
        >>> total_variation(ramp).round(3).tolist()
        [2.5]
    """
    across = jnp.pad(jnp.diff(images, axis=2), ((0, 0), (0, 0), (0, 1), (0, 0))) / RMS
    down = jnp.pad(jnp.diff(images, axis=1), ((0, 0), (0, 1), (0, 0), (0, 0))) / RMS
    squared = across**2 + down**2
    if beta == 2:
        return jnp.mean(squared, (1, 2, 3))
    steep = squared > 0
    return jnp.mean(jnp.where(steep, jnp.where(steep, squared, 1) ** (beta / 2), 0), (1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Inversion(Attack):
    """minimise ||phi(I) - phi_0||^2 / ||phi_0||^2 + a R_alpha(I) + v R_V^beta(I), 0 <= I <= 255.

    Mahendran and Vedaldi, *Understanding deep image representations by inverting them*, CVPR 2015,
    eq. 5. Its defaults are theirs: alpha 6, beta 2, and a variation of 0.5, 5 or 50, the deeper the
    layer the more. Their sums over the values of an image are means here, so that the settings hold
    at any size.

    Attributes:
        layers: The layers whose activations are given; the network's default layer when ().
        weights: Of the layers' terms; 1 for every layer when None.
        output: The layer whose largest value is the label; the network's when None.
        alpha: Exponent of the first prior.
        alpha_weight: a; .00904, the published weight, when not given.
        beta: Exponent of the second prior.
        variation: v; when None, 0.5 for a layer in the first 30 % of the network's list, 5 in the
            next 30 %, 50 beyond: theirs, for 6, 6 and 8 of CaffeNet's 20.
        grey: What the first prior draws pixels to, in levels of 255.
        jitter: The image is shifted by up to so many pixels, anew at each evaluation, before the
            network sees it (Mahendran and Vedaldi, 2016, section 4.4). The shift is drawn from the
            image's own bits: a result is still a function of its pair and seed. For solvers without
            a line search, such as `SignMomentum`.
    """

    alpha: float = 6.0
    alpha_weight: float = ALPHA_WEIGHT
    beta: float = 2.0
    variation: float | None = None
    grey: float = 127.5
    jitter: int = 0

    name: ClassVar[str] = "inversion"
    bounded: ClassVar[bool] = False
    direction: ClassVar[int] = 0

    def __post_init__(self):
        super().__post_init__()
        for name, minimum in (("alpha", 1), ("beta", 1), ("alpha_weight", 0), ("variation", 0)):
            value = getattr(self, name)
            if value is not None and not minimum <= value < float("inf"):
                raise AdvjaxError(f"{name} is {value}; give a number, {minimum} or more")
        if whole(self.jitter, 0) is None:
            raise AdvjaxError(f"jitter is {self.jitter!r}; give a number of pixels, 0 or more")

    def for_network(self, net: Network) -> Self:
        """Return this attack with its layers and the published variation of their depth."""
        attack = super().for_network(net)
        if attack.variation is not None:
            return attack
        variation = published_variation(attack.layers, list(net.layers))
        return dataclasses.replace(attack, variation=variation)

    def box(self, pair: PairData, delta: float) -> PixelBox:
        """Return 0 <= I <= 255."""
        return whole_box(pair.source.shape)

    def target(self, pair: PairData) -> Any:
        """Return the activations and, for each layer, its weight over their squared norm."""
        assert pair.guide is not None
        return {"guide": pair.guide, "weight": self._relative_weights(pair.guide)}

    def initial(self, pair: PairData, target: Any) -> float:
        """Return 1: the loss of an image that has nothing of the activations is near it."""
        return 1.0

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """Compute the objective of each pair, and the activations at its image."""
        assert self.variation is not None
        features = activate(shifted(images, self.jitter) if self.jitter else images)
        value = self.alpha_weight * alpha_norm(images, self.alpha, self.grey)
        value += self.variation * total_variation(images, self.beta)
        for k in self.layers:
            error = ((features[k] - target["guide"][k]) ** 2).reshape(len(images), -1).sum(1)
            value += target["weight"][k] * error
        return value, features

    def distance(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the root of the loss without the priors: 0 where the activations are equal."""
        weights = tuple(float(weight[0]) for weight in self._relative_weights(guide).values())
        return distance(self.layers, weights, features, guide)

    def _relative_weights(self, guide: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return each layer's weight over the squared norm of the given activations."""
        weights = zip(self.layers, self.weights or (1.0,) * len(self.layers), strict=True)
        norms = {k: np.linalg.norm(np.float64(guide[k])) for k in self.layers}
        return {k: np.array([w / (norms[k] ** 2 or 1)], np.float32) for k, w in weights}


def published_variation(layers: Sequence[str], of: Sequence[str]) -> float:
    """Return 0.5, 5 or 50, by the place of the deepest of these layers in the list `of` all.

    Example:
        >>> published_variation(["conv2"], ["conv1", "conv2", "conv3", "fc"])
        5.0
    """
    depth = max(of.index(name) + 1 for name in layers) / len(of)
    return 0.5 if depth <= 0.3 else 5.0 if depth <= 0.6 else 50.0


def shifted(images: Float[Array, "b h w c"], maximum: int) -> Float[Array, "b h w c"]:
    """Move each image by up to `maximum` pixels both ways, its border repeated.

    The shift is a hash of the image's bits: as good as drawn, and the same at each call.
    """
    b, h, w, _ = images.shape
    fixed = jax.lax.stop_gradient(images.astype(jnp.float32))
    bits = jax.lax.bitcast_convert_type(fixed, jnp.uint32).reshape(b, -1)
    # Sums of integers are exact in any order, so that no compilation changes the shift.
    odd = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32)[None] + 1
    mixed = jnp.sum(bits * odd, 1, dtype=jnp.uint32) * jnp.uint32(2654435761)  # Knuth, 6.4
    count = jnp.uint32(2 * maximum + 1)
    down, along = ((mixed >> bit) % count for bit in (8, 20))

    def places(shift, size):
        return jnp.clip(jnp.arange(size)[None] + shift.astype(int)[:, None] - maximum, 0, size - 1)

    images = jnp.take_along_axis(images, places(down, h)[:, :, None, None], 1)
    return jnp.take_along_axis(images, places(along, w)[:, None, :, None], 2)
