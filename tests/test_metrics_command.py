import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file, save_file

import advjax
from advjax import cli
from advjax.analysis.from_files import PairFiles, ids_of, read_pair_files
from advjax.analysis.from_run import run_pairs
from advjax.bank import build_bank, open_bank
from advjax.data import read_image, write_png
from advjax.errors import AdvjaxError

PAIRS = [("outside/s.png", "photos/a/00.png"), ("photos/b/03.png", "outside/a/g.png")]
LENET = ("--network", "lenet", "--weights", "orthonormal", "--layer", "ip1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits in folders by class, two images outside, and two attacks by the command line."""
    at = tmp_path_factory.mktemp("metrics")
    rng = np.random.default_rng(0)
    for name, count in {"a": 30, "b": 25, "few": 3}.items():
        centre = rng.integers(0, 200, (28, 28, 1))
        for i in range(count):
            image = centre + rng.integers(0, 56, (28, 28, 1))
            write_png(at / "photos" / name / f"{i:02}.png", image.astype(np.uint8))
    for name in ("s.png", "a/g.png", "few/f.png"):
        write_png(at / "outside" / name, rng.integers(0, 256, (28, 28, 1)).astype(np.uint8))
    for i, (source, guide) in enumerate(PAIRS):
        words = (at / source, at / guide, *LENET, "--max-evaluations", 3, "--delta", 20)
        assert cli.main([str(w) for w in ("attack", *words, "--out", at / "attacks" / str(i))]) == 0
    with open(at / "pairs.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["source", "guide", "adversarial", "source_class"])
        table.writerow([*PAIRS[0], "attacks/0/adversarial.png", "b"])
        table.writerow([*PAIRS[1], "attacks/1/adversarial.safetensors", ""])
    build_bank(lenet(), at / "photos", "ip1", at / "bank", progress=False)
    return at


def lenet():
    return advjax.load("lenet", "orthonormal")


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """(exit status, standard output, standard error) of `advjax metrics`, run in `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "cache"))
    capsys.readouterr()

    def run(*words):
        return cli.main(["metrics", *map(str, words)]), *capsys.readouterr()

    return run


def test_results_that_python_saved(run, folder, tmp_path):
    """Their images are in the folders, without names; a class is known by the pixels."""
    sources = [folder / source for source, _ in PAIRS]
    guides = [folder / "photos/a/00.png", folder / "photos/b/07.png"]
    result = advjax.attack(lenet(), sources, guides, layer="ip1", delta=20, max_evaluations=3)
    result.save(tmp_path / "saved", sheets=False)
    words = (tmp_path / "saved", "--bank", "bank", "--bank-images", "photos")
    status, _, said = run(*words, "--weights", "random", "--out", tmp_path / "t.csv")
    assert status == 2
    assert "the network has other weights" in said
    status, _, said = run(*words, "--weights", "orthonormal", "--out", tmp_path / "t.parquet")
    assert status == 0, said
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pydict()
    for name in ("ratio", "ratio_uint8", "distance", "initial_distance"):
        np.testing.assert_allclose(table[name], getattr(result, name), rtol=1e-4)
    assert table["guide_id"] == ["a/00.png", "b/07.png"]
    assert table["source_id"] == ["", "b/03.png"]
    assert table["guide_class"] == ["a", "b"]


def test_attacks_with_their_own_settings_and_a_bank_in_the_cache(run, folder, tmp_path):
    words = ("attacks", "--bank-images", "photos", "--images", "outside")
    status, said, _ = run(*words, "--out", tmp_path / "t.parquet")
    assert status == 0
    assert "2 pairs at ip1 of lenet, bank of 58 images" in said
    assert said.endswith(f"written: {tmp_path / 't.parquet'}\n")
    (place,) = (tmp_path / "cache" / "banks").iterdir()
    before = [path.stat().st_mtime_ns for path in sorted(place.rglob("*.json"))]

    table = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pydict()
    results = [json.loads((folder / f"attacks/{i}/result.json").read_text()) for i in range(2)]
    for name in ("ratio", "ratio_uint8", "distance", "initial_distance"):
        expected = [one["figures"][name] for one in results]
        np.testing.assert_allclose(table[name], expected, rtol=1e-4)
    assert table["guide_id"] == ["a/00.png", ""]
    assert table["guide_class"] == ["a", "a"]
    assert table["source_id"] == ["", "b/03.png"]

    # The same from files named one by one, by the library, and with what is in the cache.
    net = lenet()
    exact = [load_file(folder / f"attacks/{i}/adversarial.safetensors") for i in range(2)]
    rounded = [read_image(folder / f"attacks/{i}/adversarial.png", 1) for i in range(2)]
    found = advjax.analyse(
        [
            advjax.Adversarial(i, each["adversarial"], image)
            for i, (each, image) in enumerate(zip(exact, rounded, strict=True))
        ],
        open_bank(place, net),
        net,
        *([folder / pair[i] for pair in PAIRS] for i in range(2)),
        layer="ip1",
        guide_ids=["a/00.png", None],
        source_ids=[None, "b/03.png"],
        guide_classes=["a", "a"],
    )
    for name, values in found.table.items():
        if values.dtype == object:
            assert table[name] == values.tolist()
        else:
            np.testing.assert_allclose(table[name], values, rtol=1e-5, atol=1e-6)
    assert run(*words, "--out", tmp_path / "u.csv", "--far", 30, 40, "--seed", 1)[0] == 0
    assert [path.stat().st_mtime_ns for path in sorted(place.rglob("*.json"))] == before
    assert pyarrow.csv.read_csv(tmp_path / "u.csv").num_rows == 2


def test_a_table_of_files(run, folder, tmp_path):
    out, others = tmp_path / "t.csv", tmp_path / "n.parquet"
    bank = ("--bank-images", "photos", "--bank", "bank")
    more = ("--sparsity-layers", "pool1", "ip1", "--neighbours-out", others)
    status, _, _ = run("pairs.csv", *bank, *LENET, *more, "--out", out)
    assert status == 0
    table = pyarrow.csv.read_csv(out).to_pydict()
    assert table["source_class"] == ["b", "b"]
    assert np.isfinite(table["pairwise_ratio"]).all()
    # A PNG has no more than its rounding, a safetensors file has.
    assert table["ratio"][0] == table["ratio_uint8"][0]
    assert table["ratio"][1] != table["ratio_uint8"][1]
    assert "active_overlap[pool1]" in table
    assert pyarrow.parquet.read_table(others).num_rows == 2 * 15


def test_a_bank_without_its_images(run, folder, tmp_path):
    with open(folder / "ids.csv", "w") as file:
        file.write("source,guide,adversarial,guide_id\n")
        file.write("outside/s.png,photos/a/00.png,attacks/0/adversarial.png,a/00.png\n")
    status, *_ = run("ids.csv", "--bank", "bank", *LENET, "--out", tmp_path / "t.csv")
    assert status == 0
    table = pyarrow.csv.read_csv(tmp_path / "t.csv").to_pydict()
    assert (table["guide_id"], table["guide_class"]) == (["a/00.png"], ["a"])


def test_one_folder_of_an_attack_and_links_to_the_bank(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder / "photos")
    pair_files, settings = read_pair_files(folder / "attacks" / "1", [folder])
    assert (len(pair_files), settings["network"], settings["layer"]) == (1, "lenet", "ip1")
    assert pair_files[0].source == folder / PAIRS[1][0]
    bank = open_bank(folder / "bank")
    assert ids_of(pair_files, bank, tmp_path / "link")["source_ids"] == ["b/03.png"]
    assert ids_of(pair_files, bank, None)["source_ids"] == [None]
    assert ids_of(pair_files, bank, None)["guide_classes"] == ["a"]


def write(folder, name, *rows, head="source,guide,adversarial,guide_class"):
    (folder / name).write_text("\n".join([head, *rows]) + "\n")
    return name


GOOD = "outside/s.png,photos/a/00.png,attacks/0/adversarial.png,"
BANK = ("--bank-images", "photos", "--bank", "bank")


@pytest.mark.parametrize(
    ("table", "words", "message"),
    [
        (
            ["outside/s.png,photos/a/0.png,x,"],
            BANK,
            "guide of row 1 of 'mistake.csv' is 'photos/a/0.png', no",
        ),
        (["outside/s.png,,x,"], BANK, "guide of row 1 of 'mistake.csv' is None, no file"),
        (["outside/s.png"], BANK, "table 'mistake.csv' cannot be read"),
        ([], BANK, "has no rows"),
        ([GOOD + "c"], BANK, "guide_classes[0] 'c' is not known"),
        (["outside/s.png,outside/s.png,outside/s.png,"], BANK, "guide 0 has no class in the bank"),
        (
            ["outside/s.png,photos/few/00.png,outside/s.png,"],
            BANK,
            "class 'few' leaves 2 neighbours for guide 0",
        ),
        (["outside/s.png,outside/few/f.png,outside/s.png,"], BANK, "class 'few' leaves 3"),
        ([GOOD], (*BANK, "--far", 50, 58), "leaves 57 neighbours for guide 0"),
        ([GOOD], (*BANK, "--weights", "random"), "is of other weights; build another"),
        ([GOOD], (*BANK, "--layer", "ip3"), "layer of lenet 'ip3' is not known; did you mean"),
        ([GOOD], ("--bank", "bank", "--layer", "ip2"), "layer of the bank 'bank' 'ip2' is not kn"),
        ([GOOD], ("--bank", "photos"), "'photos' is no feature bank"),
        ([GOOD], (), "bank_images and bank are not given; name a"),
        ([GOOD], ("--bank-images", "outside/few"), "has no labels: its images were not in fold"),
        ([GOOD], ("--bank-images", "nowhere"), "nowhere"),
        ([GOOD], (*BANK, "--out", "t.txt"), "out is 't.txt'; name a .parquet or .csv file"),
        ([GOOD], (*BANK, "--components", 14), "components is 14, but 15 reference points allow"),
        ([GOOD], (*BANK, "--batch-size", 0), "batch_size is 0"),
        (["outside/s.png,photos/a/00.png,pairs.csv,"], BANK, "pairs.csv"),
        (["outside/s.png,photos/a/00.png,small.png,"], BANK, "has shape (9, 28, 1), but lenet"),
        (["outside/s.png,photos/a/00.png,other.safetensors,"], BANK, "holds no adversarial"),
        (["outside/s.png,photos/a/00.png,nan.safetensors,"], BANK, "has values from nan"),
    ],
)
def test_mistakes_are_one_line(run, folder, tmp_path, table, words, message):
    write_png(folder / "small.png", np.zeros((9, 28, 1), np.uint8))
    save_file({"x": np.zeros(3, np.float32)}, folder / "other.safetensors")
    nan = np.full((28, 28, 1), np.nan, np.float32)
    save_file({"adversarial": nan}, folder / "nan.safetensors")
    name = write(folder, "mistake.csv", *table)
    status, out, err = run(name, *LENET, "--out", tmp_path / "t.csv", *words)
    line = err.splitlines()[-1]  # behind the bar of the bank, where one was built
    assert (status, out) == (2, "")
    assert line.startswith("advjax: ")
    assert message in line
    assert "Traceback" not in err
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "is no record of 'advjax attack'"),
        ({"settings": {"source": 1}}, "is no record of 'advjax attack'"),
        (
            {"settings": {name: {"name": "s.png", "sha256": "0"} for name in ("source", "guide")}},
            "source 's.png' of 'broken/result.json' is not as it was in outside, photos; name",
        ),
        (
            {"settings": {name: {"name": "lost", "sha256": "0"} for name in ("source", "guide")}},
            "source 'lost' of 'broken/result.json' is not in outside, photos; name its folder",
        ),
    ],
)
def test_records_that_cannot_be_used(run, folder, content, message):
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "result.json").write_text(json.dumps(content))
    status, _, err = run("broken", *BANK, "--images", "outside")
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_inputs_that_are_nothing_of_the_kind(run, folder):
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("outside", "'outside' has no result.json of 'advjax attack'"),
        ("nothing.csv", "table 'nothing.csv' cannot be read"),
        ("binary.csv", "table 'binary.csv' is not UTF-8 text"),
        (write(folder, "head.csv", head="source,target"), "has no column 'guide'; its columns"),
    ):
        status, _, err = run(name, *BANK, *LENET)
        assert status == 2
        assert message in err
        assert len(err.splitlines()) == 1


@pytest.fixture(scope="module")
def runs(folder):
    """A run of three pairs and one that fails, and one of two layers."""
    rows = ["source,guide,label,layer,delta", *(",".join([*pair, "b,,"]) for pair in PAIRS)]
    rows += ["outside/s.png,outside/few/f.png,a,,5", "nothing.png,photos/a/00.png,,,"]
    write(folder, "list.csv", *rows[1:], head=rows[0])
    write(folder, "two.csv", *rows[1:3], rows[1].replace("b,,", ",ip2,"), head=rows[0])
    words = ("--max-evaluations", "3", "--delta", "20", "--keep-float32", "--shard-size", "2")
    for name, code in (("list", 1), ("two", 0)):
        run = ("run", folder / f"{name}.csv", "--out", folder / name, *LENET, *words)
        assert cli.main([str(word) for word in run]) == code
    return folder


def test_a_run_is_measured_as_its_attacks_one_by_one(run, runs, tmp_path):
    out = tmp_path / "t.parquet"
    status, said, err = run("list", "--bank-images", "photos", "--bank", "bank", "--out", out)
    assert status == 2  # the third pair's guide is of a class with too few images
    assert "class 'few' leaves 3 neighbours for guide 2" in err
    words = ("--bank-images", "photos", "--neighbours", 2, "--out", out, "--batch-size", 2)
    status, said, _ = run("list", *words)
    assert status == 0
    assert "3 pairs at ip1 of lenet, bank of 58 images" in said
    assert "left out, not having been attacked: 1" in said
    table = pyarrow.parquet.read_table(out).to_pydict()
    rows = advjax.open_run("list").table().to_pylist()[:3]
    for name in ("ratio", "ratio_uint8", "distance", "initial_distance", "max_change"):
        np.testing.assert_allclose(table[name], [row[name] for row in rows], rtol=1e-4)
    assert table["id"] == [row["id"] for row in rows]
    assert table["delta"] == [20, 20, 5]
    assert table["guide_class"] == ["a", "a", "few"]
    assert run("attacks", *words, "--images", "outside", "--out", tmp_path / "a.parquet")[0] == 0
    alone = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pydict()
    for name in ("nearest_ratio", "common", "delta_rank", "delta_l", "omega", "ssim"):
        np.testing.assert_allclose(table[name][:2], alone[name], rtol=1e-3, atol=1e-4)


def test_a_run_of_several_layers_is_measured_at_the_one_named(run, runs, tmp_path):
    words = ("two", "--bank-images", "photos", "--out", tmp_path / "t.csv")
    status, _, err = run(*words)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "has pairs at ip1, ip2; name one with --layer" in err
    status, _, err = run(*words, "--layer", "pool1")
    assert status == 2
    assert "layer of the run 'pool1' is not known" in err
    status, said, err = run(*words, "--layer", "ip2", "--components", 4)
    assert status == 0, err
    assert "1 pairs at ip2" in said


def test_a_run_whose_images_were_moved_and_other_weights(run, runs, tmp_path):
    shutil.copytree(runs / "two", tmp_path / "run")
    (runs / "outside").rename(tmp_path / "there")
    try:
        words = (tmp_path / "run", "--bank-images", "photos", "--layer", "ip1")
        words = (*words, "--out", tmp_path / "t.csv")
        status, _, err = run(*words)
        assert (status, len(err.splitlines())) == (2, 1)
        assert "image 'outside/s.png' of the run is not in" in err
        assert run(*words, "--images", tmp_path / "there")[0] == 0
    finally:
        (tmp_path / "there").rename(runs / "outside")
    status, _, err = run(*words, "--weights", "random")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "weights 'random' are other ones: name the file with --weights" in err


def test_a_run_from_python(runs):
    net = lenet()
    pairs = run_pairs(advjax.open_run(runs / "two"), net, layer="ip1")
    bank = open_bank(runs / "bank", net)
    found = advjax.analyse(
        pairs.results(),
        bank,
        net,
        pairs.sources,
        pairs.guides,
        layer=pairs.layer,
        **pairs.ids(bank, runs / "photos"),
    )
    assert found.table["guide_id"].tolist() == ["a/00.png", ""]
    with pytest.raises(AdvjaxError, match="is of weights"):
        run_pairs(advjax.open_run(runs / "two"), advjax.load("lenet", "random"))


def test_an_image_of_the_bank_is_known_through_links(tmp_path):
    real = tmp_path / "elsewhere" / "1.png"
    bank = tmp_path / "bank"
    for folder in (real.parent, bank / "cat"):
        folder.mkdir(parents=True)
    real.touch()
    (bank / "cat" / "a.png").symlink_to(real)
    (tmp_path / "link").symlink_to(bank)
    classes = SimpleNamespace(classes=("cat",))
    for folder in (bank, tmp_path / "link"):
        for within in (bank, tmp_path / "link"):
            pair = PairFiles(real, within / "cat" / "a.png", real)
            found = ids_of([pair], classes, folder)
            assert found["guide_classes"] == ["cat"]
            assert found["source_ids"] == [None]
            if folder == within:
                assert found["guide_ids"] == ["cat/a.png"]


def test_a_run_is_measured_with_the_preprocessing_it_was_made_with(run, tmp_path):
    rng = np.random.default_rng(1)
    for name in ("wide", "high"):
        shape = (240, 400, 3) if name == "wide" else (400, 240, 3)
        write_png(tmp_path / f"{name}.png", rng.integers(0, 256, shape).astype(np.uint8))
    write(tmp_path, "list.csv", "wide.png,high.png,a", head="source,guide,label")
    out, network = tmp_path / "run", ("--network", "squeezenet", "--weights", "random")
    words = ("--out", out, *network, "--attack", "feature-fgrad", "--resize")
    assert cli.main([str(word) for word in ("run", tmp_path / "list.csv", *words)]) == 0
    (initial,) = advjax.open_run(out).table()["initial_distance"].to_pylist()
    net = advjax.load("squeezenet", "random")  # crops, where the run resized
    images = np.stack([net.read(tmp_path / f"{name}.png") for name in ("wide", "high")])
    s, g = np.asarray(net(images, "pool10")["pool10"])
    assert abs(np.linalg.norm(s - g) / initial - 1) > 0.01
    table = tmp_path / "t.parquet"
    status, _, err = run(out, "--bank-images", "photos", "--out", table)
    assert status == 0, err
    measured = pyarrow.parquet.read_table(table)["initial_distance"].to_pylist()
    assert measured == pytest.approx([initial], rel=1e-4)
