"""The draw of pairs: sources, guides and their classes."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from advjax import files
from advjax.data.imagenet import imagenet_class_of
from advjax.errors import AdvjaxError
from advjax.runs.image_reader import TFDS
from advjax.runs.pair_list import COLUMNS, Images, PairList


class PairSet(NamedTuple):
    """Pairs in their order."""

    work: PairList
    sources: list[str]
    guides: list[str]
    source_classes: list[str | None]  # those of the training images, where it is one of them
    guide_classes: list[str | None]


def draw_pairs(
    sources: Images,
    guides: Images,
    classes: Sequence[str],
    *,
    pairs: int,
    source_count: int,
    guide_count: int,
    seed: int,
) -> PairSet:
    """Draw pairs of different classes: every guide once, with the sources in turn, and so on.

    Guides are spread over the classes. Of the sources every second one is of a class of the
    training images where there are such, for its distance to be compared with theirs.

    Args:
        sources: Where sources are drawn from.
        guides: Where guides are drawn from.
        classes: The classes of the training images.
        pairs: The number of pairs.
        source_count: Sources to draw; fewer where there are not as many.
        guide_count: Guides to draw, likewise.
        seed: Of the draw.

    Raises:
        AdvjaxError: There are not as many pairs.
    """
    rng = np.random.default_rng(seed)
    of_source = known_classes(sources, classes)
    of_guide = known_classes(guides, classes)
    known = set(classes)
    inside = [i for i, label in enumerate(of_source) if label in known]
    outside = [i for i, label in enumerate(of_source) if label not in known]
    rows = _in_turn([rng.permutation(inside), rng.permutation(outside)])[:source_count]
    members: dict[str | None, list[int]] = {}
    for i, label in enumerate(of_guide):
        members.setdefault(label, []).append(i)
    columns = _in_turn([rng.permutation(group) for group in members.values()])[:guide_count]
    chosen: list[tuple[int, int]] = []
    for turn in range(len(rows)):
        for place, guide in enumerate(columns):
            source = rows[(place + turn) % len(rows)]
            apart = of_source[source] is None or of_source[source] != of_guide[guide]
            if apart and sources.names[source] != guides.names[guide]:
                chosen.append((source, guide))
        if len(chosen) >= pairs:
            break
    if len(chosen) < pairs:
        raise AdvjaxError(
            f"pairs is {pairs:,}, but {len(rows)} sources and {len(columns)} guides make "
            f"{len(chosen):,} of different classes; give fewer, more images, or a larger "
            "source_count or guide_count"
        )
    chosen = chosen[:pairs]
    names = [sources.names[i] for i, _ in chosen], [guides.names[i] for _, i in chosen]
    return PairSet(
        _work(*names), *names, [of_source[i] for i, _ in chosen], [of_guide[i] for _, i in chosen]
    )


def known_classes(images: Images, classes: Sequence[str]) -> list[str | None]:
    """Return each image's class: its folder's name, or the one of `classes` with its WordNet id.

    Example:
        >>> known_classes(Images(["n01440764_tench.jpg"], [None]), ["n01440764"])
        ['n01440764']
    """
    known, numbers = set(classes), {imagenet_class_of(name): name for name in classes}
    result = []
    for name, label in zip(images.names, images.classes, strict=True):
        number = None if label in known or name.startswith(TFDS) else imagenet_class_of(name)
        result.append(label if number is None else numbers.get(number, label))
    return result


def pairs_csv(pairs: PairSet) -> str:
    """Return the pairs as a list that `advjax run` takes; `label` is the guide's class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "source", "guide", "label"])
    for row in pairs.work.table.to_pylist():
        label = pairs.guide_classes[int(row["id"])]
        table.writerow([row["id"], row["source"], row["guide"], label])
    return text.getvalue()


def write_pairs(path: Any, pairs: PairSet) -> None:
    """Write `pairs_csv`, atomically."""
    files.write_text(path, pairs_csv(pairs))


def _work(sources: list[str], guides: list[str]) -> PairList:
    given = {
        "id": [f"{i:04d}" for i in range(len(sources))],
        "source": sources,
        "guide": guides,
    }
    missing = [None] * len(sources)
    table = pa.table({f.name: pa.array(given.get(f.name, missing), f.type) for f in COLUMNS})
    return PairList(table, Path())


def _in_turn(groups: Sequence[np.ndarray]) -> list[int]:
    """Return one of each group, then a second of each, until all are empty."""
    longest = max((len(group) for group in groups), default=0)
    return [int(group[i]) for i in range(longest) for group in groups if i < len(group)]
