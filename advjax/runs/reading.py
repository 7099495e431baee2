"""A run as data: rows as Arrow or pandas, images decoded when they are asked for."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8

from advjax.data.images import decode_image
from advjax.errors import UnknownName
from advjax.runs.directory import RunDirectory, RunError, by_schema, open_directory
from advjax.runs.history import sessions
from advjax.runs.image_reader import Reader
from advjax.runs.schema import SCHEMA

IMAGES = ("adversarial_png", "adversarial_float32")  # not read unless asked for
READ = 16  # images decoded at a time


@dataclasses.dataclass(frozen=True, eq=False)
class RunData:
    """The rows of a run, finished or not; nothing is read before it is asked for.

    `advjax.runs.schema.COLUMNS` says what each column is.

    Attributes:
        directory: The directory.
    """

    directory: RunDirectory

    @property
    def path(self) -> Path:
        """The directory."""
        return self.directory.path

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the attacks: network, layer, delta, solver, ..."""
        return self.directory.manifest["settings"]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the network's classes, for the columns that end in `_label`."""
        names = self.directory.manifest["classes"]
        return None if names is None else tuple(names)

    @property
    def pairs(self) -> int:
        """The number of pairs of the run; also the number of rows when it is finished."""
        return self.directory.manifest["pairs"]

    @property
    def history(self) -> list[dict[str, Any]]:
        """The sessions of the run: command, start, end, host, versions, files, ..."""
        return sessions(self.path)

    def __len__(self) -> int:
        """Return the number of rows so far."""
        return self.dataset().count_rows()

    def __repr__(self) -> str:
        """Describe the run in one line; no row is read for it."""
        known = self.settings
        what = f"{known['attack']} on {known['network']}"
        return f"RunData({str(self.path)!r}: {self.pairs:,} pairs, {what})"

    def dataset(self) -> ds.Dataset:
        """Return a `pyarrow.dataset` of the rows so far, for the caller's own filters and scans."""
        paths = [*self.directory.shards().values(), *self.directory.unfinished().values()]
        return ds.dataset([str(path) for path in paths], schema=self.schema, format="parquet")

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The columns of the rows: a run's, and after them the user's own of the pair list."""
        return pa.schema([*SCHEMA, *self.directory.own()])

    def table(self, columns: Sequence[str] | None = None, filter: Any = None) -> pa.Table:
        """Return rows as an Arrow table, in the order of the pair list.

        Args:
            columns: Their names; all but the images when None.
            filter: A `pyarrow.dataset` expression, such as `ds.field("ratio") < 0.2`.

        Raises:
            UnknownName: No such column.
        """
        known = self.schema.names
        names = [n for n in known if n not in IMAGES] if columns is None else list(columns)
        for name in names:
            if name not in known:
                raise UnknownName("column", name, known)
        read = list(dict.fromkeys([*names, "index"]))
        rows = self.dataset().to_table(columns=read, filter=filter)
        return rows.sort_by("index").select(names)

    def to_pandas(self, columns: Sequence[str] | None = None, filter: Any = None) -> Any:
        """Return `table` as a pandas data frame; needs pandas."""
        return self.table(columns, filter).to_pandas()

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield rows as dicts, shard by shard, in constant memory."""
        for path in [*self.directory.shards().values(), *self.directory.unfinished().values()]:
            names = None if columns is None else list(dict.fromkeys([*columns, "index"]))
            rows = by_schema(pq.read_table(path, columns=names), self.directory.own())
            yield from (rows if columns is None else rows.select(list(columns))).to_pylist()

    def adversarials(
        self, columns: Sequence[str] = ("index",), filter: Any = None
    ) -> Iterator[tuple[dict[str, Any], Float[np.ndarray, "h w c"], UInt8[np.ndarray, "h w c"]]]:
        """Yield, for each pair that was attacked, its columns, its adversarial and the rounded one.

        They come shard by shard, a few in memory at a time. The adversarial is the one before
        rounding if the run kept it.

        Args:
            columns: Names of columns.
            filter: A `pyarrow.dataset` expression.
        """
        shape = tuple(self.settings["input_shape"])
        wanted = ds.field("adversarial_png").is_valid()
        if filter is not None:
            wanted = wanted & filter
        for batch in self.dataset().to_batches(
            columns=[*columns, *IMAGES],
            filter=wanted,
            batch_size=READ,
            batch_readahead=1,
            fragment_readahead=1,
        ):
            png, exact = (batch[name] for name in IMAGES)
            for i, known in enumerate(batch.select(list(columns)).to_pylist()):
                rounded = decode_image(png[i].as_py(), f"adversarial of {known}", shape[-1])
                image = rounded.astype(np.float32)
                if exact[i].is_valid:
                    image = exact[i].values.to_numpy().reshape(shape)
                yield known, image, rounded

    def image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """Return the rounded adversarial of a pair.

        Raises:
            RunError: The pair has no row, or failed.
        """
        png = self._one(index, "adversarial_png")
        return decode_image(png, f"adversarial {index}", self.settings["input_shape"][-1])

    def image_float32(self, index: int) -> Float[np.ndarray, "h w c"]:
        """Return the adversarial of a pair before rounding, if the run kept it.

        Raises:
            RunError: It did not, or the pair failed.
        """
        flat = np.asarray(self._one(index, "adversarial_float32"), np.float32)
        return flat.reshape(self.settings["input_shape"])

    def reader(self, net: Any) -> Reader:
        """Return the function that reads the image named by a column source or guide for `net`."""
        return Reader(net, self.directory.manifest["root"])

    def _one(self, index: int, column: str) -> Any:
        rows = self.dataset().to_table(
            columns=[column, "error"], filter=ds.field("index") == int(index)
        )
        if not len(rows):
            raise RunError(f"pair {index} of {str(self.path)!r} has no row; see 'index'")
        (row,) = rows.to_pylist()
        if row[column] is None:
            raise RunError(f"pair {index} has no {column}: {row['error'] or 'it was not kept'}")
        return row[column]


def open_run(path: Any) -> RunData:
    """Open a run; see `advjax.open_run`."""
    directory = open_directory(path)
    if directory is None:
        raise RunError(f"{str(path)!r} holds no run; give the directory of 'advjax run --out'")
    return RunData(directory)
