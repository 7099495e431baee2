"""Transfer: labels and distances of adversarial images in other networks, and after compression."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from PIL import Image

from advjax.attacks.base import cosine_distance, distance
from advjax.data.units import LEVELS, Bounds, from_levels
from advjax.display import spread, squeeze_grey
from advjax.errors import AdvjaxError, UnknownName
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
    cosine: Float[np.ndarray, "n"]  # of the adversarial and the guide; of several layers the mean
    initial_cosine: Float[np.ndarray, "n"]  # of the source and the guide

    def __repr__(self) -> str:
        """Describe the figures in one line."""
        return f"TransferResult(pairs: {len(self.ratio):,}, ratio {spread(self.ratio)})"

    @property
    def takes_label(self) -> Bool[np.ndarray, "n"] | None:
        """True where the adversarial has the guide's label here, too."""
        return None if self.label is None else self.label == self.guide_label


class TransferMatrix(NamedTuple):
    """The figures of s results in t networks; n pairs each."""

    surrogates: tuple[str, ...]  # the results, by the names that they were given with
    targets: tuple[str, ...]  # the networks
    ratio: Float[np.ndarray, "s t n"]
    cosine: Float[np.ndarray, "s t n"]
    takes_label: Bool[np.ndarray, "s t n"] | None  # None where a network names no labels

    def __repr__(self) -> str:
        """Return a table: the median ratio, and the fraction of labels taken, of each."""
        heads = ["", *self.targets]
        rows = [heads]
        for i, name in enumerate(self.surrogates):
            cells = [f"{np.median(self.ratio[i, j]):.3f}" for j in range(len(self.targets))]
            if self.takes_label is not None:
                fractions = self.takes_label[i].mean(1)
                cells = [f"{a} {b:4.0%}" for a, b in zip(cells, fractions, strict=True)]
            rows.append([name, *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.rjust, row, widths)) for row in rows)
        return "\n".join(lines)


@overload
def transfer(
    net: Network,
    adversarials: Any,
    sources: Any,
    guides: Any,
    *,
    layer: str | Sequence[str] | None = None,
) -> TransferResult: ...
@overload
def transfer(
    net: Mapping[str, Network],
    adversarials: Mapping[str, Any],
    sources: Any,
    guides: Any,
    *,
    layer: Mapping[str, Any] | None = None,
) -> TransferMatrix: ...
def transfer(net: Any, adversarials: Any, sources: Any, guides: Any, *, layer: Any = None) -> Any:
    """Measure labels and distances of a result in a network that it was not made for.

    All three are brought to the network's size in the same way, so that their differences are the
    images' own: the whole frame is resized, whatever its aspect, with a triangle filter that widens
    when shrinking (`jax.image.resize`, "linear"). Nothing is cropped or rounded; equal sizes are
    left alone. Mean, scale and channel order are the network's, as always.

    With several networks by name, and several results by the name of what they were made with, it
    is a matrix: each result in each network.

    Args:
        net: The other network, or a dict of several.
        adversarials: [n, h, w, c], uint8, or float within `net.bounds` (0..255): a result's
            `adversarial_uint8` or `adversarial`; with several networks a dict of such batches.
        sources: The sources, of the same shape.
        guides: The guides, of the same shape.
        layer: Where distances are measured, or several; the network's default layer when None. With
            several networks a dict, for those that have another than their default.

    Raises:
        AdvjaxError: The shapes differ, one dict comes without the other, or the network has another
            number of channels.

    Example:
        >>> import advjax
        >>> net = advjax.load("lenet", "orthonormal")
        >>> s, g = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 1), np.uint8)
        >>> transfer(net, g, s, g).ratio.tolist()
        [0.0, 0.0, 0.0]
    """
    if isinstance(net, Mapping) or isinstance(adversarials, Mapping):
        return _matrix(net, adversarials, sources, guides, layer)
    return _figures(net, {"adversarials": adversarials}, sources, guides, layer)[0]


