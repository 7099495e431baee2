"""Pairs, images, guides and labels of a user, read and checked before any work."""

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.attacks.box import check_delta
from advjax.attacks.until import check_ratio
from advjax.data import units
from advjax.engine.programs import Plan
from advjax.engine.results import Pair
from advjax.errors import AdvjaxError
from advjax.networks.network import Network, is_real
from advjax.results import PairResult


class Given(NamedTuple):
    """A pair's image and delta in the units of its network."""

    source: np.ndarray
    delta: float | None


class CheckedPairs(list[Pair]):
    """Pairs whose images were checked as one batch: alone, a dark one might seem to be in 0..1."""


def check_pair(net: Network, plan: Plan, name: str, pair: Any, *, dark: bool = False) -> Pair:
    """Read the images of a pair, check that the plan's attack can use it, and return it.

    `dark` is that of `Network.check_images`.

    Raises:
        AdvjaxError: The attack cannot use it; the message calls the pair `name`.
    """
    try:
        pair = Pair(*pair)
    except TypeError:
        raise AdvjaxError(
            f"{name} is not (source, guide) or (source, guide, delta); give tuples"
        ) from None
    source = np.asarray(_read(net, pair.source))[None]
    pair = pair._replace(
        source=np.asarray(net.check_images(source, f"source of {name}", dark=dark))[0],
        guide=_guide(net, plan, f"guide of {name}", pair.guide, dark),
    )
    if pair.delta is not None:
        pair = pair._replace(delta=check_delta(pair.delta, net.bounds))
    if pair.target_ratio is not None:
        check_ratio(f"target_ratio of {name}", pair.target_ratio, plan.attack)
        if "distance" not in plan.until:
            raise AdvjaxError(
                f"{name} has a target_ratio, which the stream was not prepared for; give a list of "
                "pairs, or the stream a target_ratio, too"
            )
    if pair.label is not None:
        pair = pair._replace(label=_label(net, plan, f"label of {name}", pair.label))
    labelled = pair.label is not None or isinstance(pair.guide, np.ndarray)
    if plan.attack.to_label and not labelled:
        raise AdvjaxError(f"{name} has no label; give it one, or an image as guide")
    # It goes away from the source, which the network names.
    alone = pair.guide is None and plan.attack.direction > 0 and not plan.attack.guides
    named = labelled or alone or (pair.guide and plan.attack.output in pair.guide)
    if "label" in plan.until and not named:
        raise AdvjaxError(f"{name} has no label to stop at; give it one, or an image as guide")
    if pair.guide is None and not (plan.attack.to_label or alone):
        raise AdvjaxError(f"guide of {name} is None, and {plan.attack.name} needs one; give it")
    return pair


def check_pairs(net: Network, plan: Plan, pairs: Iterable[Any]) -> Iterator[Pair]:
    """Yield the pairs, each checked when it is wanted."""
    dark = isinstance(pairs, CheckedPairs)
    for index, pair in enumerate(pairs):
        yield check_pair(net, plan, f"pair {index}", pair, dark=dark)


def to_levels(net: Network, pairs: Iterable[Pair], given: dict[int, Given]) -> Iterator[Pair]:
    """Yield checked pairs in levels of 255, and note each one's source and delta in units."""
    for index, pair in enumerate(pairs):
        source, guide, delta = pair.source, pair.guide, pair.delta
        if source.dtype == np.uint8:
            source = units.from_levels(source, net.bounds)
        given[index] = Given(source, delta)
        yield pair._replace(
            source=units.to_levels(pair.source, net.bounds),
            guide=units.to_levels(guide, net.bounds) if isinstance(guide, np.ndarray) else guide,
            delta=None if delta is None else units.delta_to_levels(delta, net.bounds),
        )


def to_units(
    net: Network, results: Iterable[PairResult], given: dict[int, Given], delta: float
) -> Iterator[PairResult]:
    """Yield results in the network's units, each within its box there, too."""
    for result in results:
        source, own = given.pop(result.index)
        change = np.float64(result.adversarial) - units.to_levels(source, net.bounds)
        image = units.changed(source, change, delta if own is None else own, net.bounds)
        yield result._replace(adversarial=image)


def image_batch(net: Network, name: str, images: Any) -> np.ndarray:
    """Check images [n, h, w, c] and return them; a single image becomes a batch of one.

    Paths of image files, one or a list of them, are read as inputs of the network.
    """
    images = _read_all(net, images)
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    images = images[None] if images.shape == net.input_shape else images
    return np.asarray(net.check_images(images, name))


def is_embedding(net: Network, layers: tuple[str, ...], guide: Any, count: int | None) -> bool:
    """Return True for an array with the shape of the one layer, and not of images."""
    if isinstance(guide, Mapping) or len(layers) != 1:
        return False
    shape = np.shape(guide) if hasattr(guide, "shape") else ()
    wanted = net.layers[layers[0]]
    wanted = wanted if count is None else (count, *wanted)
    return shape == wanted and shape[-3:] != net.input_shape


