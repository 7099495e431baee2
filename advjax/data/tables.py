"""Tables that a user writes, one row for each pair of images, from CSV, TSV and Parquet files."""

import codecs
import difflib
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from advjax.errors import AdvjaxError, AdvjaxWarning

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

    Text is UTF-8, or UTF-16 with a byte order mark. The index that pandas writes is left out.

    Args:
        path: The file.
        name: The name of the argument, for errors.
        columns: The columns that the table may have, and their types. Empty fields are null.
        required: The names of those that it must have.
        others: Keep columns of other names, after the known ones; those of text files as text.

    Returns:
        The columns, one row or more.

    Raises:
        AdvjaxError: A file that cannot be read, a missing column, two of one name, no row, or a
            value of another type.

    Warns:
        AdvjaxWarning: A column whose name is nearly a known one.

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
        names = [column for column in table.column_names if not _INDEX.fullmatch(column)]
    except UnicodeDecodeError as error:
        raise AdvjaxError(f"{where} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise AdvjaxError(
            f"{where} cannot be read ({reason}); give a table with the columns "
            f"{', '.join(required)}"
        ) from error
    known = [column for column in names if column in columns.names]
    for column in required:
        if column not in known:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"; is it {near[0]!r}?" if near else ""
            for separator, word in _SEPARATORS.items():
                if any(column in other.split(separator) for other in names):
                    hint = f": its columns are separated by {word}; save it with commas"
            raise AdvjaxError(
                f"{where} has no column {column!r}{hint}; its columns must be "
                f"{', '.join(required)}, and may be "
                f"{', '.join(c for c in columns.names if c not in required)}"
            )
    kept = [*known, *(column for column in names if others and column not in known)]
    for column in kept:
        if kept.count(column) > 1:
            raise AdvjaxError(f"{where} has {kept.count(column)} columns {column!r}; leave one")
    if len(table) == 0:
        raise AdvjaxError(f"{where} has no rows; give one for each pair")
    typed = {}
    for column in kept:
        values = table[column]
        if column not in known:
            near = difflib.get_close_matches(column, columns.names, n=1, cutoff=0.75)
            if near and near[0] not in known:
                warnings.warn(
                    f"{where}: column {column!r} is the user's own; did you mean {near[0]!r}?",
                    AdvjaxWarning,
                    stacklevel=3,
                )
            typed[column] = _plain(values)
            continue
        try:
            typed[column] = values.cast(columns.field(column).type).combine_chunks()
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise AdvjaxError(
                f"column {column!r} of {where}: {reason}; give such values"
            ) from error
    return pa.table(typed)


def _plain(values: pa.ChunkedArray) -> pa.Array:
    """Return a user's column in one piece: categories by their values, nested ones as JSON."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
    elif pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        texts = [None if v is None else json.dumps(v, default=str) for v in values.to_pylist()]
        return pa.array(texts, pa.string())
    return values.combine_chunks()


# What pandas calls an index without a name: in Parquet, in CSV, and in CSV that it has read again.
_INDEX = re.compile(r"__index_level_\d+__||Unnamed: \d+")
_SEPARATORS = {";": "semicolons", "\t": "tabs (name it .tsv)", "|": "bars"}


def _read(path: Path, columns: pa.Schema) -> pa.Table:
    with open(path, "rb") as file:  # not by Arrow, to whom a path must be UTF-8
        if path.suffix.lower() == ".parquet":
            # As a file, not a data set: columns of one name are then for us to report.
            table = pyarrow.parquet.ParquetFile(file).read()
            table.validate(full=True)  # text that is not UTF-8, say
            return table
        content = file.read()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16").encode()
    else:
        content.decode()
    if b"\0" in content:
        raise pa.ArrowInvalid("it holds zero bytes: save it as UTF-8")
    parse = pyarrow.csv.ParseOptions(
        delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
    )
    # Text unless another type is known: 007 is not 7.
    names = pyarrow.csv.open_csv(pa.BufferReader(content), parse_options=parse).schema.names
    types = {name: pa.string() for name in names} | dict(
        zip(columns.names, columns.types, strict=True)
    )
    return pyarrow.csv.read_csv(
        pa.BufferReader(content),
        parse_options=parse,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True
        ),
    )
