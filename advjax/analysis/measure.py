"""A batch of results measured: section 4 of Sabour et al., a figure a function."""

import functools
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from advjax import metrics
from advjax.analysis.bank_rows import BankRows
from advjax.analysis.protocol import Protocol
from advjax.bank import Bank
from advjax.data.units import to_levels
from advjax.metrics.image import RADIUS
from advjax.metrics.neighbours import MEMORY, power_of_two
from advjax.networks.network import Network

SAME = 1e-5  # of a guide's length: features of one image are rounded otherwise in another batch


class Result(NamedTuple):
    """One result, checked, its images in levels of 255."""

    index: int
    adversarial: np.ndarray
    adversarial_uint8: np.ndarray
    more: dict[str, Any]  # columns that come with it


class Measurement(NamedTuple):
    """The network, bank and numbers that all batches share."""

    net: Network
    bank: Bank
    layer: str
    features: Float[np.ndarray, "images d"]
    sparsity_layers: tuple[str, ...]
    protocol: Protocol
    bank_rows: BankRows
    statistics: dict[int, metrics.ClassStatistics]  # of the classes met so far

    def of_class(self, label: int) -> metrics.ClassStatistics:
        """Return the statistics of a class, computed once."""
        if label not in self.statistics:
            self.statistics[label] = metrics.class_statistics(
                self.features, self.protocol.neighbours, rows=self.bank.rows(label)
            )
        return self.statistics[label]


