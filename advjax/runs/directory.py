"""The directory of a run: a manifest, the pair list, and Parquet shards that are whole or absent.

The pair list is cut into blocks, each of one layer; a shard holds one block's rows. It is written
under a temporary name, synced and renamed, and its name carries the beginning of its SHA-256. So a
file with a shard's name is whole, and later damage is detected. A shard's bytes depend on nothing
but its block: a run resumed any number of times leaves the same files as an undisturbed one.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from jaxtyping import Int

from advjax import files
from advjax.errors import AdvjaxError
from advjax.runs.history import HISTORY
from advjax.runs.pair_list import COLUMNS, PairList
from advjax.runs.schema import ERROR, SCHEMA

pc: Any = pyarrow.compute  # its functions are made when it is imported; type checkers see none

FORMAT = 1
MANIFEST, PAIRS, SHARDS, UNFINISHED, LOCK = (
    *("manifest.json", "pairs.parquet", "shards", "unfinished", ".lock"),
)
_SHARD = re.compile(r"part-(\d+)-([0-9a-f]{16})\.parquet")
_PARTIAL = re.compile(r"part-(\d+)\.parquet")


class RunError(AdvjaxError):
    """A run's directory that is damaged, in use, or another run's."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Pairs that share a shard: their indices in the pair list, and their layer."""

    number: int
    layer: str
    indices: Int[np.ndarray, "b"]


