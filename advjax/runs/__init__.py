"""Runs of any number of pairs: durable, resumable, past one machine."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advjax.runs.reading import RunData


def open_run(path: str | os.PathLike[str]) -> "RunData":
    """Open the run that `advjax run --out PATH` wrote, finished or not; read nothing yet.

    Args:
        path: The run's directory.

    Returns:
        `table()` and `to_pandas()` give the rows, with `columns` and `filter`; `image(index)`
        decodes an adversarial; `settings`, `classes`, `dataset()`: see
        `advjax.runs.reading.RunData`.

    Raises:
        RunError: There is no run, or its manifest was edited.

    Example:
        `advjax.open_run("run").to_pandas(["id", "ratio"]).ratio.mean()`
    """
    from advjax.runs import reading

    return reading.open_run(path)
