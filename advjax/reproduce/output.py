"""A target's output: columns to CSV, rows beside the paper's numbers as Markdown."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from advjax.analysis.summary import write_table

DASH = "-"
Columns = Mapping[str, Any]  # arrays or lists of one length, by name


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """A target's tables, its numbers beside the paper's, and its figure.

    Attributes:
        tables: By what is added to the target's name; "" for the target's own table.
        beside: The numbers to be printed, rows as dicts, with the paper's among them.
        figure: A matplotlib figure, or None.
        words: A line below the table.
    """

    tables: Mapping[str, Columns]
    beside: Sequence[Mapping[str, Any]]
    figure: Any = None
    words: str = ""


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns; None for NaN and for what a row does not have.

    Example:
        >>> columns([{"a": 1}, {"a": 2, "b": 3}])
        {'a': [1, 2], 'b': [None, 3]}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_or_none(row.get(name)) for row in rows] for name in names}


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def headed(rows: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return rows with headings for people, where there are any.

    Example:
        >>> headed([{"layer": "fc7", "ratio": 0.5}], {"ratio": "mean ratio"})
        [{'layer': 'fc7', 'mean ratio': 0.5}]
    """
    return [{headings.get(name, name): value for name, value in row.items()} for row in rows]


def write_csv(path: Any, table: Columns) -> None:
    """Write columns as CSV, atomically."""
    import pyarrow

    write_table(path, pyarrow.table({name: _plain(values) for name, values in table.items()}))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, with a dash where there is nothing.

    Example:
        >>> print(markdown([{"layer": "fc7", "ratio": 0.1234, "paper": None}]))
        | layer | ratio | paper |
        |-------|-------|-------|
        | fc7   | 0.123 | -     |
    """
    table = columns(rows)
    texts = {name: [name, *map(shown, values)] for name, values in table.items()}
    width = {name: max(map(len, column)) for name, column in texts.items()}
    lines = []
    for i in range(len(rows) + 1):
        lines.append("| " + " | ".join(t[i].ljust(width[n]) for n, t in texts.items()) + " |")
        if not i:
            lines.append("|" + "|".join("-" * (w + 2) for w in width.values()) + "|")
    return "\n".join(lines)


def shown(value: Any) -> str:
    """Return a number with three significant digits, and text as it is.

    Example:
        >>> shown(0.00123), shown(-374.4), shown(659123.0), shown(20), shown(None), shown("a")
        ('0.00123', '-374', '659,000', '20', '-', 'a')
        >>> shown(1.234e-7)
        '1.23e-07'
    """
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return DASH
    if isinstance(value, float | np.floating):
        if not math.isfinite(value) or value == 0:
            return f"{value:g}"
        digits = 2 - math.floor(math.log10(abs(value)))
        if digits > 6:
            return f"{value:.3g}"
        value = round(float(value), digits)
        return (
            f"{value:,.0f}"
            if digits <= 0
            else f"{value:.{max(0, digits)}f}".rstrip("0").rstrip(".")
        )
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def percent(values: Any) -> float:
    """Return the percentage that is true."""
    return float(100 * np.mean(np.asarray(values)))


def standard_error(
    values: Any, statistic: Callable[..., Any] = np.mean, groups: Any = None
) -> float | None:
    """Return the standard error of a mean or another statistic; None of fewer than two groups.

    Of a mean it is the sample's deviation over the root of its size; of another statistic, or where
    values of one group depend on each other, the deviation over 500 bootstrap samples of groups
    (Efron, 1979), drawn with a fixed seed. NaN is left out.

    Args:
        values: Values [n].
        statistic: `np.mean` or `np.median`.
        groups: The group of each value [n]; each value is one of its own when None.

    Example:
        >>> round(standard_error([1.0, 2.0, 3.0, 4.0]), 4)
        0.6455
        >>> round(standard_error(np.arange(100.0), np.median), 1)
        4.7
    """
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    values = values[known]
    if groups is None and statistic is np.mean:
        return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    names = np.arange(len(values)) if groups is None else np.asarray(groups)[known]
    members = [values[names == name] for name in np.unique(names)]
    if len(members) < 2:
        return None
    draws = np.random.default_rng(0).integers(len(members), size=(500, len(members)))
    samples = [statistic(np.concatenate([members[i] for i in draw])) for draw in draws]
    return float(np.std(samples, ddof=1))


def plus_minus(value: Any, error: float | None) -> str:
    """Return a number with its standard error, as far as there is one.

    Example:
        >>> plus_minus(0.0965, 0.00831), plus_minus(100.0, 0.0), plus_minus(None, None)
        ('0.0965 ± 0.0083', '100', '-')
    """
    if value is None or not error:
        return shown(value)
    return f"{shown(value)} ± {shown(float(f'{error:.1e}'))}"


def with_errors(
    row: Mapping[str, Any], errors: Mapping[str, float | None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a row with its standard errors, for a table and to be printed.

    Example:
        >>> for each in with_errors({"layer": "fc7", "ratio": 0.1234}, {"ratio": 0.01}):
        ...     print(each)
        {'layer': 'fc7', 'ratio': 0.1234, 'ratio_error': 0.01}
        {'layer': 'fc7', 'ratio': '0.123 ± 0.01'}
    """
    kept = {**row, **{f"{name}_error": error for name, error in errors.items()}}
    printed = {**row, **{name: plus_minus(row[name], error) for name, error in errors.items()}}
    return kept, printed


def _plain(values: Any) -> Any:
    return values.tolist() if isinstance(values, np.ndarray) and values.dtype == object else values