@dataclasses.dataclass(frozen=True, eq=False)
class RunDirectory:
    """A run's directory, opened.

    Attributes:
        path: The directory.
        manifest: The content of manifest.json: `settings` (a resumed run must have the same),
            `settings_sha256`, `pairs`, `classes`, `root`, `versions`, and its own `sha256`.
    """

    path: Path
    manifest: Mapping[str, Any]

    def pairs(self) -> PairList:
        """Read the pair list.

        Raises:
            RunError: It is not the one with which the run began.
        """
        try:
            table = pq.read_table(self.path / PAIRS)
            table.validate(full=True)
            pairs = PairList(table, Path(self.manifest["root"]))
            same = pairs.sha256() == self.manifest["settings"]["pairs"]
        except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{str(self.path / PAIRS)!r} cannot be read ({reason})") from error
        if not same:
            raise RunError(f"{str(self.path / PAIRS)!r} has been changed since the run began")
        return pairs

    def own(self) -> list[pa.Field]:
        """Return the user's own columns of the pair list; none where the list is not there."""
        try:
            schema = pq.read_schema(self.path / PAIRS)
            return [field for field in schema if field.name not in COLUMNS.names]
        except (OSError, UnicodeDecodeError, pa.ArrowException):
            return []

    def blocks(self, pairs: PairList) -> list[Block]:
        """Return the pair list cut into blocks; pairs that came later have blocks of their own."""
        settings = self.manifest["settings"]
        layers = pairs.table["layer"].fill_null(settings["layer"]).to_numpy(zero_copy_only=False)
        blocks: list[Block] = []
        ends = [*self.manifest.get("before", ()), len(pairs)]
        for begin, end in itertools.pairwise([0, *ends]):
            for block in cut(layers[begin:end], settings["shard_size"]):
                blocks.append(Block(len(blocks), block.layer, block.indices + begin))
        return blocks

    def shards(self) -> dict[int, Path]:
        """Return the path of each block's shard, where there is one."""
        paths: dict[int, Path] = {}
        for path in sorted(self.path.glob(f"{SHARDS}/part-*.parquet")):
            if match := _SHARD.fullmatch(path.name):
                paths[int(match[1])] = path
        return paths

    def unfinished(self) -> dict[int, Path]:
        """Return the path of each block's kept rows, for blocks without a shard."""
        whole = self.shards()
        paths = {}
        for path in sorted(self.path.glob(f"{UNFINISHED}/part-*.parquet")):
            if (match := _PARTIAL.fullmatch(path.name)) and int(match[1]) not in whole:
                paths[int(match[1])] = path
        return paths

    def known(self, block: int, *, failed: bool = True) -> pa.Table | None:
        """Return the rows of a block that are on disk, with or without those that failed.

        Raises:
            RunError: The shard is damaged.
        """
        rows = None
        if path := self._shard(block):
            rows = read_shard(path, self.own())
        else:
            # Not named by its content: it is replaced all the time. Parquet's own checksums serve,
            # and a damaged one is as none.
            with contextlib.suppress(OSError, pa.ArrowException):
                rows = _read(self._partial(block).read_bytes(), self.own())
        if rows is not None and not failed:
            rows = rows.filter(pc.not_equal(rows["status"], ERROR))
        return rows

    def keep(self, block: int, rows: pa.Table) -> None:
        """Write rows of a block that is not whole yet."""
        _write(self._partial(block), self._content(block, rows))

    def finish(self, block: int, rows: pa.Table) -> None:
        """Write a block's shard; one that is there already is replaced."""
        content = self._content(block, rows)
        name = f"part-{block:05d}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        old = self._shard(block)
        if old is not None and old.name == name:
            return
        if old is not None:
            # At no time are there two shards of a block, and at no time are its rows lost.
            self.keep(block, rows)
            old.unlink()
        _write(self.path / SHARDS / name, content)
        with contextlib.suppress(FileNotFoundError):
            self._partial(block).unlink()

    def _shard(self, block: int) -> Path | None:
        return next((self.path / SHARDS).glob(f"part-{block:05d}-*.parquet"), None)

    def _partial(self, block: int) -> Path:
        return self.path / UNFINISHED / f"part-{block:05d}.parquet"

    def _content(self, block: int, rows: pa.Table) -> bytes:
        # Sorted and in one piece: the bytes must not depend on the order in which the rows came.
        rows = rows.sort_by("index").combine_chunks()
        note = {"advjax.run": self.manifest["settings_sha256"], "advjax.block": str(block)}
        stream = io.BytesIO()
        write: Any = pq.write_table  # whose annotations leave out what it takes
        write(
            rows.replace_schema_metadata(note),
            stream,
            compression={
                name: "NONE" if name == "adversarial_png" else "ZSTD"
                for name in _leaves(rows.schema)
            },
            use_dictionary=["source", "guide", "layer", "status", "pair_label"],
            write_page_checksum=True,
        )
        return stream.getvalue()

    def clean(self) -> None:
        """Remove the files that killed processes left; see `files.remove_abandoned`."""
        for folder in (
            *(self.path, self.path / SHARDS, self.path / UNFINISHED, self.path / HISTORY),
        ):
            files.remove_abandoned(folder)
        whole = self.shards()
        for path in self.path.glob(f"{SHARDS}/part-*.parquet"):
            match = _SHARD.fullmatch(path.name)
            if match and whole[int(match[1])] != path:
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the directory of unfinished blocks when all are finished."""
        if len(self.shards()) == len(self.blocks(self.pairs())):
            shutil.rmtree(self.path / UNFINISHED, ignore_errors=True)


def cut(layers: np.ndarray, size: int) -> list[Block]:
    """Return blocks of at most `size` pairs, each of one layer, in the order of the list."""
    blocks = []
    for layer in dict.fromkeys(layers.tolist()):
        indices = np.flatnonzero(layers == layer)
        for begin in range(0, len(indices), size):
            blocks.append(Block(len(blocks), layer, indices[begin : begin + size]))
    return blocks


def read_shard(path: Path, own: Sequence[pa.Field] = ()) -> pa.Table:
    """Read the rows of a shard, with these columns of the user's own.

    Raises:
        RunError: Its bytes are not those that were written.
    """
    match = _SHARD.fullmatch(path.name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"shard {str(path)!r} cannot be read ({error.strerror})") from error
    if match is None or hashlib.sha256(content).hexdigest()[:16] != match[2]:
        raise RunError(
            f"shard {str(path)!r} is damaged: its content ({len(content):,} bytes) does not have "
            "the checksum in its name; delete it and give the run's command again"
        )
    return _read(content, own)


def create(
    path: Path, settings: Mapping[str, Any], info: Mapping[str, Any], pairs: PairList
) -> RunDirectory:
    """Create the directory of a new run.

    It must be absent, or hold nothing but what this function has written before it was interrupted.
    The pair list comes last: without it, and without rows, there is no run.

    Raises:
        RunError: It holds something else, which stays as it is.
    """
    _refuse_foreign(path)
    manifest = {
        "format": FORMAT,
        "settings": dict(settings),
        "settings_sha256": _digest({n: v for n, v in settings.items() if n != "pairs"}),
        "pairs": len(pairs),
        **info,
    }
    directory = _sign(path, manifest)
    with files.writing(path):
        (path / SHARDS).mkdir(exist_ok=True)
    _write_pairs(path, pairs)
    return directory


def go_on(
    directory: RunDirectory, settings: Mapping[str, Any], info: Mapping[str, Any], pairs: PairList
) -> RunDirectory:
    """Return the directory of a run that goes on with these settings and pairs.

    A list that begins with the run's own extends the run. The root of the images may be another.

    Raises:
        RunError: The settings or the pairs are another run's.
    """
    manifest = directory.manifest
    changed = _extension(directory, settings, pairs)
    check_same(directory, {**settings, **_as_before(directory, changed)}, pairs)
    if manifest["root"] != info["root"]:
        changed["root"] = info["root"]
    if changed:
        directory = _sign(directory.path, {**manifest, **changed})
    try:
        directory.pairs()
    except RunError:  # killed between the manifest and the list; or the file is gone
        _write_pairs(directory.path, pairs)
    return directory


def check_place(path: Path, settings: Mapping[str, Any], pairs: PairList) -> None:
    """Raise, before any work, what `create` or `go_on` would say, save of the network's weights.

    Raises:
        RunError: The directory holds something else, or a run with other settings or pairs.
    """
    directory = open_directory(path)
    if directory is None:
        _refuse_foreign(path)
        return
    changed = _extension(directory, settings, pairs)
    weights = {"weights": directory.manifest["settings"].get("weights")}
    check_same(directory, {**settings, **weights, **_as_before(directory, changed)}, pairs)


def _refuse_foreign(path: Path) -> None:
    there = path.iterdir() if path.is_dir() and not (path / MANIFEST).exists() else ()
    if any(not entry.name.startswith(".") for entry in there):
        raise RunError(f"out {str(path)!r} is not empty and holds no run; name a new directory")


def _extension(
    directory: RunDirectory, settings: Mapping[str, Any], pairs: PairList
) -> dict[str, Any]:
    """Return what a list that begins with the run's own changes in the manifest."""
    manifest = directory.manifest
    there, count = manifest["settings"], manifest["pairs"]
    if settings["pairs"] == there["pairs"] or len(pairs) <= count:
        return {}
    if PairList(pairs.table.slice(0, count), pairs.root).sha256() != there["pairs"]:
        return {}
    return {
        "settings": there | {"pairs": settings["pairs"]},
        "before": [*manifest.get("before", ()), count],
        "pairs": len(pairs),
    }


