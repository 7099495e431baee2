import io
import itertools
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import advjax
from advjax.data.images import name_of, path_of
from advjax.errors import AdvjaxError, UnknownName
from advjax.runs.image_reader import Reader
from advjax.runs.pair_list import COLUMNS, PairList, find_images, make_pair_list, read_list


@pytest.fixture
def folder(tmp_path):
    """Three classes of 2, 3 and 4 images."""
    for name, count in (("a", 2), ("b", 3), ("c", 4)):
        for i in range(count):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), 10 * i, np.uint8)).save(path)
    return tmp_path / "photos"


def pairs_of(found: PairList):
    return list(zip(*(found.table[n].to_pylist() for n in ("source", "guide")), strict=True))


def class_of(name):
    return name.split("/")[-2]


def test_a_csv_with_everything(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(
        "guide,source,id,label,layer,delta\nb.png,a.png,one,7,fc7,5\nd/b.png,c.png,two,,,\n"
    )
    found = read_list(path)
    assert found.root == tmp_path
    assert found.table.schema == COLUMNS
    rows = [list(row.values()) for row in found.table.to_pylist()]
    assert rows == [
        ["one", "a.png", "b.png", "7", "fc7", 5.0],
        ["two", "c.png", "d/b.png", None, None, None],
    ]


def test_a_list_is_the_same_whatever_file_holds_it(tmp_path):
    table = pa.table({"source": ["a", "b"], "guide": ["b", "a"], "delta": [1, 2]})
    pq.write_table(table, tmp_path / "list.parquet")
    (tmp_path / "list.csv").write_text("source,guide,delta\na,b,1\nb,a,2\n")
    (tmp_path / "list.tsv").write_text("delta\tsource\tguide\n1.0\ta\tb\n2\tb\ta\n")
    lists = [read_list(tmp_path / f"list.{end}") for end in ("parquet", "csv", "tsv")]
    assert lists[0].table == lists[1].table == lists[2].table
    assert len({found.sha256() for found in lists}) == 1
    (tmp_path / "list.csv").write_text("source,guide,delta\na,b,1\nb,a,3\n")
    assert read_list(tmp_path / "list.csv").sha256() != lists[0].sha256()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source,guid\na,b\n", "has no column 'guide'; is it 'guid'?"),
        ("source\na\n", "has no column 'guide'"),
        ("source,guide\n", "has no rows"),
        ("source,guide\na,b\n,b\n", "source of row 2"),
        ("source,guide,delta\na,b,-1\n", "delta of row 1"),
        ("source,guide,delta\na,b,nan\n", "delta of row 1"),
        ("source,guide,delta\na,b,ten\n", "cannot be read"),
        ("source,guide,id\na,b,x\nb,a,x\n", "2 times"),
        ("source,guide\na\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_lists_that_cannot_be(text, says, tmp_path):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(AdvjaxError, match=r"list\.csv") as error:
        read_list(tmp_path / "list.csv")
    assert says in str(error.value)


def test_ids_are_text_and_categories_their_values(tmp_path):
    (tmp_path / "l.csv").write_text("source,guide,id\na,b,007\nb,a,7\n")
    assert read_list(tmp_path / "l.csv").table["id"].to_pylist() == ["007", "7"]
    names = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.table({"source": names, "guide": pa.array(["b", "c", "c"]), "label": names})
    pq.write_table(table, tmp_path / "l.parquet")
    found = read_list(tmp_path / "l.parquet").table
    assert found["source"].to_pylist() == found["label"].to_pylist() == ["a", "b", "a"]
    assert found.schema == COLUMNS


def test_columns_of_the_users_own_come_after_the_known_ones(tmp_path):
    """Those of an earlier run's results get another name, as the new rows have them too."""
    path = tmp_path / "list.csv"
    path.write_text("note,source,ratio,guide\n1,a.png,.5,b.png\n")
    found = read_list(path)
    assert found.table.column_names == [*COLUMNS.names, "note", "list_ratio"]
    assert [field.name for field in found.own] == ["note", "list_ratio"]
    (row,) = found.table.to_pylist()
    assert (row["note"], row["list_ratio"]) == ("1", ".5")
    path.write_text("note,source,ratio,guide\n2,a.png,.5,b.png\n")
    assert read_list(path).sha256() != found.sha256()


def test_a_folder_is_the_same_list_by_any_spelling_and_when_it_has_been_moved(
    folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    spellings = [str(folder), "photos", "./photos/", "photos/../photos", f"{tmp_path}//photos"]
    lists = [make_pair_list(spelling) for spelling in spellings]
    os.symlink(folder, "linked")
    lists.append(make_pair_list("linked"))
    shutil.copytree(folder, tmp_path / "else" / "where")
    lists.append(make_pair_list(str(tmp_path / "else" / "where")))
    assert len({found.sha256() for found in lists}) == 1
    for found in lists:
        for pair in pairs_of(found):
            assert all((found.root / name).is_file() for name in pair)


@pytest.mark.parametrize("guides", ["photos/c", "photos", "."])
def test_two_folders_are_moved_together(folder, tmp_path, guides):
    both = make_pair_list(str(folder / "a"), str(tmp_path / guides))
    for pair in pairs_of(both):
        assert all((both.root / name).is_file() for name in pair)
    shutil.copytree(folder, tmp_path / "else" / "photos")
    moved = make_pair_list(str(tmp_path / "else/photos/a"), str(tmp_path / "else" / guides))
    if guides != ".":  # which now holds the images twice
        assert moved.sha256() == both.sha256()


HIDDEN = (".ipynb_checkpoints", ".git/a", ".Trash", "@eaDir", "__MACOSX", "a/@eaDir/b", "a/.x")


def test_hidden_folders_are_no_classes(folder, tmp_path):
    before = make_pair_list(str(folder)).sha256()
    for name in HIDDEN:
        (folder / name).mkdir(parents=True)
        shutil.copy(folder / "a" / "0.png", folder / name / "0.png")
    assert make_pair_list(str(folder)).sha256() == before


def test_links_to_folders_are_followed_and_loops_are_not(folder, tmp_path):
    expected = make_pair_list(str(folder)).sha256()
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in "abc":
        os.symlink(folder / name, linked / name)
    assert make_pair_list(str(linked)).sha256() == expected
    os.symlink("..", folder / "a" / "up")
    os.symlink(folder, folder / "b" / "top")
    os.symlink(tmp_path, folder / "c" / "above")
    os.symlink("self", folder / "self")
    os.symlink("nowhere", folder / "gone")
    assert make_pair_list(str(folder)).sha256() == expected
    # Two folders that lead to each other.
    for one, other in (("x", "y"), ("y", "x")):
        (tmp_path / one).mkdir()
        shutil.copy(folder / "a" / "0.png", tmp_path / one / "0.png")
        os.symlink(tmp_path / other, tmp_path / one / other)
    assert find_images(str(tmp_path / "x"), tmp_path / "x").names == ["0.png", "y/0.png"]


NOT_UTF8 = os.fsdecode(b"caf\xe9")


def test_names_that_are_not_utf8_have_a_reversible_form(folder):
    (folder / NOT_UTF8).mkdir()
    shutil.copy(folder / "a" / "0.png", folder / NOT_UTF8 / f"{NOT_UTF8}.png")
    shutil.copy(folder / "a" / "0.png", folder / "été.png")
    found = make_pair_list(str(folder))
    names = sorted({name for pair in pairs_of(found) for name in pair})
    assert "bytes:caf%E9/caf%E9.png" in names
    assert "été.png" in names
    net = advjax.Network(
        lambda x: {"mean": x.mean((1, 2))}, (4, 4, 3), preprocessing=advjax.Preprocessing(crop=4)
    )
    reader = Reader(net, found.root)
    assert all(reader(name).shape == (4, 4, 3) and reader.size(name) for name in names)


@pytest.mark.parametrize("name", ["a.png", "bytes:%41", "é/ü.png", NOT_UTF8, "./x", "a%20b"])
def test_names_come_back(name):
    assert os.path.normpath(path_of(name_of(name))) == os.path.normpath(name)
    name_of(name).encode()


def test_no_such_list(tmp_path):
    with pytest.raises(AdvjaxError, match="cannot be read"):
        make_pair_list(str(tmp_path / "none.parquet"))
    (tmp_path / "list.txt").write_text("source,guide\n")
    with pytest.raises(AdvjaxError, match=r"neither \.csv, \.tsv nor \.parquet"):
        make_pair_list(str(tmp_path / "list.txt"))


def test_two_folders_all_with_all(folder):
    sources, guides = str(folder / "a"), str(folder)
    found = pairs_of(make_pair_list(sources, guides))
    every = itertools.product(*(find_images(each, folder).names for each in (sources, guides)))
    assert found == [(s, g) for s, g in every if s != g]
    assert len(found) == 2 * 9 - 2


def test_one_folder_by_class_pairs_different_classes_alone(folder):
    found = pairs_of(make_pair_list(str(folder)))
    assert len(found) == len(set(found)) == 9 * 9 - (4 + 9 + 16)
    assert all(class_of(s) != class_of(g) for s, g in found)


@pytest.mark.parametrize("count", [1, 20, 52])
def test_random_pairs_differ_and_come_from_the_seed(folder, count):
    draw = [
        pairs_of(make_pair_list(str(folder), pairing="random", count=count, seed=s)) for s in (0, 0)
    ]
    assert draw[0] == draw[1]
    assert len(set(draw[0])) == count
    assert all(class_of(s) != class_of(g) for s, g in draw[0])
    if count == 20:
        assert draw[0] != pairs_of(
            make_pair_list(str(folder), pairing="random", count=count, seed=1)
        )


def test_random_pairs_of_so_many_that_they_are_not_listed():
    from advjax.runs.pair_list import Images, random_pairs

    names = [str(i) for i in range(3000)]
    images = Images(names, [str(i % 2) for i in range(3000)])
    rows, columns = random_pairs(images, images, 5000, np.random.default_rng(0), apart=True)
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == 5000
    assert ((rows + columns) % 2 == 1).all()
    # Uniform: 5000 of 9 million; a source comes up 5000 / 3000 times on average.
    assert np.bincount(rows, minlength=3000).max() < 12


def test_more_random_pairs_than_there_are(folder):
    with pytest.raises(AdvjaxError, match="there are only 52 pairs"):
        make_pair_list(str(folder), pairing="random", count=53)


def test_the_papers_protocol_takes_20_sources_and_3000_guides(monkeypatch):
    from advjax.runs import pair_list as module

    names = {"s": [f"s{i}" for i in range(50)], "g": [f"g{i}" for i in range(4000)]}
    monkeypatch.setattr(
        module,
        "find_images",
        lambda where, top: module.Images(names[where], [None] * len(names[where])),
    )
    found = pairs_of(make_pair_list("s", "g", pairing="paper"))
    assert len(found) == 60_000
    assert len({s for s, _ in found}) == 20
    assert len({g for _, g in found}) == 3000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pairing": "al"}, "did you mean 'all'?"),
        ({"pairing": "random"}, "give a count"),
        ({"count": 3}, "only then"),
        ({"pairing": "random", "count": 0}, "count is 0"),
    ],
)
def test_pairings_that_cannot_be(folder, options, says):
    with pytest.raises(AdvjaxError) as error:
        make_pair_list(str(folder), **options)
    assert says in str(error.value)


def test_one_image_makes_no_pair(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(AdvjaxError, match="makes no pair"):
        make_pair_list(str(tmp_path))


# tensorflow_datasets writes array_record without TensorFlow when images come as files.
PREPARE = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

def png(i):
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), 9 * i, np.uint8)).save(stream, "PNG")
    stream.seek(0)
    return stream