def _figures(
    net: Network, adversarials: Mapping[str, Any], sources: Any, guides: Any, layer: Any
) -> list[TransferResult]:
    """Return the figures of several results for the same pairs."""
    layers = net.check_layers(layer)
    names = (*layers, *((net.output,) if net.output else ()))
    batches = [("sources", sources), ("guides", guides), *adversarials.items()]
    shapes = [(name, np.shape(batch)) for name, batch in batches]
    shape = shapes[0][1]
    if any(other != shape for _, other in shapes) or len(shape) != 4:
        listed = ", ".join(f"{name} {other}" for name, other in shapes)
        raise AdvjaxError(f"the images have the shapes {listed}; give [n, h, w, c] of one shape")
    if shape[-1] != net.input_shape[-1]:
        raise AdvjaxError(
            f"the images have {shape[-1]} channels and {net.name} takes {net.input_shape[-1]}; "
            "give images of as many"
        )
    if not shape[0]:
        raise AdvjaxError("sources is empty; give at least one pair")
    features = [_features(net, name, batch, names) for name, batch in batches]
    source, guide, *rest = features
    source_label, guide_label, *labels = (
        None if net.output is None else x[net.output].argmax(1) for x in features
    )

    def compared(x: Any) -> tuple[np.ndarray, np.ndarray]:
        away = np.asarray(cosine_distance(layers, None, x, guide))
        return np.asarray(distance(layers, None, x, guide)), 1 - away / len(layers)

    begin, initial_cosine = compared(source)
    results = []
    for x, label in zip(rest, labels, strict=True):
        end, cosine = compared(x)
        nothing = np.where(end > 0, np.nan, 0).astype(end.dtype)  # of an initial distance of 0
        results.append(
            TransferResult(
                ratio=np.divide(end, begin, out=nothing, where=begin > 0),
                distance=end,
                initial_distance=begin,
                source_label=source_label,
                guide_label=guide_label,
                label=label,
                cosine=cosine,
                initial_cosine=initial_cosine,
            )
        )
    return results


def _matrix(nets: Any, adversarials: Any, sources: Any, guides: Any, layers: Any) -> TransferMatrix:
    for name, given in (("net", nets), ("adversarials", adversarials)):
        if not isinstance(given, Mapping) or not given:
            raise AdvjaxError(
                f"{name} is {type(given).__name__}; give dicts of networks and of their results, "
                'such as transfer({"a": net}, {"made with b": images}, sources, guides)'
            )
    layers = layers or {}
    for name in layers:
        if name not in nets:
            raise UnknownName("network of layer", name, nets)
    columns = [
        _figures(net, adversarials, sources, guides, layers.get(name)) for name, net in nets.items()
    ]
    cells = list(zip(*columns, strict=True))
    taken: Any = [[cell.takes_label for cell in row] for row in cells]
    named = all(each is not None for row in taken for each in row)
    return TransferMatrix(
        surrogates=tuple(adversarials),
        targets=tuple(nets),
        ratio=np.array([[cell.ratio for cell in row] for row in cells]),
        cosine=np.array([[cell.cosine for cell in row] for row in cells]),
        takes_label=np.array(taken) if named else None,
    )


def survivors(images: UInt8[np.ndarray, "n h w c"]) -> dict[str, UInt8[np.ndarray, "n h w c"]]:
    """Return images as a platform may give them back: what of an attack survives that?

    "jpeg" is JPEG at quality 75 with subsampled colours; "resize" 90 % of the size and back, with
    Pillow's bicubic filter; "both" the one after the other. "file" are the images themselves, so
    that the whole is what `transfer` takes: `transfer({"net": net}, survivors(images), ...)`.

    Args:
        images: A result's `adversarial_uint8`.

    Example:
        >>> list(survivors(np.zeros((1, 16, 16, 3), np.uint8)))
        ['file', 'jpeg', 'resize', 'both']
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise AdvjaxError(
            f"images is {images.dtype}{list(images.shape)}; give uint8 [n, h, w, c], such as a "
            "result's adversarial_uint8"
        )
    small = np.stack([_resized(image) for image in images])
    return {
        "file": images,
        "jpeg": np.stack([_through_jpeg(image) for image in images]),
        "resize": small,
        "both": np.stack([_through_jpeg(image) for image in small]),
    }


def _through_jpeg(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(squeeze_grey(image)).save(stream, "jpeg", quality=75)
    return np.asarray(Image.open(stream)).reshape(image.shape)


def _resized(image: np.ndarray) -> np.ndarray:
    h, w, _ = image.shape
    less = max(1, round(0.9 * w)), max(1, round(0.9 * h))
    whole = Image.fromarray(squeeze_grey(image))
    back = whole.resize(less, Image.Resampling.BICUBIC).resize((w, h), Image.Resampling.BICUBIC)
    return np.asarray(back).reshape(image.shape)


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