def _as_before(directory: RunDirectory, changed: Mapping[str, Any]) -> dict[str, Any]:
    return {"pairs": directory.manifest["settings"]["pairs"]} if changed else {}


def _sign(path: Path, manifest: Mapping[str, Any]) -> RunDirectory:
    """Write a manifest with its own checksum."""
    signed = {name: value for name, value in manifest.items() if name != "sha256"}
    signed["sha256"] = _digest(signed)
    _write(path / MANIFEST, (json.dumps(signed, indent=2) + "\n").encode())
    return RunDirectory(path, signed)


def _write_pairs(path: Path, pairs: PairList) -> None:
    stream = io.BytesIO()
    pq.write_table(pairs.table, stream, compression="ZSTD")
    _write(path / PAIRS, stream.getvalue())


def open_directory(path: str | os.PathLike[str]) -> RunDirectory | None:
    """Open the run in a directory; return None where there is none, or none that has begun.

    Raises:
        RunError: Its manifest is damaged or was edited, or another version's.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        signed = {name: value for name, value in manifest.items() if name != "sha256"}
        same = manifest["sha256"] == _digest(signed)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{str(path / MANIFEST)!r} cannot be read ({error})") from error
    if not same:
        raise RunError(
            f"{str(path / MANIFEST)!r} was edited or damaged: it does not have its own checksum; "
            "bring back the old one, or begin a run in another directory"
        )
    if not (isinstance(manifest["format"], int) and manifest["format"] <= FORMAT):
        raise RunError(
            f"run {str(path)!r} has format {manifest['format']!r}; this version reads {FORMAT} and "
            "older ones: install a newer advjax"
        )
    directory = RunDirectory(path, manifest)
    begun = (path / PAIRS).exists() or directory.shards() or directory.unfinished()
    return directory if begun else None


def check_same(
    directory: RunDirectory, settings: Mapping[str, Any], pairs: PairList | None = None
) -> None:
    """Refuse settings that differ from those of the run; the error names each.

    Raises:
        RunError: They differ.
    """
    there = directory.manifest["settings"]
    here = json.loads(json.dumps(dict(settings)))
    differ = []
    for name in dict.fromkeys([*there, *here]):
        if there.get(name) != here.get(name):
            if name == "pairs":
                differ.append(_other_pairs(directory, pairs))
            else:
                differ += _others(name, there.get(name), here.get(name))
    if differ:
        raise RunError(
            f"out {str(directory.path)!r} holds a run with other settings ({'; '.join(differ)}); "
            "give the same ones to go on with it, or another directory"
        )


def _others(name: str, there: Any, here: Any) -> list[str]:
    """Return in words how a setting differs, of those with parts the parts that do."""
    if name == "weights":  # two hashes, which tell nobody anything
        return ["the network's weights, or its mean, are others"]
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        if there.get("name") != here.get("name"):
            return _others(name, there.get("name"), here.get("name"))
        parts = dict.fromkeys([*there, *here])
        return [
            word
            for part in parts
            if there.get(part) != here.get(part)
            for word in _others(part, there.get(part), here.get(part))
        ]
    return [f"{name} {there!r} there, {here!r} here"]


def _other_pairs(directory: RunDirectory, pairs: PairList | None) -> str:
    """Return in words how a list of pairs differs from the run's."""
    count = directory.manifest["pairs"]
    if pairs is None:
        return "the pairs are others"
    try:
        known = directory.pairs().table
    except RunError:
        known = None
    if known is not None:
        if known.column_names != pairs.table.column_names:
            names = set(known.column_names) ^ set(pairs.table.column_names)
            return f"only one of the lists has the column {', '.join(sorted(names)) or 'order'}"
        size = min(len(known), len(pairs))
        rows = known.slice(0, size).to_pylist(), pairs.table.slice(0, size).to_pylist()
        first = next((i for i, (a, b) in enumerate(zip(*rows, strict=True)) if a != b), None)
        if first is not None:
            a, b = (row[first] for row in rows)
            name = next(name for name in a if a[name] != b[name])
            return f"pair {first} of the list has {name} {b[name]!r}, of the run {a[name]!r}"
    return f"the list has {len(pairs):,} pairs, the run {count:,}"