class Squares(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = tfds.features.ClassLabel(names=["even", "odd"])
        features = {"image": tfds.features.Image(shape=(6, 6, 3)), "label": names}
        features |= {"file_name": tfds.features.Text()} if sys.argv[2] == "named" else {}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for i in range(7):
            example = {"image": png(i), "label": i % 2, "file_name": f"square-{i}.png"}
            if sys.argv[2] != "named":
                del example["file_name"]
            yield i, example

Squares(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module", params=["named", "numbered"])
def data_set(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    process = [sys.executable, "-c", PREPARE, str(folder), request.param]
    subprocess.run(process, check=True, capture_output=True)
    return request.param, f"tfds:{folder}/squares/1.0.0:test"


def test_a_tfds_data_set_in_another_form_is_named(data_set, tmp_path):
    folder, split = data_set[1].removeprefix("tfds:").rsplit(":", 1)
    shutil.copytree(folder, tmp_path / "squares")
    info = tmp_path / "squares" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(AdvjaxError, match="is not in array_record form; prepare it with"):
        find_images(f"tfds:{tmp_path / 'squares'}:{split}")


def test_a_tfds_data_set_is_read_without_tensorflow(data_set):
    kind, where = data_set
    found = find_images(where)
    keys = [name.partition("#")[2] for name in found.names]
    if kind == "named":
        assert sorted(keys) == [f"square-{i}.png" for i in range(7)]
    else:
        assert keys == [str(i) for i in range(7)]
    assert sorted(found.classes) == ["even"] * 4 + ["odd"] * 3
    net = advjax.Network(
        lambda x: {"mean": x.mean((1, 2))}, (4, 4, 3), preprocessing=advjax.Preprocessing(crop=4)
    )
    reader = Reader(net, ".")
    levels = {}
    for name, label in zip(found.names, found.classes, strict=True):
        image = reader(name)
        assert (image.shape, image.dtype) == ((4, 4, 3), np.uint8)
        levels[int(image[0, 0, 0])] = label
        assert (image == image[0, 0, 0]).all()
        if kind == "named":
            assert image[0, 0, 0] == 9 * int(name[-5])
    assert levels == {9 * i: ("even", "odd")[i % 2] for i in range(7)}
    assert "tensorflow" not in sys.modules
    apart = pairs_of(make_pair_list(where))
    assert len(apart) == 2 * 4 * 3


@pytest.mark.parametrize(
    ("split", "count"),
    [("test[:3]", 3), ("test[50%:]", 3), ("test[:2]+test[4:]", 5), ("all", 7), ("test[-1:]", 1)],
)
def test_slices_of_tfds_splits(data_set, split, count):
    _, where = data_set
    found = find_images(where.removesuffix("test") + split)
    assert len(found.names) == len(set(found.names)) == count
    net = advjax.Network(
        lambda x: {"mean": x.mean((1, 2))}, (4, 4, 3), preprocessing=advjax.Preprocessing(crop=4)
    )
    assert Reader(net, ".")(found.names[-1]).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("test[abc]", r"split 'test\[abc\]' .* such as train\[:50%\]"),
        ("test[:", "such as train"),
        ("test+", "split ''"),
        ("test+tset", "'tset' is not known; did you mean 'test'"),
        ("test[90:99]", "cannot be read"),
        ("test[200%:]", "cannot be read"),
    ],
)
def test_slices_that_cannot_be(data_set, split, says):
    _, where = data_set
    with pytest.raises(AdvjaxError, match=says) as caught:
        find_images(where.removesuffix("test") + split)
    assert "\n" not in str(caught.value)


def test_the_bytes_of_a_tfds_image_are_the_files_own(data_set):
    from advjax.runs.image_reader import tfds_bytes

    stream = io.BytesIO()
    _, where = data_set
    (name, *_) = find_images(where).names
    level = np.asarray(Image.open(io.BytesIO(tfds_bytes(name))))[0, 0, 0]
    Image.fromarray(np.full((6, 6, 3), level, np.uint8)).save(stream, "PNG")
    assert tfds_bytes(name) == stream.getvalue()


def test_data_sets_that_are_not_there(data_set, tmp_path):
    _, where = data_set
    with pytest.raises(UnknownName, match="split"):
        find_images(where.replace(":test", ":tset"))
    with pytest.raises(AdvjaxError, match=r"dataset_info\.json"):
        find_images(f"tfds:{tmp_path}:test")
    with pytest.raises(AdvjaxError, match="give tfds:NAME:SPLIT"):
        find_images("tfds:mnist")
    with pytest.raises(AdvjaxError, match="not in the data set"):
        Reader(advjax.load("lenet", "random"), ".")(f"{where}#nowhere.png")


def test_without_tfds_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(AdvjaxError, match=r"pip install 'advjax\[tfds\]'"):
        make_pair_list("tfds:not-read-yet:train")
