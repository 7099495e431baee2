"""`advjax reproduce`, every target end to end on LeNet and drawn images, once for all tests."""

import csv
import html
import io
import json
import signal
from contextlib import redirect_stdout

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import advjax
from advjax import cli
from advjax.bank import build_bank
from advjax.data import write_png
from advjax.networks import zoo
from advjax.networks.options import NetworkOptions
from advjax.reproduce import fig2, fig5, published, table1, table2, table_s2
from advjax.reproduce.draw import draw_pairs
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.settings import LAYERS, Settings, TrainedNetwork
from advjax.reproduce.style import class_name
from advjax.reproduce.targets import TARGETS
from advjax.runs.pair_list import Images, read_list

LENET = ("--network", "lenet", "--weights", "orthonormal", "--layers", "pool2", "ip1")
PROTOCOL = ("--near", 8, "--reference", 6, "--far", 10, 14, "--components", 3)
BUDGET = ("--pairs", 5, "--max-evaluations", 6, "--batch-size", 5, "--deltas", 10, 25)
MORE = ("--linear-evaluations", 3, "--label-evaluations", 2, "--invert-evaluations", 3)
EVALUATIONS = {"feature-opt": 6, "feature-linear": 3, "label-opt": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Digits of three classes: those to train with, others to validate with, and too few."""
    at = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in "abc":
        centre = rng.integers(0, 200, (28, 28, 1))
        for folder, count in (("train", 9), ("validation", 3), ("few", 3)):
            for i in range(count):
                image = centre + rng.integers(0, 56, (28, 28, 1))
                write_png(at / folder / name / f"{i}.png", image.astype(np.uint8))
    return at


def words(images, out, *targets, more=()):
    given = (*targets, *LENET, *PROTOCOL, *BUDGET, *MORE, "--out", out)
    return ["reproduce", *map(str, (*given, "--images", images / "train", *more))]


@pytest.fixture(scope="module")
def made(images, tmp_path_factory):
    """(folder, what was printed) of all targets."""
    out = tmp_path_factory.mktemp("reproduce")
    failures = f"lenet=orthonormal={images / 'train'}"
    more = ("--validation", images / "validation", "--networks", "lenet=random")
    more += ("--failures", failures, "--failure-deltas", 10, 50)
    with redirect_stdout(io.StringIO()) as said:
        assert cli.main(words(images, out, "all", more=more)) == 0
    return out, said.getvalue()


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def column(rows, name, **where):
    mine = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return np.array([float(row[name]) for row in mine])


RATIO_AND_LABELS = "pairs ratio minimum maximum labels_differ takes_guide_label leaves_source_label"
ERRORS = "ratio_error takes_guide_label_error leaves_source_label_error"
COLUMNS = {
    "fig1": "pair layer ratio ssim source guide",
    "fig2": "pair layer like_source like_guide loss_source loss_guide loss_adversarial "
    "takes_source_label takes_guide_label source_keeps_label guide_keeps_label still",
    "fig3": "pair source_id guide_id source_class guide_class ratio nearest_ratio pairwise_ratio",
    "fig4": "layer guides pair set id delta_l omega",
    "fig5": "attack layer delta pairs evaluations ratio ratio_error ratio_uint8 paper",
    "label-vs-feature": "attack pair delta_rank rank_adversarial common delta_l omega ratio",
    "table1": "network layer pairs all_common paper_all all_but_one_common paper_all_but_one "
    "delta_rank_median paper_delta_rank ratio takes_guide_label all_common_error "
    "all_but_one_common_error delta_rank_median_error ratio_error takes_guide_label_error",
    "table2": "attack layer evaluations active_change active_change_error paper_active_change "
    "active_overlap active_overlap_error paper_active_overlap",
    "tableS1": "layer shape units paper",
    "tableS2": f"weights layer {RATIO_AND_LABELS} {ERRORS}",
    "figS3": "attack layer pair ratio",
    "failures": f"network layer delta {RATIO_AND_LABELS} mean_change psnr {ERRORS}",
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_its_table_its_picture_and_its_numbers(made, name):
    out, said = made
    rows = table(out / f"{name}.csv")
    assert list(rows[0]) == COLUMNS[name].split()
    beside = (out / f"{name}.md").read_text()
    assert "\nHow it was made:\n\n* " in beside
    unequal = "fig5", "label-vs-feature", "table2"  # attacks with 6, with 3 and with 8 x 2
    assert ("not at equal budgets" in beside) == (name in unequal)
    assert f"\n{name}: {TARGETS[name].what}\n\n{beside}" in said
    assert beside.startswith("| ")
    assert (out / f"{name}.png").is_file() == (not name.startswith("table"))
    if not name.startswith("table"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width in range(500, 1400)
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_the_index_shows_every_target_and_how_it_was_made(images, made):
    out, _ = made
    kept = json.loads((out / "settings.json").read_text())["targets"]
    index = (out / "index.html").read_text()
    assert set(kept) == set(TARGETS)
    for name, target in kept.items():
        assert f'id="{name}"' in index
        assert target["settings"]["pairs"] == 5
        assert target["settings"]["protocol"]["near"] == 8
        for file in (*target["tables"], *filter(None, [target["figure"]])):
            assert (out / file).is_file()
            assert f'"{file}"' in index
        for line in target["origin"].values():
            assert html.escape(line, quote=False) in html.unescape(index) or line in index
    made = kept["label-vs-feature"]["origin"]
    assert made["attacks"] == (
        "feature-opt by lbfgs, at most 6 evaluations of a pair; label-opt by lbfgs, at most 2 "
        "evaluations of a pair for each of 8 c"
    )
    assert made["delta"] == "10 levels of 255"
    assert made["date"].startswith("attacks 20")
    assert "500 evaluations" in made["the paper"]


def attacked(images, out, attack, layer, delta, **more):
    """The same attack by the library, on the pairs that were written down."""
    net = advjax.load("lenet", "orthonormal")
    pairs = read_list(out / "pairs-train.csv").table.to_pydict()
    solver = None
    if attack in EVALUATIONS:
        solver = advjax.ProjectedLBFGS(EVALUATIONS[attack])
    found = advjax.attack(
        net,
        *(advjax.load_images(pairs[name], net.preprocessing, 1) for name in ("source", "guide")),
        attack=attack,
        layer=layer,
        delta=delta,
        solver=solver,
        batch_size=5,
    )
    return net, pairs, found


@pytest.mark.parametrize("attack", fig5.ATTACKS)
def test_ratios_are_those_of_the_attack(images, made, attack):
    out, _ = made
    rows = table(out / "fig5.csv")
    for delta in (10, 25):
        _, _, found = attacked(images, out, attack, "ip1", delta)
        where = {"attack": attack, "layer": "ip1", "delta": str(delta)}
        (ratio,) = column(rows, "ratio", **where)
        (error,) = column(rows, "ratio_error", **where)
        np.testing.assert_allclose(ratio, found.ratio.mean(), rtol=1e-4)
        np.testing.assert_allclose(error, found.ratio.std(ddof=1) / 5**0.5, rtol=1e-3)


def test_one_step_ratios_are_those_of_the_attack(images, made):
    out, _ = made
    rows = table(out / "figS3.csv")
    for attack in ("feature-fgrad", "label-fgrad"):
        _, _, found = attacked(images, out, attack, "ip1", 10)
        ratio = column(rows, "ratio", attack=attack, layer="ip1")
        np.testing.assert_allclose(ratio, found.ratio, rtol=1e-4)


@pytest.mark.parametrize("attack", ["feature-opt", "label-opt"])
def test_measurements_are_those_of_the_analysis(images, made, tmp_path, attack):
    out, _ = made
    net, pairs, result = attacked(images, out, attack, "ip1", 10)
    top = str((images / "train").resolve()) + "/"
    ids = {n: [path.removeprefix(top) for path in pairs[n]] for n in ("source", "guide")}
    found = advjax.analyse(
        result,
        build_bank(net, images / "train", "ip1", tmp_path / "bank", progress=False),
        net,
        *(advjax.load_images(pairs[name], net.preprocessing, 1) for name in ("source", "guide")),
        layer="ip1",
        guide_ids=ids["guide"],
        source_ids=ids["source"],
        protocol=advjax.Protocol(near=8, reference=6, far=(10, 14), components=3),
    )
    rows = table(out / "label-vs-feature.csv")
    for name in ("delta_rank", "common", "delta_l", "omega", "ratio"):
        there = column(rows, name, attack=attack)
        np.testing.assert_allclose(there, found.table[name], rtol=2e-3, atol=1e-3, err_msg=name)
    (active,) = column(table(out / "table2.csv"), "active_overlap", attack=attack, layer="ip1")
    np.testing.assert_allclose(active, found.summary["table_2"]["ip1"]["active_overlap"], rtol=1e-4)
    if attack == "label-opt":
        return
    rows = table(out / "fig3.csv")
    assert [row["guide_id"] for row in rows] == ids["guide"]
    for name in ("ratio", "nearest_ratio", "pairwise_ratio"):
        np.testing.assert_allclose(column(rows, name), found.table[name], rtol=1e-3)
    rows = table(out / "fig4.csv")
    for name in ("near", "far"):
        mine = found.neighbours["set"] == name
        there = column(rows, "omega", layer="ip1", guides="train", set=name)
        np.testing.assert_allclose(there, found.neighbours["omega"][mine], atol=1e-4)
    first = found.summary["table_1"]
    row = table(out / "table1.csv")[0]
    assert row["network"] == "lenet-orthonormal"
    assert float(row["all_common"]) == pytest.approx(first["all_common"])
    assert float(row["delta_rank_median"]) == pytest.approx(first["delta_rank_median"], abs=1e-3)


def test_guides_of_fig4_come_from_both_folders(images, made):
    out, _ = made
    for pool in ("train", "validation"):
        names = read_list(out / f"pairs-{pool}.csv").table["guide"].to_pylist()
        assert all(str((images / pool).resolve()) in name for name in names)
    assert {row["guides"] for row in table(out / "fig4.csv")} == {"train", "validation"}


def test_one_run_for_each_attack_however_many_targets_need_it(images, made):
    out, _ = made
    settings = Settings(
        network=NetworkOptions("lenet", "orthonormal"),
        layers=("pool2", "ip1"),
        deltas=(10, 25),
        pairs=5,
        images=str(images / "train"),
        validation=str(images / "validation"),
        networks=("lenet=random",),
        failures=(f"lenet=orthonormal={images / 'train'}",),
        failure_deltas=(10, 50),
        out=out,
    )
    experiments = Experiments(settings)
    lists = [target.needs(experiments) for target in TARGETS.values()]
    chosen = {experiment for each in lists for experiment in each}
    assert sum(map(len, lists)) > 1.5 * len(chosen)
    assert {experiments.folder(experiment) for experiment in chosen} == set(
        (out / "runs").glob("*/*")
    )


def test_the_same_command_again_attacks_nothing(images, made, monkeypatch, capsys):
    out, _ = made
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*/shards/*")}
    monkeypatch.setattr("advjax.runs.driver.attack_blocks", None)  # would be called
    more = ("--format", "svg")
    assert cli.main(words(images, out, "fig5", "figS3", "tableS2", more=more)) == 0
    assert "<svg" in (out / "figS3.svg").read_text()
    index = (out / "index.html").read_text()
    assert 'src="figS3.svg"' in index
    assert 'src="fig4.png"' in index  # of the command before
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*/shards/*")} == before
    assert "5 pairs" not in capsys.readouterr().out


def test_an_interrupted_command_goes_on(images, made, tmp_path, monkeypatch, capsys):
    from advjax.runs import driver

    original, calls = driver.attack_blocks, []

    def interrupted(*args, watch, **more):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(*args, watch=watch, **more)

    monkeypatch.setattr(driver, "attack_blocks", interrupted)
    command = words(images, tmp_path, "fig5", more=("--layers", "ip1"))
    assert cli.main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(calls) == 2
    assert not (tmp_path / "fig5.csv").exists()
    assert cli.main(command) == 0
    assert len(calls) in (4, 5)  # of four chosen the first was done; the second, if it was quicker
    there, here = (table(at / "fig5.csv") for at in (made[0], tmp_path))
    expected = [float(row["ratio"]) for row in there if row["layer"] == "ip1"]
    np.testing.assert_allclose(column(here, "ratio"), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("fig9",), "target 'fig9' is not known; did you mean 'fig"),
        ((), "targets is empty; give 'all' or some of fig1: "),
        (("fig3", "--images", "few"), "class 'a' leaves 2 neighbours"),
        (("fig3", "--far", "40", "50"), "leaves 25 neighbours for guide 0"),
        (("fig4", "--reference", "9"), "reference, near and far are 9, 8, (10, 14)"),
        (("fig5", "--pairs", "100000"), "make 360 of different classes"),
        (("fig5", "--images", "flat"), "is in no folder by class"),
        (("fig5", "--images", "nowhere"), "is not a directory"),
        (("table1", "--networks", "lenett"), "did you mean 'lenet'"),
        (("fig3", "--images", "tfds:mnist:train"), "neighbours are searched in a folder"),
        (("fig5", "--layers", "conv9"), "layer of lenet 'conv9' is not known"),
        (("fig5", "--solver", "newton"), "solver 'newton' is not known"),
        (("fig5", "--network", "lenett"), "network 'lenett' is not known"),
        (("failures",), "failures is not given; name the networks as"),
        (("failures", "--failures", "lenet"), "failures has 'lenet'; give NETWORK=WEIGHTS=FOLDER"),
        (("fig5", "--deltas", "0"), "delta is 0.0; give a number of levels above 0"),
        (("fig5", "--pairs", "0"), "pairs is 0; give 1 or more"),
    ],
)
def test_mistakes_are_one_line_before_any_attack(
    images, tmp_path, monkeypatch, capsys, given, said
):
    monkeypatch.chdir(images)
    write_png(images / "flat" / "0.png", np.zeros((28, 28, 1), np.uint8))
    target, more = given[:1], given[1:]
    assert cli.main(words(images, tmp_path, *target, more=more)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("cifar10_full=nowhere.caffemodel", "nowhere.caffemodel"),
        ("cifar10_full=random", "channels"),
        ("lenett", "did you mean 'lenet'"),
    ],
)
def test_a_judge_is_looked_at_before_any_attack(images, tmp_path, capsys, judge, message):
    assert cli.main(words(images, tmp_path, "fig2", more=("--judge", judge))) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_network_labels_the_inversions(images, made, capsys):
    assert cli.main(words(images, made[0], "fig2", more=("--judge", "lenet=random"))) == 0
    assert "labels are by lenet-random" in capsys.readouterr().out
    (row,) = (row for row in table(made[0] / "fig2.csv") if row["layer"] == "ip1")
    assert {row[name] for name in fig2.SHARES} <= {"true", "false"}
    assert 1 <= int(row["still"]) <= 3


def test_inversions_with_jitter_are_others_by_a_solver_without_a_line_search(
    images, tmp_path, capsys
):
    found = []
    for name, more in (("still", ("--solver", "sign")), ("moved", ("--invert-jitter", 2))):
        command = words(images, tmp_path / name, "fig2", more=more)
        assert cli.main(command) == 0
        assert "3 evaluations of sign for each inversion" in capsys.readouterr().out
        found.append(table(tmp_path / name / "fig2.csv")[0])
    still, moved = found
    assert still["pair"] == moved["pair"]
    assert still["loss_guide"] != moved["loss_guide"]
    assert cli.main([*command, "--invert-jitter", "-1"]) == 2
    assert "invert_jitter is -1; give 0 or more pixels" in capsys.readouterr().err


def test_images_must_be_given(tmp_path, capsys):
    assert cli.main(["reproduce", "fig5", *LENET, "--out", str(tmp_path)]) == 2
    assert "images is not given" in capsys.readouterr().err


def test_another_protocol_does_not_mix_with_what_is_there(images, made, capsys):
    out, _ = made
    before = {path: path.read_bytes() for path in out.glob("*.*")}
    assert cli.main([*words(images, out, "fig5"), "--max-evaluations", "7"]) == 2
    said = capsys.readouterr().err
    assert "holds a run with other settings (max_evaluations 6 there, 7 here)" in said
    assert cli.main([*words(images, out, "fig5"), "--pairs", "4"]) == 2
    assert {path: path.read_bytes() for path in out.glob("*.*")} == before


def test_dimensions_are_those_of_the_paper(tmp_path, capsys):
    assert cli.main(["reproduce", "tableS1", "--out", str(tmp_path)]) == 0
    rows = table(tmp_path / "tableS1.csv")
    assert {row["layer"]: int(row["units"]) for row in rows} == published.DIMENSIONS
    assert all(row["units"] == row["paper"] for row in rows)


def test_published_numbers_stand_beside_their_own_network_only():
    def experiment(network="caffenet", weights="w.caffemodel", layer="fc7", delta=10.0):
        return Experiment(TrainedNetwork(network, weights), "feature-opt", layer, delta)

    assert fig5.paper(experiment()) == 0.12
    assert fig5.paper(experiment(layer="conv3")) == 0.59
    assert fig5.paper(experiment()._replace(attack="feature-linear")) == 0.88
    assert table1.paper(experiment(), 3) == (71, 95, -5.98)
    assert table1.paper(experiment("places_hybrid", None), 3) == (85, 100, -1.25)
    assert table2.paper(experiment()._replace(attack="label-opt"), "conv5") == (0, 70)
    for other in (experiment(weights="orthonormal"), experiment("alexnet"), experiment(delta=5.0)):
        assert fig5.paper(other) is None
        assert table2.paper(other, "fc7") is None
    assert table1.paper(experiment(weights="random"), 3) is None
    assert table1.paper(experiment(), 4) is None


def test_a_network_without_an_output_layer_has_no_labels():
    results = {name: np.full(3, np.nan) for name in table_s2.LABELS} | {"ratio": np.ones(3)}
    row, errors = table_s2.ratio_and_labels(results)
    assert row["labels_differ"] == 0
    for name in ("takes_guide_label", "leaves_source_label"):
        assert row[name] is None
        assert errors[name] is None
    assert class_name(None, np.nan) == class_name(["a"], np.nan) == ""


@pytest.mark.parametrize("network", LAYERS)
def test_layers_exist_and_are_in_order(network):
    row = zoo.architecture(network)
    module = nnx.eval_shape(lambda: row.build(None))
    image = jax.ShapeDtypeStruct((1, *row.input_shape), np.float32)
    at = []
    nnx.eval_shape(lambda module, image: at.extend(module(image)), module, image)
    for names in LAYERS[network]:
        places = [at.index(name) for name in names]
        assert places == sorted(places)
    assert LAYERS[network].shown[-1] == row.layer


def folder(classes, each):
    names = [f"{label}/{i}" for label in classes for i in range(each)]
    return Images(names, [name[0] for name in names])


def test_pairs_differ_spread_over_sources_and_classes_and_depend_on_the_seed():
    some = {"source_count": 4, "guide_count": 9}
    pairs = [
        draw_pairs(folder("ab", 9), folder("abc", 5), "abc", pairs=20, seed=s, **some)
        for s in (0, 0, 1)
    ]
    first = pairs[0]
    both = list(zip(first.sources, first.guides, strict=True))
    assert len(set(both)) == 20
    assert all(source[0] != guide[0] for source, guide in both)
    assert len(set(first.sources)) == 4
    assert len(set(first.guides)) == 9
    assert min(first.guide_classes.count(label) for label in "abc") >= 5
    assert first.source_classes == [name[0] for name in first.sources]
    assert both == list(zip(pairs[1].sources, pairs[1].guides, strict=True))
    assert both != list(zip(pairs[2].sources, pairs[2].guides, strict=True))


def test_every_second_source_is_of_a_class_of_the_training_images():
    sources = Images(
        ["n01440764_1.jpg", "n01440764_2.jpg", *(f"x{i}.jpg" for i in range(50))], [None] * 52
    )
    guides = Images(["n01440764/a", "other/b"], ["n01440764", "other"])
    found = draw_pairs(
        sources, guides, guides.classes, pairs=6, source_count=4, guide_count=9, seed=0
    )
    known = dict(zip(found.sources, found.source_classes, strict=True))
    assert sorted(map(str, known.values())) == ["None", "None", "n01440764", "n01440764"]