def verify(directory: RunDirectory) -> tuple[list[str], int, int]:
    """Return the faults of a run's files, its number of rows, and of failures among them."""
    wrong, rows, failed = [], 0, 0
    try:
        pairs = directory.pairs()
    except RunError as error:
        return [str(error)], 0, 0
    blocks = {block.number: block for block in directory.blocks(pairs)}
    seen: set[int] = set()
    for path in sorted(
        (directory.path / SHARDS).iterdir() if (directory.path / SHARDS).is_dir() else ()
    ):
        match = _SHARD.fullmatch(path.name)
        if match is None:
            if not path.name.startswith("."):
                wrong.append(f"{str(path)!r} is no shard of a run")
            continue
        try:
            table = read_shard(path)
        except RunError as error:
            wrong.append(str(error))
            continue
        number = int(match[1])
        block = blocks.get(number)
        note = table.schema.metadata or {}
        if note.get(b"advjax.run", b"").decode() != directory.manifest["settings_sha256"]:
            wrong.append(f"shard {str(path)!r} is of another run")
        elif block is None or not _are_rows_of(table, block, pairs):
            wrong.append(f"shard {str(path)!r} does not hold the pairs of its block")
        elif number in seen:
            wrong.append(f"shard {str(path)!r} is the second one of its block")
        else:
            rows += len(table)
            failed += count_failed(table)
        seen.add(number)
    for number, path in directory.unfinished().items():
        try:
            table = _read(path.read_bytes())
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            wrong.append(f"{str(path)!r} is damaged ({reason}); its pairs will be done again")
            continue
        if number in blocks and not set(table["index"].to_pylist()) <= set(
            blocks[number].indices.tolist()
        ):
            wrong.append(f"{str(path)!r} does not hold pairs of its block")
            continue
        rows += len(table)
        failed += count_failed(table)
    return wrong, rows, failed


