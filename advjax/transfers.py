"""Transfer: labels and distances of adversarial images in another network."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from advjax.attacks.base import distance
from advjax.data.units import LEVELS, Bounds, from_levels
from advjax.display import spread
from advjax.errors import AdvjaxError
from advjax.networks.network import Network

BLOCK = 16  # images in one call of the network


class TransferResult(NamedTuple):
    """The figures of n pairs in another network; distances are Euclidean, in its layers."""

    ratio: Float[np.ndarray, "n"]  # distance / initial_distance
    distance: Float[np.ndarray, "n"]  # of the adversarial to the guide
    initial_distance: Float[np.ndarray, "n"]  # of the source to the guide
    source_label: Int[np.ndarray, "n"] | None  # None where the network has no `output`
    guide_label: Int[np.ndarray, "n"] | None
    label: Int[np.ndarray, "n"] | None

    def __repr__(self) -> str:
        """Describe the figures in one line."""
        return f"TransferResult(pairs: {len(self.ratio):,}, ratio {spread(self.ratio)})"

    @property
    def takes_label(self) -> Bool[np.ndarray, "n"] | None:
        """True where the adversarial has the guide's label here, too."""
        return None if self.label is None else self.label == self.guide_label


def transfer(
    net: Network,
    adversarials: Any,
    sources: Any,
    guides: Any,
    *,
    layer: str | Sequence[str] | None = None,
) -> TransferResult:
    """Measure labels and distances of a result in a network that it was not made for.

    All three are brought to the network's size in the same way, so that their differences are the
    images' own: the whole frame is resized, whatever its aspect, with a triangle filter that widens
    when shrinking (`jax.image.resize`, "linear"). Nothing is cropped or rounded; equal sizes are
    left alone. Mean, scale and channel order are the network's, as always.

    Args:
        net: The other network.
        adversarials: [n, h, w, c], uint8, or float within `net.bounds` (0..255): a result's
            `adversarial_uint8` or `adversarial`.
        sources: The sources, of the same shape.
        guides: The guides, of the same shape.
        layer: Where distances are measured, or several; the network's default layer when None.

    Raises:
        AdvjaxError: The shapes differ, or the network has another number of channels.

    Example:
        >>> import advjax
        >>> net = advjax.load("lenet", "orthonormal")
        >>> s, g = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 1), np.uint8)
        >>> transfer(net, g, s, g).ratio.tolist()
        [0.0, 0.0, 0.0]
    """
    layers = net.check_layers(layer)
    names = (*layers, *((net.output,) if net.output else ()))
    batches = {"adversarials": adversarials, "sources": sources, "guides": guides}
    shapes = {name: np.shape(batch) for name, batch in batches.items()}
    if len(set(shapes.values())) > 1 or len(shapes["sources"]) != 4:
        raise AdvjaxError(f"the images have the shapes {shapes}; give [n, h, w, c] three times")
    if shapes["sources"][-1] != net.input_shape[-1]:
        raise AdvjaxError(
            f"the images have {shapes['sources'][-1]} channels and {net.name} takes "
            f"{net.input_shape[-1]}; give images of as many"
        )
    if not shapes["sources"][0]:
        raise AdvjaxError("sources is empty; give at least one pair")
    features = [_features(net, name, batch, names) for name, batch in batches.items()]
    adversarial, source, guide = features
    end, begin = (np.asarray(distance(layers, None, x, guide)) for x in (adversarial, source))
    labels = [None if net.output is None else x[net.output].argmax(1) for x in features]
    return TransferResult(
        ratio=np.divide(end, begin, out=np.zeros_like(end), where=begin > 0),
        distance=end,
        initial_distance=begin,
        source_label=labels[1],
        guide_label=labels[2],
        label=labels[0],
    )


def _features(
    net: Network, name: str, images: Any, layers: tuple[str, ...]
) -> dict[str, np.ndarray]:
    # Of any size: only their values are checked against the network.
    any_size = dataclasses.replace(net, input_shape=np.shape(images)[1:])
    images = any_size.check_images(images, name)
    blocks = []
    for begin in range(0, len(images), BLOCK):
        block = jnp.asarray(images[begin : begin + BLOCK])
        if block.dtype == np.uint8:
            block = from_levels(block, net.bounds)
        block = resized(block, net.input_shape, net.bounds)
        blocks.append(jax.device_get(net.compute(block, layers)))
    return {layer: np.concatenate([block[layer] for block in blocks]) for layer in layers}


def resized(
    images: Float[Array, "n h w c"], shape: tuple[int, int, int], bounds: Bounds = LEVELS
) -> Float[Array, "n p q c"]:
    """Resize the whole frame, within its bounds."""
    if images.shape[1:] == tuple(shape):
        return images
    # A filter's weights sum to 1 up to rounding alone.
    return jnp.clip(jax.image.resize(images, (len(images), *shape), "linear"), *bounds)
