"""What every benchmark shares: rounds taken in turn, the machine's description, JSON and tables."""

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advjax import files

RESULTS = Path(__file__).parent / "results"
DATA = Path(
    os.environ.get("ADVJAX_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def ratio(seconds: Mapping[str, Sequence[float]], ours: str, peer: str) -> float:
    """The median over rounds of ours / peer."""
    return statistics.median(a / b for a, b in zip(seconds[ours], seconds[peer], strict=True))


def machine() -> dict[str, Any]:
    """The machine, versions and date, and the command."""
    from advjax import bench

    return {**bench.machine(), "command": " ".join(["python", *sys.argv])}


def save(name: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """Prints the rows as a table and writes them with the machine to results/NAME.json."""
    table(rows)
    path = RESULTS / f"{name}.json"
    record = {"machine": machine(), **more, "rows": list(rows)}
    files.write_text(path, json.dumps(record, indent=1) + "\n")
    print(f"written: {path}")
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows with the same keys as aligned columns."""

    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    head = list(rows[0])
    cells = [head, *([text(row[key]) for key in head] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def pairs(network: Any, count: int) -> tuple[Any, Any]:
    """Sources and guides from imagenet-1000, of different classes, spread over all of them."""
    import numpy as np

    import advjax
    from advjax.data import list_images

    folder = DATA / "imagenet-1000"
    if not folder.is_dir():
        sys.exit(f"{folder} is not here; set ADVJAX_TEST_DATA to a folder that has imagenet-1000")
    photographs = list_images(folder)
    order = np.random.default_rng(0).permutation(len(photographs))[: 2 * count]
    images = advjax.load_images([photographs[i] for i in order], network.preprocessing)
    return images[:count], images[count:]