def count_failed(rows: pa.Table) -> int:
    """Return the number of rows whose pair could not be attacked."""
    return pc.sum(pc.equal(rows["status"], ERROR)).as_py() or 0


def _are_rows_of(rows: pa.Table, block: Block, pairs: PairList) -> bool:
    ids = pairs.table["id"].take(pa.array(block.indices))
    return (
        rows["index"].to_pylist() == block.indices.tolist()
        and rows["id"].to_pylist() == ids.to_pylist()
    )


def _read(content: bytes, own: Sequence[pa.Field] = ()) -> pa.Table:
    try:
        rows = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        rows.validate(full=True)
        return by_schema(rows, own)
    except UnicodeDecodeError as error:  # of a column's name
        raise pa.ArrowInvalid(str(error)) from error


def by_schema(rows: pa.Table, own: Sequence[pa.Field] = ()) -> pa.Table:
    """Return the columns of the schema by their names, null where another version had none.

    After them come `own`, the columns of the user's own.

    Raises:
        pa.ArrowInvalid: The rows have no index, or a column of another type.
    """
    if "index" not in rows.column_names:
        raise pa.ArrowInvalid("its columns are not those of a run")
    fields = [*SCHEMA, *own]
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in fields
    ]
    return pa.table(columns, pa.schema(fields, rows.schema.metadata))


def _leaves(schema: pa.Schema) -> list[str]:
    """Return the names of Parquet's columns, for its writer."""
    return [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in schema
    ]


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_bytes(path, content)
    except AdvjaxError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
            raise RunError(
                f"cannot write {str(path)!r}: the disk is full; what is written stays, make room "
                "and give the same command again"
            ) from error
        raise
    with files.writing(path):
        files.sync_folder(path.parent)  # the new name, too, must outlive a power cut


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(content), sort_keys=True).encode()).hexdigest()


class Count(NamedTuple):
    """The number of rows in a file, and of failures among them."""

    rows: int
    failed: int


def count_rows(directory: RunDirectory) -> tuple[dict[int, Count], dict[int, Count]]:
    """Count the rows and failures of each shard, and of each unfinished block.

    Raises:
        RunError: A shard that is truncated.
    """

    def count(path: Path) -> Count:
        rows = pq.read_table(path, columns=["status"])
        return Count(len(rows), count_failed(rows))

    whole, partial = {}, {}
    for number, path in directory.shards().items():
        try:
            whole[number] = count(path)
        except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
            raise RunError(
                f"shard {str(path)!r} is damaged; delete it and give the run's command again "
                f"('advjax run --verify {directory.path}' finds all that are)"
            ) from error
    for number, path in directory.unfinished().items():
        with contextlib.suppress(OSError, pa.ArrowException, KeyError, UnicodeDecodeError):
            partial[number] = count(path)
    return whole, partial
