"""An analysis as tables: arrays by name, Arrow, pandas, files; and its summary in plain numbers."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advjax.display import without_nan
from advjax.errors import AdvjaxError
from advjax.files import atomic_path

SUFFIXES = (".parquet", ".csv")
TEXTS = ("pair", "status", "source_label", "guide_label", "label", "label_uint8")  # no quantities


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """The result of `advjax.analyse`.

    Attributes:
        table: A row for each pair, as arrays by name: `pandas.DataFrame(analysis.table)` and
            `pyarrow.table(analysis.table)` take it as it is. `docs/analysis.md` says what each
            column is.
        neighbours: A row for each near and each far neighbour of each pair, for Figure 4: pair,
            set ("near" or "far"), id, delta_l, omega.
        network: The network's name.
        layer: The layer measured.
        images: The number of images in the bank.
        protocol: The fields of `Protocol`.
    """

    table: dict[str, np.ndarray]
    neighbours: dict[str, np.ndarray]
    network: str
    layer: str
    images: int
    protocol: dict[str, Any]

    def __len__(self) -> int:
        return len(self.table["pair"])

    def __repr__(self) -> str:
        """Describe the analysis in one line."""
        where = f"{self.layer} of {self.network}"
        return f"Analysis({len(self):,} pairs at {where}, beside {self.images:,} images)"

    @property
    def summary(self) -> dict[str, Any]:
        """Return mean, median, minimum and maximum of each column, and the paper's tables.

        `table_1`: percent of pairs with all and with all but one neighbour in common; median,
        minimum and maximum of delta r. `table_2`: for each layer delta S and I/U, mean percent.
        `labels`: fractions of pairs. NaN is left out; a column of nothing else is None. Infinite
        values are left out and counted, as `infinite`. All values can be written as JSON.
        """
        t = self.table
        columns = {
            name: _spread(values) for name, values in t.items() if _is_quantity(name, values)
        }
        k = self.protocol["neighbours"]
        rank = columns["delta_rank"]
        layers = [
            name[len("active_change[") : -1] for name in t if name.startswith("active_change")
        ]

        def percent(values: np.ndarray) -> float:
            return float(100 * np.mean(values))

        return {
            "pairs": len(self),
            "network": self.network,
            "layer": self.layer,
            "images": self.images,
            "protocol": self.protocol,
            "columns": columns,
            "table_1": {
                "all_common": percent(t["common"] == k),
                "all_but_one_common": percent(t["common"] >= k - 1),
                "delta_rank_median": rank and rank["median"],
                "delta_rank_minimum": rank and rank["minimum"],
                "delta_rank_maximum": rank and rank["maximum"],
            },
            "table_2": {
                name: {
                    "active_change": percent(t[f"active_change[{name}]"]),
                    "active_overlap": percent(t[f"active_overlap[{name}]"]),
                }
                for name in layers
            },
            "labels": {
                name: float(np.mean(values))
                for name, values in t.items()
                if name.startswith(("takes_", "leaves_"))
            },
        }

    def describe(self) -> str:
        """Return the summary as lines of text."""
        s = self.summary
        k = self.protocol["neighbours"]
        lines = [
            f"{len(self)} pairs at {self.layer} of {self.network}, bank of {self.images} images",
            f"{'':34}{'mean':>11}{'median':>11}{'minimum':>11}{'maximum':>11}",
        ]
        for name, values in s["columns"].items():
            if values is not None:
                left_out = values.pop("infinite", 0)
                numbers = "".join(
                    f"{'-':>11}" if value is None else f"{value:11.4g}" for value in values.values()
                )
                note = f"  of the finite ones; {left_out} infinite" if left_out else ""
                lines.append(f"{name:34}{numbers}{note}")
        first = s["table_1"]
        lines.append(
            f"of {k} nearest neighbours all in common {first['all_common']:.0f} %, at least "
            f"{k - 1} {first['all_but_one_common']:.0f} %, median delta r{k} "
            f"{first['delta_rank_median']:.2f}"
        )
        for name, values in s["table_2"].items():
            lines.append(
                f"active units at {name}: change {values['active_change']:.1f} %, I/U "
                f"{values['active_overlap']:.1f} %"
            )
        if s["labels"]:
            fractions = (f"{name} {value:.0%}" for name, value in s["labels"].items())
            lines.append(", ".join(fractions))
        return "\n".join(lines)

    def to_arrow(self) -> Any:
        """Return the table as a `pyarrow.Table` with the summary as metadata "advjax"."""
        import pyarrow

        note = json.dumps(self.summary).encode()
        return pyarrow.table(_columns(self.table)).replace_schema_metadata({"advjax": note})

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`.

        Raises:
            AdvjaxError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise AdvjaxError(
                "to_pandas needs pandas: run pip install pandas, or take to_arrow"
            ) from None
        return pandas.DataFrame(self.table)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as `.parquet` (with the summary) or `.csv`, atomically.

        Raises:
            AdvjaxError: Another suffix, or a place that cannot be written.
        """
        write_table(path, self.to_arrow())

    def write_neighbours(self, path: str | os.PathLike[str]) -> None:
        """Write `neighbours` likewise."""
        import pyarrow

        write_table(path, pyarrow.table(_columns(self.neighbours)))


def write_table(path: str | os.PathLike[str], table: Any) -> None:
    """Write an Arrow table in the format of the suffix."""
    check_suffix(path)
    with atomic_path(path) as temporary:
        if Path(path).suffix == ".csv":
            from pyarrow import csv

            csv.write_csv(table, temporary)
        else:
            from pyarrow import parquet

            parquet.write_table(table, temporary)


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise AdvjaxError, before the work, for a file that no table can be written to."""
    if Path(path).suffix not in SUFFIXES:
        raise AdvjaxError(f"out is {str(path)!r}; name a {' or '.join(SUFFIXES)} file")


def _columns(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    # Text as a list: Arrow takes an empty column of objects for one of nulls.
    return {name: list(v) if v.dtype == object else v for name, v in table.items()}


def _is_quantity(name: str, values: np.ndarray) -> bool:
    return values.dtype.kind in "fiu" and name not in TEXTS


def _spread(values: np.ndarray) -> dict[str, Any] | None:
    """Return mean, median, minimum and maximum of the finite values.

    Infinite ones, such as the PSNR of a pair that did not change, are counted; JSON has none.
    """
    values = without_nan(values)
    if not len(values):
        return None
    finite = values[np.isfinite(values)]
    measures = {"mean": np.mean, "median": np.median, "minimum": np.min, "maximum": np.max}
    spread: dict[str, Any] = {
        name: float(measure(finite)) if len(finite) else None for name, measure in measures.items()
    }
    return spread | ({"infinite": len(values) - len(finite)} if len(finite) < len(values) else {})