def measure(
    measurement: Measurement, batch: list[Result], sources: Any, guides: Any, size: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Measure up to `size` pairs: return their rows, and those of their near and far neighbours."""
    net, layer, real = measurement.net, measurement.layer, len(batch)
    index = np.array([one.index for one in batch])
    # Filled up with the last pair, so that a short batch needs no program of its own.
    filled = np.minimum(np.arange(size), real - 1)
    images = {
        "source": _images(net, sources, index, "source")[filled],
        "guide": _images(net, guides, index, "guide")[filled],
        "adversarial": np.stack([one.adversarial for one in batch])[filled],
        "adversarial_uint8": np.stack([one.adversarial_uint8 for one in batch])[filled],
    }
    output = () if net.output is None else (net.output,)
    wanted = tuple(dict.fromkeys((layer, *measurement.sparsity_layers, *output)))
    flat: dict[str, Array] = {}
    labels: dict[str, Array] = {}
    active: dict[str, dict[str, Array]] = {}
    for name, each in images.items():
        activations = net.in_levels.compute(each, wanted)
        flat[name] = activations[layer].reshape(size, -1)
        if net.output is not None:
            labels[name] = metrics.top_label(activations[net.output].reshape(size, -1))
        if name in ("source", "adversarial"):
            active[name] = {each: activations[each] for each in measurement.sparsity_layers}

    features = {name: np.asarray(flat[name])[:real] for name in ("guide", "adversarial")}
    points = _manifold(measurement, index, **features)
    with jax.debug_nans(False):  # NaN is where there is no figure
        figures = _distances(*flat.values(), _spreads(measurement, index[filled]))._asdict()
    for name in measurement.sparsity_layers:
        counts = _activity(active["adversarial"][name], active["source"][name])
        figures |= {f"{key}[{name}]": value for key, value in counts.items()}
    if labels:
        figures |= _labels(**labels)
    with jax.debug_nans(False):
        figures |= _visibility(*(np.asarray(images.pop(name), np.float32) for name in _SHOWN))
    table = _names(measurement, index)
    for name in batch[0].more:
        values = [one.more[name] for one in batch]
        kind = {"id": object, "delta": np.float64}.get(name, np.int64)
        table[name] = np.array(values, kind)
    table |= {name: np.asarray(value)[:real] for name, value in figures.items()}
    table |= _neighbourhoods(measurement, index, **features)
    table |= _means(measurement.protocol, points)
    return table, _long(measurement, index, points)


_SHOWN = ("source", "adversarial", "adversarial_uint8")


def _images(net: Network, images: Any, index: np.ndarray, name: str) -> np.ndarray:
    chosen = []
    for i in index.tolist():
        image = images[i]
        if isinstance(image, (str, os.PathLike)):
            image = net.read(image)
        # That they are not in 0..1 was checked of all together, where they are an array.
        dark = isinstance(images, np.ndarray | jax.Array)
        checked = net.check_images(np.asarray(image)[None], f"{name} {i}", dark=dark)
        chosen.append(to_levels(checked, net.bounds)[0])
    return np.stack(chosen)


def _names(measurement: Measurement, index: np.ndarray) -> dict[str, np.ndarray]:
    """Return the pairs' ids and classes as text, empty where there is none."""
    bank, bank_rows = measurement.bank, measurement.bank_rows

    def name(names: Sequence[str], numbers: np.ndarray) -> np.ndarray:
        return np.array(["" if i < 0 else names[i] for i in numbers[index].tolist()], object)

    return {
        "pair": index,
        "source_id": name(bank.ids, bank_rows.source_row),
        "guide_id": name(bank.ids, bank_rows.guide_row),
        "source_class": name(bank.classes, bank_rows.source_class),
        "guide_class": name(bank.classes, bank_rows.guide_class),
    }


def _spreads(measurement: Measurement, index: np.ndarray) -> Float[np.ndarray, "2 b"]:
    """Return mean nearest distances in the guides' classes, mean pairwise ones in the sources'."""
    spread = np.full((2, len(index)), np.nan, np.float32)
    for row, i in enumerate(index):
        spread[0, row] = measurement.of_class(
            int(measurement.bank_rows.guide_class[i])
        ).mean_nearest
        if (label := int(measurement.bank_rows.source_class[i])) >= 0:
            spread[1, row] = measurement.of_class(label).mean_pairwise
    return spread


def _neighbourhoods(
    measurement: Measurement, index: np.ndarray, guide: np.ndarray, adversarial: np.ndarray
) -> dict[str, np.ndarray]:
    """Return common neighbours and ranks in the guides' classes, class by class."""
    bank_rows, bank = measurement.bank_rows, measurement.bank
    figures = {name: np.full(len(index), np.nan) for name in metrics.Neighbourhood._fields}
    for label, mine, filled in _by_class(bank_rows.guide_class[index]):
        b, rows, own = len(filled), bank.rows(label), bank_rows.own(index[filled])
        near = metrics.knn_blocks(
            np.concatenate([adversarial[filled], guide[filled]]),
            measurement.features,
            measurement.protocol.neighbours,
            rows=rows,
            exclude=np.concatenate([own, own]),
        )
        of_a = metrics.Neighbours(near.distances[:b], near.indices[:b])
        of_g = metrics.Neighbours(near.distances[b:], near.indices[b:])
        nearest = np.asarray(of_g.distances)[: len(mine), 0]
        rounding = SAME * np.linalg.norm(guide[mine].reshape(len(mine), -1), axis=1)
        for row in np.flatnonzero(nearest <= rounding):
            warnings.warn(
                f"guide {index[mine[row]]} is as {bank.ids[of_g.indices[row, 0]]!r} of the "
                "bank to the network, and has it as a neighbour; if it is that image, say so in "
                "guide_ids",
                stacklevel=4,
            )
        # Their rows within the class; images of other classes have none.
        within = np.searchsorted(rows, own).clip(max=len(rows) - 1)
        within = np.where(rows[within] == own, within, -1)
        scores = measurement.of_class(label).scores
        compared = metrics.compare_neighbours(of_a, of_g, scores, within)
        for name, value in compared._asdict().items():
            figures[name][mine] = np.asarray(value)[: len(mine)]
    return figures | {"common": figures["common"].astype(np.int32)}


def _by_class(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield each class, its pairs within the batch, and these filled up to share programs."""
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        yield int(label), mine, np.resize(mine, power_of_two(len(mine)))


def _manifold(
    measurement: Measurement, index: np.ndarray, guide: np.ndarray, adversarial: np.ndarray
) -> dict[str, np.ndarray]:
    """Return both figures of section 4.2 [b, 1 + near + far], the adversarial first, and rows."""
    protocol = measurement.protocol
    nearest = _nearest(measurement, index, guide)
    key = jax.random.key(protocol.seed)
    # Seeded by the pair's index, as the engine's starting points: batches do not matter.
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))
    sets = metrics.reference_sets(
        nearest, keys, near=protocol.near, reference=protocol.reference, far=protocol.far
    )
    rows = np.concatenate([np.asarray(part) for part in sets], 1)
    # The points, their centred copies and residuals: some five times the rows themselves.
    each = 5 * 4 * measurement.features.shape[1] * (rows.shape[1] + 2)
    chunk = max(1, min(len(index), MEMORY // each))
    chunks = []
    for start in range(0, len(index), chunk):
        part = np.minimum(np.arange(start, start + chunk), len(index) - 1)
        reference, others = np.split(measurement.features[rows[part]], [protocol.reference], 1)
        points = np.concatenate([adversarial[part][:, None], others], 1)
        with jax.debug_nans(False):
            chunks.append(_inliers(reference, points, guide[part], protocol.components))
    delta_l, omega = (np.concatenate(parts)[: len(index)] for parts in zip(*chunks, strict=True))
    return {"delta_l": delta_l, "omega": omega, "row": rows[:, protocol.reference :]}


def _nearest(measurement: Measurement, index: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Return the guides' neighbours by cosine distance, in the bank or in their classes."""
    protocol, bank_rows = measurement.protocol, measurement.bank_rows
    nearest = np.zeros((len(index), protocol.far[1]), np.int32)
    everywhere = protocol.within == "bank"
    labels = np.zeros_like(index) if everywhere else bank_rows.guide_class[index]
    for label, mine, filled in _by_class(labels):
        nearest[mine] = metrics.knn_blocks(
            guide[filled],
            measurement.features,
            protocol.far[1],
            metric="cosine",
            rows=None if everywhere else measurement.bank.rows(label),
            exclude=bank_rows.own(index[filled]),
        ).indices[: len(mine)]
    return nearest


def _means(protocol: Protocol, points: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the adversarials' own figures, and the means of their near and far neighbours'."""
    table = {}
    near = 1 + protocol.near - protocol.reference
    for name in ("delta_l", "omega"):
        each = points[name]
        table[name] = each[:, 0]
        for which, others in (("near", each[:, 1:near]), ("far", each[:, near:])):
            # Nobody is left where the reference is all of the near ones.
            nobody = np.full(len(each), np.nan, np.float32)
            table[f"{which}_{name}"] = others.mean(1) if others.shape[1] else nobody
    return table


def _long(
    measurement: Measurement, index: np.ndarray, points: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return a row for each near and far neighbour of each pair."""
    b, others = points["row"].shape
    near = measurement.protocol.near - measurement.protocol.reference
    ids = [measurement.bank.ids[row] for row in points["row"].reshape(-1).tolist()]
    return {
        "pair": np.repeat(index, others),
        "set": np.tile(np.array(["near"] * near + ["far"] * (others - near), object), b),
        "id": np.array(ids, object),
        "delta_l": points["delta_l"][:, 1:].reshape(-1),
        "omega": points["omega"][:, 1:].reshape(-1),
    }


class Distances(NamedTuple):
    """The three ratios of section 4.1, the distances they are made of, and cosines."""

    initial_distance: Float[Array, "b"]  # of source and guide
    distance: Float[Array, "b"]  # of adversarial and guide
    distance_uint8: Float[Array, "b"]
    ratio: Float[Array, "b"]
    ratio_uint8: Float[Array, "b"]
    nearest_ratio: Float[Array, "b"]
    pairwise_ratio: Float[Array, "b"]
    initial_cosine: Float[Array, "b"]  # of source and guide
    cosine: Float[Array, "b"]  # of adversarial and guide
    cosine_uint8: Float[Array, "b"]


@jax.jit
def _distances(source, guide, adversarial, adversarial_uint8, spreads) -> Distances:
    nearest, pairwise = spreads
    return Distances(
        initial_distance=metrics.euclidean(source, guide),
        distance=metrics.euclidean(adversarial, guide),
        distance_uint8=metrics.euclidean(adversarial_uint8, guide),
        ratio=metrics.distance_ratio(adversarial, source, guide),
        ratio_uint8=metrics.distance_ratio(adversarial_uint8, source, guide),
        nearest_ratio=metrics.nearest_ratio(adversarial, guide, nearest),
        pairwise_ratio=metrics.pairwise_ratio(adversarial, source, pairwise),
        initial_cosine=metrics.cosine(source, guide),
        cosine=metrics.cosine(adversarial, guide),
        cosine_uint8=metrics.cosine(adversarial_uint8, guide),
    )


@functools.partial(jax.jit, static_argnums=3)
def _inliers(reference, points, guide, components: int) -> tuple[Array, Array]:
    """Return L(x) - L(g) and Omega(x, g) of points beside their guides (section 4.2)."""
    model = metrics.fit_ppca(reference, components)
    return (
        metrics.delta_log_likelihood(model, points, guide),
        metrics.angular_consistency(points, guide, reference),
    )


@jax.jit
def _activity(adversarial, source):
    return {
        "active_source": metrics.active_share(source),
        "active_change": metrics.active_change(adversarial, source),
        "active_overlap": metrics.active_overlap(adversarial, source),
    }


def _labels(source, guide, adversarial, adversarial_uint8) -> dict[str, Array]:
    table = {"source_label": source, "guide_label": guide}
    for suffix, label in (("", adversarial), ("_uint8", adversarial_uint8)):
        table |= {
            f"label{suffix}": label,
            f"takes_guide_label{suffix}": metrics.takes_label(label, guide),
            f"leaves_source_label{suffix}": metrics.leaves_label(label, source),
        }
    return table


@jax.jit
def _visibility(source, adversarial, adversarial_uint8):
    """Return image quality, before and after rounding."""
    table = {}
    for suffix, image in (("", adversarial), ("_uint8", adversarial_uint8)):
        for measure in (metrics.max_change, metrics.mean_change, metrics.psnr, metrics.ssim):
            small = measure is metrics.ssim and min(source.shape[1:3]) <= 2 * RADIUS
            nothing = jnp.full(len(source), math.nan)
            table[measure.__name__ + suffix] = nothing if small else measure(image, source)
    return table
