import pyarrow as pa
import pyarrow.parquet
import pytest

from advjax.data.tables import read_table
from advjax.errors import AdvjaxError, AdvjaxWarning

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


def test_other_columns_are_left_out_or_kept_as_they_stand(tmp_path):
    text = "note,guide,source\n007,b,a\n"
    known = {"guide": "b", "source": "a"}
    assert read(tmp_path / "t.csv", text).to_pylist() == [known]
    assert read(tmp_path / "t.csv", text, others=True).to_pylist() == [known | {"note": "007"}]
    table = pa.table({"guide": ["b"], "source": ["a"], "n": [7], "l": [[1, 2]], "é": ["x"]})
    category = table.append_column("c", pa.array(["big"]).dictionary_encode())
    pyarrow.parquet.write_table(category, tmp_path / "t.parquet")
    (row,) = read(tmp_path / "t.parquet", others=True).to_pylist()
    assert row == known | {"n": 7, "l": "[1, 2]", "é": "x", "c": "big"}


def test_a_column_that_is_nearly_a_known_one_is_asked_about(tmp_path):
    with pytest.warns(AdvjaxWarning, match="column 'detla' .* did you mean 'delta'") as caught:
        read(tmp_path / "t.csv", "source,guide,detla\na,b,5\n", others=True)
    assert len(caught) == 1


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("end", ["csv", "again", "parquet"])
def test_the_index_that_pandas_writes_is_left_out(end, others, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"source": ["a", "b"], "guide": ["c", "d"]}, index=[4, 2])
    if end == "parquet":
        frame.to_parquet(path := tmp_path / "t.parquet")
    else:
        frame.to_csv(path := tmp_path / "t.csv")
        if end == "again":
            pandas.read_csv(path).to_csv(path)
    table = read(path, others=others)
    assert table.column_names == ["source", "guide"]
    assert table["source"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_ends_of_lines(encoding, newline, tmp_path):
    text = newline.join(["source,guide,delta", "é.png,b,", "", '"a,b",c,5', ""])
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert read(tmp_path / "t.csv").to_pylist() == [
        {"source": "é.png", "guide": "b", "delta": None},
        {"source": "a,b", "guide": "c", "delta": 5.0},
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("source,guide,größe\na,b,5\n".encode("latin-1"), "is not UTF-8 text"),
        (b"source,guide\na,b\xe9\n", "is not UTF-8 text"),
        ("source,guide\na,b\n".encode("utf-16-le"), "zero bytes"),
        (b"source;guide\na;b\n", "separated by semicolons; save it with commas"),
        (b"source\tguide\na\tb\n", "separated by tabs (name it .tsv)"),
        (b"source,guide,note,note\na,b,c,d\n", "has 2 columns 'note'"),
        (b"\xff\xfesou", "is not UTF-8 text"),
    ],
)
def test_lists_as_people_make_them_are_read_or_named(content, says, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(AdvjaxError) as caught:
        read(tmp_path / "t.csv", others=True)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_parquet_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["source", "guide", "source"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(AdvjaxError, match="has 2 columns 'source'; leave one"):
        read(tmp_path / "t.parquet")


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
    with pytest.raises(AdvjaxError, match="is not UTF-8"):
        read(tmp_path / "binary.csv")
    pyarrow.parquet.write_table(
        pa.table({"source": ["a"], "guide": ["b"], "delta": [["x"]]}), tmp_path / "t.parquet"
    )
    with pytest.raises(AdvjaxError, match="column 'delta' of pairs"):
        read(tmp_path / "t.parquet")


def test_parquet_whose_text_or_names_are_not_utf8(tmp_path):
    table = pa.table({"source": ["s"], "guide": ["g"], "note": ["text"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", compression="NONE")
    raw = (tmp_path / "t.parquet").read_bytes()
    for word in (b"note", b"text"):
        (tmp_path / "t.parquet").write_bytes(raw.replace(word, b"\xe7" + word[1:]))
        with pytest.raises(AdvjaxError, match=r"cannot be read|not UTF-8") as caught:
            read(tmp_path / "t.parquet", others=True)
        assert "\n" not in str(caught.value)
