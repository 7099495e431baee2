"""Results as a person meets them: lengths, pairs, one line, pictures, tables, files."""

import dataclasses
import inspect
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import advjax
from advjax.errors import AdvjaxError
from advjax.sheet import SOURCE

RNG = np.random.default_rng(0)
CLASSES = ("tabby", "cup <3>", "lens", "drum")


def features(params, images):
    x = (images / 255).reshape(len(images), -1) @ params
    return {"fc": x, "prob": jax.nn.softmax(jnp.tanh(x[:, :4]))}


NET = advjax.Network(
    features,
    (8, 8, 3),
    jnp.asarray(RNG.normal(size=(192, 6)), jnp.float32),
    name="tiny",
    layer="fc",
    output="prob",
    classes=CLASSES,
    preprocessing=advjax.Preprocessing("warp", 8, 8),
)
SOURCES, GUIDES = RNG.integers(0, 256, (2, 5, 8, 8, 3), np.uint8)
COLUMNS = [name for name in advjax.PairResult._fields if name not in ("index", "keeps_perceptual")]


def attack(count=5, **settings):
    settings = {
        "max_evaluations": 3,
        "trace": True,
        "delta": [4.0, 5, 6, 7, 8.5][:count],
    } | settings
    return advjax.attack(NET, SOURCES[:count], GUIDES[:count], **settings)


@pytest.fixture(scope="module")
def result():
    return attack()


def same(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


def test_it_is_a_sequence_of_pairs(result):
    assert len(result) == 5
    pairs = list(result)
    assert [pair.index for pair in pairs] == [0, 1, 2, 3, 4]
    for i, pair in enumerate(pairs):
        assert isinstance(pair, advjax.PairResult)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(pair, name), getattr(result, name)[i])
    assert result[-1].ratio == pairs[4].ratio
    assert result[np.int64(2)].index == 2
    for beyond in (5, -6):
        with pytest.raises(IndexError, match="of 5"):
            result[beyond]


@pytest.mark.parametrize("which", [slice(1, 4), [3, 0], np.arange(5) % 2 == 0, slice(0, 0)])
def test_some_pairs_are_a_result_again(result, which):
    some = result[which]
    assert isinstance(some, advjax.AttackResult)
    for name in (*COLUMNS, "source", "guide", "delta", "ratio_uint8"):
        np.testing.assert_array_equal(getattr(some, name), getattr(result, name)[which])
    assert len(repr(some)) < 200


