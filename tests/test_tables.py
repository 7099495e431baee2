import pyarrow as pa
import pyarrow.parquet
import pytest

from advjax.data.tables import read_table
from advjax.errors import AdvjaxError, UnknownName

COLUMNS = pa.schema([("source", pa.string()), ("guide", pa.string()), ("delta", pa.float64())])
ROWS = [{"source": "a, b.png", "guide": "c\nd.png", "delta": 1.0}, {"source": "007", "guide": None}]


def read(path, text=None, **options):
    if text is not None:
        path.write_bytes(text.encode())
    return read_table(path, "pairs", COLUMNS, ("source", "guide"), **options)


def test_a_table_is_the_same_in_every_format(tmp_path):
    expected = pa.Table.from_pylist(ROWS, COLUMNS)
    quoted = 'source{0}guide{0}delta\n"a, b.png"{0}"c\nd.png"{0}1\n\n007{0}{0}\n'
    pyarrow.parquet.write_table(expected, tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == expected
    assert read(tmp_path / "t.csv", quoted.format(",")) == expected
    assert read(tmp_path / "t.tsv", quoted.format("\t")) == expected
    assert (
        read(tmp_path / "t.txt", "\ufeff" + quoted.format(",").replace("\n", "\r\n")).num_rows == 2
    )


def test_other_columns_are_an_error_or_left_out(tmp_path):
    text = "note,guide,source\n1,b,a\n"
    assert read(tmp_path / "t.csv", text, others=True).to_pylist() == [
        {"guide": "b", "source": "a"}
    ]
    with pytest.raises(UnknownName, match="note"):
        read(tmp_path / "t.csv", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("\0", "no column|cannot be read|not known"),
        ("source,guide\na\n", "cannot be read .*give a table with the columns source, guide"),
        ("source,guide,delta\na,b,ten\n", "cannot be read"),
        (
            "source\na\n",
            "has no column 'guide'; its columns must be source, guide, and may be delta",
        ),
        ("source,guide\n", "has no rows"),
        ("source,guide,source\na,b,c\n", "has 2 columns 'source'"),
    ],
)
def test_tables_that_cannot_be_used(text, message, tmp_path):
    with pytest.raises(AdvjaxError, match=message) as caught:
        read(tmp_path / "t.csv", text)
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_bytes_that_are_no_text_and_wrong_types(tmp_path):
    with pytest.raises(AdvjaxError, match="cannot be read"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AdvjaxError, match="cannot be read"):
        read(tmp_path / "binary.csv")
    pyarrow.parquet.write_table(
        pa.table({"source": ["a"], "guide": ["b"], "delta": [["x"]]}), tmp_path / "t.parquet"
    )
    with pytest.raises(AdvjaxError, match="column 'delta' of pairs"):
        read(tmp_path / "t.parquet")