def guide_batch(
    net: Network,
    guides: Any,
    count: int,
    name: str = "guides",
    layers: tuple[str, ...] = (),
    each: int | None = None,
) -> Sequence[Any]:
    """Return a list of the guides, one for each of `count` sources.

    An array of the activations in the one layer of `layers` is a guide like a dict of it; of
    `each` images apart where the attack keeps as many.
    """
    if guides is None:
        return [None] * count
    known = isinstance(guides, np.ndarray | jax.Array) and guides.ndim and len(guides)
    if known and is_embedding(net, layers, guides[0], each):
        guides = {layers[0]: guides}
    if isinstance(guides, Mapping):
        given = {layer: np.asarray(values) for layer, values in guides.items()}
        counts = {len(values) if values.ndim else 0 for values in given.values()}
        if len(counts) != 1:
            raise AdvjaxError(f"{name} has layers of different lengths; give [n, ...] for each")
        return [{k: v[i] for k, v in given.items()} for i in range(counts.pop())]
    guides = _read_all(net, guides)
    if np.ndim(guides) == 5:
        sets = np.asarray(guides)
        if sets.shape[2:] == net.input_shape:
            net.check_images(sets.reshape(-1, *net.input_shape), name)
        return list(sets)  # the number of its images is checked with its pair
    return list(image_batch(net, name, guides))


def one_or_each(name: str, given: Any, count: int) -> list[Any]:
    """Return one value for each pair; `given` is one value for all, or one for each."""
    values = list(np.atleast_1d(np.asarray(given, object)))
    if len(values) not in (1, count):
        raise AdvjaxError(
            f"{name} has {len(values)} values for {count} pairs; give one or one for each"
        )
    return values * count if len(values) == 1 else values


def check_activations(
    net: Network,
    layers: tuple[str, ...],
    name: str,
    given: Mapping[str, Any],
    count: int | None = None,
) -> dict[str, np.ndarray]:
    """Check the given activations of one image, or of `count`, and return them in float32.

    Raises:
        UnknownName: The network has no such layer.
        AdvjaxError: One of `layers` is missing, a shape is wrong or a value is not finite.
    """
    net.check_layers(tuple(given))
    for layer in layers:
        if layer not in given:
            raise AdvjaxError(f"{name} has no layer {layer!r}; it has {', '.join(given)}")
    checked = {}
    activations = "one image's activations" if count is None else f"those of {count} images"
    for layer, values in given.items():
        values, shape = np.asarray(values), net.layers[layer]
        shape = shape if count is None else (count, *shape)
        if values.shape != shape or not is_real(values.dtype):
            raise AdvjaxError(
                f"{name} is {values.dtype}{list(values.shape)} in layer {layer!r}, where "
                f"{net.name} has {list(shape)}; give {activations}"
            )
        if not np.isfinite(values).all():
            raise AdvjaxError(f"{name} has values in layer {layer!r} that are not finite")
        checked[layer] = values.astype(np.float32)
    return checked


def _read(net: Network, image: Any) -> Any:
    return net.read(image) if isinstance(image, (str, os.PathLike)) else image


def _read_all(net: Network, images: Any) -> Any:
    """Return images as they are, and in place of each path what it holds."""
    if isinstance(images, (list, tuple)):
        return [_read_all(net, image) for image in images]
    return _read(net, images)


def _guide(net: Network, plan: Plan, name: str, guide: Any, dark: bool) -> Any:
    if guide is None:
        return None
    layers, count = plan.attack.layers, plan.attack.guides
    if is_embedding(net, layers, guide, count):
        guide = {layers[0]: guide}
    if isinstance(guide, Mapping):
        return check_activations(net, layers, name, guide, count)
    several = isinstance(guide, (list, tuple)) or np.ndim(guide) == 4
    images = [_read(net, image) for image in guide] if several else [_read(net, guide)]
    if not images:
        raise AdvjaxError(f"{name} has no images; give one or more")
    if count is not None and len(images) != count:
        raise AdvjaxError(
            f"{name} has {len(images)} images, and {plan.attack.name} takes {count} of them; give "
            "as many, [k, h, w, c]"
        )
    images = images if several else np.asarray(images[0])[None]
    checked = np.asarray(net.check_images(images, name, dark=dark))
    return checked if several else checked[0]


def _label(net: Network, plan: Plan, name: str, label: Any) -> int:
    output = plan.attack.output
    if output is None:
        raise AdvjaxError(f"{name} is {label!r}, but {net.name} names no output layer")
    classes = net.layers[output][-1]
    try:
        number = operator.index(label)
    except TypeError:
        number = -1
    if not 0 <= number < classes:
        raise AdvjaxError(f"{name} is {label}; {net.name} has the classes 0 to {classes - 1}")
    return number
