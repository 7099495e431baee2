"""The pair list of a run: its sources, each with a guide.

A list is an Arrow table with the columns `COLUMNS`. Images are named by paths, relative to the
list's root, or, of a tfds data set, as `tfds:NAME:SPLIT#FILE` (see `advjax.runs.image_reader`).
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int

from advjax.choices import Pairing
from advjax.data import tables
from advjax.data.images import list_images, name_of
from advjax.errors import AdvjaxError, UnknownName
from advjax.runs import schema
from advjax.runs.image_reader import TFDS, tfds_images

pc: Any = pyarrow.compute  # its functions are made when it is imported; type checkers see none

COLUMNS = pa.schema(
    [
        ("id", pa.string()),  # unique; the index in the list when not given
        ("source", pa.string()),
        ("guide", pa.string()),
        ("label", pa.string()),  # the user's own, to select rows by; null when not given
        ("layer", pa.string()),  # null: the run's own
        ("delta", pa.float64()),  # null: the run's own
    ]
)
MAX_PAIRS = 100_000_000  # of a list, all of which is held in memory
PAPER_SOURCES, PAPER_GUIDES = 20, 3000


@dataclasses.dataclass(frozen=True, eq=False)
class PairList:
    """Pairs in their order.

    Attributes:
        table: One row a pair, with the columns of `COLUMNS`, and after them the user's own.
        root: The folder that relative paths start from.
    """

    table: pa.Table
    root: Path

    def __len__(self) -> int:
        return len(self.table)

    def sha256(self) -> str:
        """Return the SHA-256 of the list's rows in hexadecimal digits, whatever file held them."""
        return self._sha256

    @functools.cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for name in self.table.column_names:
            for chunk in self.table[name].combine_chunks().to_pylist(), [name]:
                digest.update(json.dumps(chunk, default=str).encode())
        return digest.hexdigest()

    @property
    def own(self) -> list[pa.Field]:
        """The columns of the user's own, which the rows of a run carry."""
        return [field for field in self.table.schema if field.name not in COLUMNS.names]


@dataclasses.dataclass(frozen=True)
class Images:
    """Images from which pairs are made: their names, and the class of each, or None."""

    names: list[str]
    classes: list[str | None]


def make_pair_list(
    pairs: str,
    guides: str | None = None,
    *,
    pairing: Pairing = "all",
    count: int | None = None,
    seed: int = 0,
) -> PairList:
    r"""Make the pair list of `advjax run`'s arguments.

    Args:
        pairs: A .csv, .tsv or .parquet file with the columns source and guide, and optionally id,
            label, layer and delta; or the sources: a folder, or `tfds:NAME_OR_FOLDER:SPLIT`.
        guides: The guides, likewise; None: the sources themselves, of which two of one class (the
            first folder below, or the tfds label) make no pair.
        pairing: "all" sources with all guides; "paper": 20 random sources with 3,000 random guides
            (Sabour et al., section 4), fewer where there are not as many; "random": `count` pairs,
            all different.
        count: The number of pairs, for "random" alone.
        seed: The seed of "paper" and "random".

    Raises:
        AdvjaxError: Files or folders that cannot be read or make no pair.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.csv"
        >>> _ = path.write_text("source,guide,delta\na.png,b.png,5\n")
        >>> make_pair_list(str(path)).table.to_pylist()[0]["delta"]
        5.0
    """
    if pairing not in Pairing.__args__:
        raise UnknownName("pairing", pairing, Pairing.__args__)
    if (count is not None) != (pairing == "random"):
        raise AdvjaxError(
            f"count is {count} with pairing {pairing!r}; give a count with 'random', and only then"
        )
    if count is not None and count < 1:
        raise AdvjaxError(f"count is {count}; give 1 or more pairs")
    if guides is None and Path(pairs).suffix.lower() in tables.SUFFIXES:
        if pairing != "all":
            raise AdvjaxError(
                f"pairing {pairing!r} makes pairs of two folders; {pairs!r} lists them already"
            )
        return read_list(pairs)
    folders = [os.path.abspath(each) for each in (pairs, guides) if each and TFDS not in each[:5]]
    # Both are named from here, so that they may be moved, or written in another way, together.
    top = Path(os.path.commonpath(folders) if folders else "")
    sources = find_images(pairs, top)
    others = sources if guides is None else find_images(guides, top)
    rng = np.random.default_rng(seed)
    if pairing == "paper":
        sources = _some(sources, PAPER_SOURCES, rng)
        others = _some(others, PAPER_GUIDES, rng)
    apart = guides is None
    if pairing == "random":
        assert count is not None
        rows, columns = random_pairs(sources, others, count, rng, apart)
    else:
        rows, columns = all_pairs(sources, others, apart)
    if not len(rows):
        raise AdvjaxError(
            f"{pairs!r} with {guides or pairs!r} makes no pair: all images are the same, or of one "
            "class; give other guides"
        )
    names = pa.array(sources.names), pa.array(others.names)
    return PairList(_table(names[0].take(pa.array(rows)), names[1].take(pa.array(columns))), top)