def test_its_fields_cannot_be_set(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.ratio = np.zeros(5)


def test_one_line_says_what_it_is(result):
    for one in (result, result[0], attack(1), attack(2, layer=["fc", "prob"])):
        assert len(repr(one)) < 200
        assert len(repr(one).splitlines()) == 1
    assert repr(result).startswith("AttackResult(5 pairs, feature-opt at fc of tiny: ratio 0.")
    assert repr(attack(1)).startswith("AttackResult(1 pair, ")
    assert "MAX_EVALUATIONS" in repr(result[0])


def test_figures_agree_with_the_network(result):
    """Ratio in 8 bits, and the cosine of the angle in the layer."""
    exact, rounded, guide = (
        np.asarray(NET(images, "fc")["fc"], np.float64)
        for images in (result.adversarial, result.adversarial_uint8, GUIDES)
    )
    distance = np.linalg.norm(rounded - guide, axis=1)
    np.testing.assert_allclose(result.ratio_uint8, distance / result.initial_distance, rtol=1e-5)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(guide, axis=1)
    np.testing.assert_allclose(result.cosine, (exact * guide).sum(1) / lengths, rtol=1e-5)


def test_there_is_no_cosine_of_several_layers_nor_of_zero():
    assert np.isnan(attack(2, layer=["fc", "prob"]).cosine).all()
    zero = {"fc": np.zeros((2, 6), np.float32)}
    assert np.isnan(advjax.attack(NET, SOURCES[:2], zero, max_evaluations=1).cosine).all()
    labelled = advjax.attack(
        NET, SOURCES[:1], labels=[1], attack=advjax.LabelOpt(attempts=1), max_evaluations=1
    )
    assert np.isnan(labelled.cosine).all()
    assert np.isnan(labelled.delta).all()  # the range of pixels is its only box


def test_tables(result):
    table = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {len(column) for column in table.values()} == {5}
    assert table["delta"] == [4, 5, 6, 7, 8.5]
    assert table["status"] == ["MAX_EVALUATIONS"] * 5
    assert table["guide_class"] == [CLASSES[label] for label in result.guide_label]
    frame = result.to_pandas()
    np.testing.assert_array_equal(frame["ratio"], result.ratio)
    np.testing.assert_array_equal(frame["label"], result.label)


def test_to_pandas_without_pandas_says_what_to_do(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(AdvjaxError, match="pip install pandas"):
        result.to_pandas()


def test_a_notebook_shows_pictures(result):
    page = result._repr_html_()
    assert page.count("data:image/png;base64,") == 4 * 4  # of four pairs: three images, difference
    assert "and 1 more" in page
    assert "the budget of evaluations is used" in page
    assert "cup <3>" not in page  # text, never markup
    assert result[:2]._repr_html_().count("<img") == 2 * 4
    activations = {"fc": np.asarray(NET(GUIDES, "fc")["fc"])}
    found = advjax.attack(NET, SOURCES, activations, max_evaluations=1)
    assert found._repr_html_().count("<img") == 4 * 3  # their guide is no image


def test_show_draws_the_pair(result):
    picture = result.show(1)
    assert picture.size[0] > 1000
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert tuple(bytes.fromhex(SOURCE[1:])) in colours
    with pytest.raises(AdvjaxError, match="the guide of pair 0 is no image"):
        advjax.attack(
            NET, SOURCES[:1], {"fc": np.zeros((1, 6), np.float32)}, max_evaluations=1
        ).show()


def test_what_is_saved_is_read_again(result, tmp_path):
    assert result.save(tmp_path / "a") == tmp_path / "a"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"{i:05}" for i in range(5)]
    same(advjax.AttackResult.load(tmp_path / "a"), result)
    one = Image.open(tmp_path / "a" / "00003" / "adversarial.png")
    np.testing.assert_array_equal(np.asarray(one), result.adversarial_uint8[3])


def test_a_smaller_result_leaves_nothing_of_the_larger_one(result, tmp_path):
    result.save(tmp_path, sheets=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "result.json").write_text("of the user")
    few = attack(2, trace=False, layer=["fc", "prob"])
    few.save(tmp_path, sheets=False)
    assert (tmp_path / "mine" / "result.json").read_text() == "of the user"
    (tmp_path / "mine" / "result.json").unlink()
    same(advjax.AttackResult.load(tmp_path), few)


def test_activations_as_guides_are_saved_without_a_picture(tmp_path):
    activations = {"fc": np.asarray(NET(GUIDES[:1], "fc")["fc"])}
    found = advjax.attack(NET, SOURCES[:1], activations, max_evaluations=1)
    found.save(tmp_path)
    assert not (tmp_path / "00000" / "sheet.png").exists()
    same(advjax.AttackResult.load(tmp_path), found)


def test_folders_that_hold_no_result(result, tmp_path):
    with pytest.raises(AdvjaxError, match="holds no results; give a folder"):
        advjax.AttackResult.load(tmp_path)
    result[:1].save(tmp_path, sheets=False)
    (tmp_path / "00000" / "adversarial.safetensors").write_bytes(b"nothing")
    with pytest.raises(AdvjaxError, match=r"result\.json' is no whole result .*make it again"):
        advjax.AttackResult.load(tmp_path)


def test_attack_spells_out_what_a_stream_takes():
    """With the same defaults; only a list's order is given, and its progress is shown."""
    stream, one = (inspect.signature(f).parameters for f in (advjax.attack_stream, advjax.attack))
    assert set(stream) - set(one) == {"pairs", "ordered"}
    assert {n for n in set(stream) & set(one) if stream[n].default != one[n].default} == {
        "progress"
    }
    assert all(p.kind is not p.VAR_KEYWORD for p in one.values())
    with pytest.raises(TypeError, match="max_evaluation"):
        advjax.attack(NET, SOURCES, GUIDES, max_evaluation=3)  # pyright: ignore


def test_solvers_by_name_and_budgets():
    by_name = attack(solver="lbfgs", max_evaluations=4)
    by_object = attack(solver=advjax.ProjectedLBFGS(4), max_evaluations=None)
    replaced = attack(solver=advjax.ProjectedLBFGS(9), max_evaluations=4)
    same(by_object, by_name)
    same(by_object, replaced)
    assert attack(max_evaluations=2).settings["solver"]["name"] == "SignMomentum"
    assert attack(max_evaluations=2).evaluations.max() == 2
    with pytest.raises(AdvjaxError, match="did you mean 'lbfgs'"):
        attack(solver="lbgfs")
    with pytest.raises(AdvjaxError, match="max_evaluations is 0; give 1 or more"):
        attack(max_evaluations=0)
    with pytest.raises(AdvjaxError, match="max_evaluations is 3, and feature-fgrad takes one step"):
        attack(attack="feature-fgrad")


def test_paths_are_taken_as_images(tmp_path):
    for name, images in (("s", SOURCES), ("g", GUIDES)):
        for i, image in enumerate(images):
            advjax.write_png(tmp_path / f"{name}{i}.png", image)
    sources, guides = ([tmp_path / f"{name}{i}.png" for i in range(5)] for name in "sg")
    same(
        advjax.attack(NET, sources, guides, max_evaluations=2),
        attack(max_evaluations=2, trace=False, delta=10),
    )
    one = advjax.attack(NET, str(sources[0]), str(guides[0]), max_evaluations=2)
    same(one, advjax.attack(NET, SOURCES[:1], GUIDES[:1], max_evaluations=2))
    several = advjax.attack(NET, sources[:2], [guides[:2], guides[2:4]], max_evaluations=2)
    same(
        several,
        advjax.attack(NET, SOURCES[:2], GUIDES[:4].reshape(2, 2, 8, 8, 3), max_evaluations=2),
    )
    with pytest.raises(AdvjaxError, match=r"nowhere\.png"):
        advjax.attack(NET, [*sources[:4], "nowhere.png"], guides)


def test_top_names_the_likeliest_classes(tmp_path):
    tops = NET.top(SOURCES, 2)
    probabilities = np.asarray(NET(SOURCES, "prob")["prob"])
    for top, row in zip(tops, probabilities, strict=True):
        order = np.argsort(-row)[:2]
        assert [name for name, _ in top] == [CLASSES[i] for i in order]
        np.testing.assert_allclose([p for _, p in top], row[order], rtol=1e-6)
    advjax.write_png(tmp_path / "one.png", SOURCES[0])
    assert NET.top(SOURCES[0], 2) == NET.top(tmp_path / "one.png", 2) == NET.top(SOURCES[:1], 2)
    assert NET.top([str(tmp_path / "one.png"), SOURCES[1]], 2) == NET.top(SOURCES[:2], 2)
    logits = dataclasses.replace(NET, output="fc", classes=None)
    shares = np.array([[p for _, p in top] for top in logits.top(SOURCES, 6)])
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    with pytest.raises(AdvjaxError, match="tiny has no output layer"):
        dataclasses.replace(NET, output=None).top(SOURCES)


def test_layers_are_a_dict_that_reads_as_a_table():
    assert NET.layers == {"fc": (6,), "prob": (4,)}
    assert repr(NET.layers).splitlines() == ["fc    6  6 units", "prob  4  4 units"]


def test_other_results_are_one_line_too(result):
    moved = advjax.transfer(NET, result.adversarial, SOURCES, GUIDES)
    turned = advjax.invert(NET, GUIDES, max_evaluations=2)
    assert repr(moved).startswith("TransferResult(pairs: 5, ratio 0.")
    assert repr(turned).startswith("InversionResult(images: 5, loss ")
    for one in (moved, turned):
        assert len(repr(one)) < 200
        assert len(repr(one).splitlines()) == 1
