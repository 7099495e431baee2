"""All the figures of Sabour et al., section 4, of a set of results in one call, as a table."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from advjax.analysis.bank_rows import find_bank_rows
from advjax.analysis.from_files import Adversarial
from advjax.analysis.measure import Measurement, Result, measure
from advjax.analysis.protocol import Protocol
from advjax.analysis.summary import Analysis
from advjax.bank import Bank, open_bank
from advjax.data.units import to_levels
from advjax.display import progress_bar
from advjax.engine import AttackResult
from advjax.errors import AdvjaxError, whole
from advjax.networks.network import Network


def analyse(
    results: AttackResult | Iterable[Any],
    bank: Bank | str | os.PathLike[str],
    net: Network,
    sources: Any,
    guides: Any,
    *,
    layer: str | None = None,
    guide_ids: Sequence[str | None] | None = None,
    source_ids: Sequence[str | None] | None = None,
    guide_classes: Sequence[str | int | None] | None = None,
    source_classes: Sequence[str | int | None] | None = None,
    sparsity_layers: str | Sequence[str] | None = None,
    protocol: Protocol | None = None,
    batch_size: int = 32,
    progress: bool | None = False,
) -> Analysis:
    """Measure results as the paper does: distances, neighbours, manifold, sparsity, labels, image.

    The network may be another than the one attacked, and the layer another than the layer attacked.
    Results, sources and guides are taken a batch at a time, the bank a block at a time: memory on
    the device is constant, and on the host so too where they come as an iterator and as paths.

    A pair's own images are never its neighbours. They are recognised by id, never by distance:
    give the ids of those that are images of the bank. The statistics of other images stay the same.

    Args:
        results: The results of `advjax.attack` or `advjax.attack_stream`, any other `Adversarial`s,
            or images [n, h, w, c].
        bank: Of the same network, with the layer, and with labels.
        net: The network to measure in.
        sources: Images [n, h, w, c], or a sequence of images or of paths.
        guides: Likewise, one for each source.
        layer: The layer to measure; the network's default layer when None.
        guide_ids: For each guide its id in the bank (`bank.ids`), None where it is not in it.
        source_ids: For each source likewise.
        guide_classes: The class of each guide, by the bank's name or number; None: that of its id.
        source_classes: Of each source likewise; where there is none `pairwise_ratio` is NaN.
        sparsity_layers: Where units are counted; `layer` when None.
        protocol: The paper's numbers when None.
        batch_size: Pairs measured at once.
        progress: Show a bar; None: on a terminal and in a notebook.

    Returns:
        A row for each result, a row for each near or far neighbour, and their summary.

    Raises:
        AdvjaxError: Too few neighbours for the protocol, a guide without a class, or arguments
            that do not fit each other.
        BankError: A bank of another network or other weights, without labels, or damaged.
        UnknownName: A layer that the bank or the network does not have, or such a class.

    Example:
        >>> import tempfile
        >>> from advjax.bank import build_bank
        >>> from advjax.data import Preprocessing, write_png
        >>> folder, rng = tempfile.mkdtemp(), np.random.default_rng(0)
        >>> net = Network(lambda x: {"rows": x.mean(2).reshape(-1, 36)}, (12, 12, 3),
        ...               preprocessing=Preprocessing(crop=12))
        >>> images = rng.integers(0, 256, (60, 12, 12, 3)).astype(np.uint8)
        >>> for number, image in enumerate(images):
        ...     write_png(f"{folder}/photos/cats/{number:02}.png", image)
        >>> bank = build_bank(net, f"{folder}/photos", "rows", f"{folder}/bank", progress=False)
        >>> source, guide = images[:1], images[1:2]
        >>> analysis = analyse(guide, bank, net, source, guide,
        ...                 source_ids=["cats/00.png"], guide_ids=["cats/01.png"])
        >>> [float(analysis.table[name][0]) for name in ("ratio", "common", "delta_rank", "omega")]
        [0.0, 3.0, 0.0, 1.0]
    """
    protocol = Protocol() if protocol is None else protocol
    if whole(batch_size, 1) is None:
        raise AdvjaxError(f"batch_size is {batch_size!r}; give a number of pairs, 1 or more")
    layers = net.check_layers(layer)
    if len(layers) != 1:
        raise AdvjaxError(f"layer names {len(layers)} layers; give the one to measure")
    count = len(sources)
    if not count or len(guides) != count:
        raise AdvjaxError(
            f"sources has {count} images and guides has {len(guides)}; give one guide for each "
            "source, and at least one"
        )
    for name, images in (("sources", sources), ("guides", guides)):
        if isinstance(images, np.ndarray | jax.Array) and images.ndim == 4:
            net.check_images(images, name)
    bank = open_bank(bank.path if isinstance(bank, Bank) else bank, net)
    measurement = Measurement(
        net=net,
        bank=bank,
        layer=layers[0],
        features=bank.features(layers[0]),
        sparsity_layers=layers if sparsity_layers is None else net.check_layers(sparsity_layers),
        protocol=protocol,
        bank_rows=find_bank_rows(
            bank, count, guide_ids, source_ids, guide_classes, source_classes, protocol
        ),
        statistics={},
    )
    tables, points = [], []
    wanted = _adversarials(results, net, count)
    bar = progress_bar(progress, total=count, desc="measured", unit="pair")
    with bar:
        while batch := list(itertools.islice(wanted, min(batch_size, count))):
            table, neighbours = measure(measurement, batch, sources, guides, min(batch_size, count))
            tables.append(table)
            points.append(neighbours)
            bar.update(len(batch))
    if not tables:
        raise AdvjaxError("results is empty; give at least one")

    return Analysis(
        table=_stacked(tables),
        neighbours=_stacked(points),
        network=net.name,
        layer=measurement.layer,
        images=len(bank),
        protocol=dataclasses.asdict(protocol),
    )


def _adversarials(results: Any, net: Network, count: int) -> Iterator[Any]:
    """Yield the results one by one, checked: each with its index, its image and its 8-bit image."""
    if isinstance(results, AttackResult):
        _check_count(len(results), count)
    if isinstance(results, np.ndarray | jax.Array):
        images = net.check_images(results, "results")
        _check_count(len(images), count)
        for i in range(count):
            image = to_levels(images[i], net.bounds)
            yield Result(i, image, np.rint(image).astype(np.uint8), {})
        return
    seen = set()
    for one in results:
        if not all(hasattr(one, name) for name in Adversarial._fields):
            raise AdvjaxError(
                f"a result is a {type(one).__name__} without {', '.join(Adversarial._fields)}; "
                "give what advjax.attack gave, or images as an array"
            )
        index = int(one.index)
        if not 0 <= index < count or index in seen:
            raise AdvjaxError(
                f"results has index {index}{' twice' if index in seen else ''}, but there are "
                f"{count} sources and guides; give those of the same pairs, in the same order"
            )
        seen.add(index)
        pair = (np.asarray(one.adversarial)[None], np.asarray(one.adversarial_uint8)[None])
        images = [
            to_levels(
                net.check_images(image, f"adversarial of result {index}", dark=True), net.bounds
            )[0]
            for image in pair
        ]
        names = ("id", "delta", "evaluations", "status")  # a run's rows have the first two
        more = {name: getattr(one, name) for name in names if hasattr(one, name)}
        yield Result(index, images[0], images[1], more)


def _check_count(given: int, count: int) -> None:
    if given != count:
        raise AdvjaxError(
            f"results has {given} adversarials for {count} sources; give those of the same pairs"
        )


def _stacked(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