def read_list(path: str | os.PathLike[str]) -> PairList:
    """Read a list in a CSV, TSV or Parquet file; relative paths start from the file's folder.

    Raises:
        AdvjaxError: A file that cannot be read, wrong columns, or a wrong value in a row.
    """
    path = Path(path)
    table = tables.read_table(path, "pairs", COLUMNS, ("source", "guide"), others=True)
    results = set(schema.COLUMNS) - set(COLUMNS.names)  # of an earlier run, say
    given = {
        f"list_{name}" if name in results else name: table[name].combine_chunks()
        for name in table.column_names
    }
    for name in ("source", "guide"):
        _check(path, name, pc.fill_null(pc.equal(given[name], ""), True), "is empty; name an image")
    if "delta" in given:
        delta = given["delta"]
        good = pc.and_(pc.is_finite(delta), pc.greater_equal(delta, 0.5))
        wrong = pc.and_(pc.is_valid(delta), pc.invert(good))
        _check(path, "delta", wrong, "is not a number of levels, .5 or more")
    if "id" in given:
        ids = given["id"]
        _check(path, "id", pc.is_null(ids), "is empty; leave the column out to have them numbered")
        twice, times = Counter(ids.to_pylist()).most_common(1)[0]
        if times > 1:
            raise AdvjaxError(
                f"id {twice!r} stands {times} times in {str(path)!r}; make them differ"
            )
    return PairList(_table(**given), path.parent)


def find_images(where: str, top: Path | None = None) -> Images:
    """Return the images of a folder or of a tfds data set.

    Args:
        where: The folder, or `tfds:NAME_OR_FOLDER:SPLIT`.
        top: Name the files relative to this folder, which is `where` or one around it; None: name
            them as `where` does.

    Raises:
        AdvjaxError: There are none.
    """
    if where.startswith(TFDS):
        return Images(*tfds_images(where))
    if Path(where).is_file():
        raise AdvjaxError(
            f"{where!r} is a file, neither .csv, .tsv nor .parquet; give a list of pairs, a folder "
            "of images or tfds:NAME:SPLIT"
        )
    folder = Path(where)
    paths = list_images(folder)
    parts = [path.relative_to(folder).parts for path in paths]
    first = folder if top is None else Path(os.path.relpath(folder, top))
    names = [name_of(first.joinpath(*part)) for part in parts]
    return Images(names, [name_of(part[0]) if len(part) > 1 else None for part in parts])


def all_pairs(
    sources: Images, guides: Images, apart: bool
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    """Return the rows and columns of every pair: each source with each guide but itself.

    Args:
        sources: The rows.
        guides: The columns.
        apart: Leave out the pairs of one class.
    """
    size = len(sources.names) * len(guides.names)
    if size > MAX_PAIRS:
        raise AdvjaxError(
            f"{len(sources.names):,} sources with {len(guides.names):,} guides are {size:,} pairs, "
            f"more than {MAX_PAIRS:,}; give pairing 'random' and a count, or smaller folders"
        )
    rows, columns = np.divmod(np.arange(size), len(guides.names))
    good = _allowed(sources, guides, apart)(rows, columns)
    return rows[good], columns[good]


def random_pairs(
    sources: Images, guides: Images, count: int, rng: np.random.Generator, apart: bool
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    """Return `count` pairs of those of `all_pairs`, all different, in random order."""
    allowed = _allowed(sources, guides, apart)
    size = len(sources.names) * len(guides.names)
    if size <= max(4 * count, 1_000_000):
        rows, columns = all_pairs(sources, guides, apart)
        if len(rows) < count:
            raise AdvjaxError(f"count is {count:,}, but there are only {len(rows):,} pairs")
        chosen = rng.permutation(len(rows))[:count]
        return rows[chosen], columns[chosen]
    # Drawn one after the other and kept when new: few of so many are drawn twice.
    kept = np.zeros(0, np.int64)
    while True:
        drawn = rng.integers(0, size, 2 * count)
        rows, columns = np.divmod(drawn, len(guides.names))
        drawn = np.concatenate([kept, drawn[allowed(rows, columns)]])
        kept = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:count]
        if len(kept) == count:
            rows, columns = np.divmod(kept, len(guides.names))
            return rows, columns


def _allowed(sources: Images, guides: Images, apart: bool):
    """Return a function of rows and columns that is True for the pairs that are allowed."""

    def numbers(left: Sequence[Any], right: Sequence[Any]):
        known = {name: number for number, name in enumerate(dict.fromkeys([*left, *right]))}
        return np.array([known[n] for n in left]), np.array([known[n] for n in right])

    left, right = numbers(sources.names, guides.names)
    classes = numbers(sources.classes, guides.classes)
    unknown = np.array([name is None for name in sources.classes], bool)

    def allowed(rows, columns):
        good = left[rows] != right[columns]
        if apart:
            good &= (classes[0][rows] != classes[1][columns]) | unknown[rows]
        return good

    return allowed


def _some(images: Images, count: int, rng: np.random.Generator) -> Images:
    """Return at most `count` of the images, drawn at random, in their order."""
    if len(images.names) <= count:
        return images
    chosen = np.sort(rng.permutation(len(images.names))[:count])
    return Images([images.names[i] for i in chosen], [images.classes[i] for i in chosen])


def _table(source: pa.Array, guide: pa.Array, **given: pa.Array) -> pa.Table:
    count = len(source)
    if "id" not in given:
        width = max(4, math.ceil(math.log10(max(count, 2))))
        given["id"] = pa.array([f"{i:0{width}d}" for i in range(count)])
    given |= {"source": source, "guide": guide}
    known = {f.name: given.pop(f.name, pa.nulls(count, f.type)) for f in COLUMNS}
    return pa.table(known | given)


def _check(path: Path, column: str, wrong: pa.Array, what: str) -> None:
    rows = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
    if len(rows):
        raise AdvjaxError(f"{column} of row {rows[0] + 1} of {str(path)!r} {what}")
