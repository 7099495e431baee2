"""Tables that a user writes, one row for each pair of images, from CSV, TSV and Parquet files."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from advjax.errors import AdvjaxError, UnknownName

SUFFIXES = (".csv", ".tsv", ".parquet")


def read_table(
    path: str | os.PathLike[str],
    name: str,
    columns: pa.Schema,
    required: Sequence[str],
    *,
    others: bool = False,
) -> pa.Table:
    r"""Read a table in a CSV, TSV or Parquet file; another suffix is read as CSV.

    Args:
        path: The file.
        name: The name of the argument, for errors.
        columns: The columns that the table may have, and their types. Empty fields are null.
        required: The names of those that it must have.
        others: Allow columns of other names, and leave them out.

    Returns:
        The known columns that are there, one row or more.

    Raises:
        UnknownName: A column of another name, unless `others`.
        AdvjaxError: A file that cannot be read, a missing column, no row, or a value of another
            type.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.tsv"
        >>> _ = path.write_text("source\tguide\na.png\tb.png\n")
        >>> columns = pa.schema([("source", pa.string()), ("guide", pa.string())])
        >>> read_table(path, "pairs", columns, columns.names).to_pylist()
        [{'source': 'a.png', 'guide': 'b.png'}]
    """
    path, where = Path(path), f"{name} {os.fspath(path)!r}"
    try:
        table = _read(path, columns)
        names = table.column_names
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise AdvjaxError(
            f"{where} cannot be read ({reason}); give a table with the columns "
            f"{', '.join(required)}"
        ) from error
    known = [column for column in names if column in columns.names]
    for column in names:
        if column not in known and not others:
            raise UnknownName(f"column of {where}", column, columns.names)
    for column in required:
        if column not in known:
            raise AdvjaxError(
                f"{where} has no column {column!r}; its columns must be {', '.join(required)}, and "
                f"may be {', '.join(c for c in columns.names if c not in required)}"
            )
    for column in known:
        if known.count(column) > 1:
            raise AdvjaxError(f"{where} has {known.count(column)} columns {column!r}; leave one")
    if len(table) == 0:
        raise AdvjaxError(f"{where} has no rows; give one for each pair")
    typed = {}
    for column in known:
        try:
            typed[column] = table[column].cast(columns.field(column).type).combine_chunks()
        except pa.ArrowException as error:
            raise AdvjaxError(f"column {column!r} of {where}: {error}; give such values") from error
    return pa.table(typed)


def _read(path: Path, columns: pa.Schema) -> pa.Table:
    if path.suffix.lower() == ".parquet":
        return pyarrow.parquet.read_table(path)
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(
            delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=columns, null_values=[""], strings_can_be_null=True
        ),
    )
