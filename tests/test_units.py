"""Networks of images in 0..1 and other bounds: the doors speak their units, the files levels."""

import json
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import advjax
from advjax import Network, engine
from advjax.analysis.from_run import run_pairs
from advjax.attack_files import attack_files
from advjax.attacks.box import check_delta
from advjax.bank import build_bank
from advjax.data import units, write_png
from advjax.errors import AdvjaxError, ImageError
from advjax.runs.driver import run
from advjax.runs.pair_list import make_pair_list
from advjax.runs.pipeline import Job

SHAPE = (12, 12, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
SOURCES, GUIDES = IMAGES[:3], IMAGES[3:]
SIGN = advjax.SignMomentum(max_evaluations=8)
PARAMS = np.random.default_rng(1).normal(0, 0.1, (432, 9)).astype(np.float32)
BOUNDS = [(0, 1), (-1, 1)]


def in_unit(params, images):
    """A network of images in 0..1."""
    hidden = jnp.tanh((images - 0.5).reshape(len(images), -1) @ params)
    return {"hidden": hidden, "logits": hidden[:, :4]}


def network(bounds=(0, 255)):
    """The same network, of images within these bounds."""
    low, high = bounds

    def function(params, images):
        return in_unit(params, (images - low) / (high - low))

    fields = {"layer": "hidden", "output": "logits"}
    return Network(
        function,
        SHAPE,
        PARAMS,
        bounds=bounds,
        preprocessing=advjax.Preprocessing(crop=SHAPE[0]),
        **fields,
    )


def into(images, bounds):
    """Bring levels to these units as people write it, in float32."""
    return images.astype(np.float32) / np.float32(255) * (bounds[1] - bounds[0]) + bounds[0]


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6),
    st.floats(0.5, 255),
    st.sampled_from(BOUNDS),
    st.floats(-1, 1),
)
def test_a_change_within_delta_is_within_it_in_units(pixels, delta, bounds, part):
    low, high = (np.float32(bound) for bound in bounds)
    source = np.clip(np.float32(pixels) * (high - low) + low, low, high)
    own = delta * units.one_level(bounds)
    change = np.full(source.shape, part * units.delta_to_levels(own, bounds))
    image = units.changed(source, change, own, bounds)
    assert image.dtype == np.float32
    for before, after in zip(source.tolist(), image.tolist(), strict=True):
        assert low <= after <= high
        assert abs(Fraction(after) - Fraction(before)) <= Fraction(own)
    np.testing.assert_array_equal(units.changed(source, 0 * change, own, bounds), source)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_whole_levels_come_back_as_they_were(bounds):
    levels = np.arange(256, dtype=np.uint8)
    for images in (into(levels, bounds), units.from_levels(levels, bounds)):
        np.testing.assert_array_equal(units.to_levels(images, bounds), levels)
    for delta in range(1, 256):
        own = delta * ((bounds[1] - bounds[0]) / 255)
        assert units.delta_to_levels(own, bounds) == delta
        assert units.delta_to_levels(float(np.float32(own)), bounds) == delta


@pytest.mark.parametrize(
    ("attack", "bounds"),
    [
        ("feature-opt", (0, 1)),
        ("feature-opt", (-1, 1)),
        ("feature-fgrad", (-1, 1)),
        ("label-opt", (0, 1)),
    ],
)
def test_an_attack_in_units_is_the_attack_in_levels(attack, bounds):
    solver = {"feature-opt": SIGN, "label-opt": advjax.ProjectedLBFGS(5)}.get(attack)
    spec = advjax.LabelOpt(attempts=1) if attack == "label-opt" else attack
    level = (bounds[1] - bounds[0]) / 255
    expected = advjax.attack(network(), SOURCES, GUIDES, attack=spec, delta=7.0, solver=solver)
    net = network(bounds)
    sources, guides = into(SOURCES, bounds), into(GUIDES, bounds)
    for images in ((sources, guides), (SOURCES, GUIDES)):
        result = advjax.attack(net, *images, attack=spec, delta=7 * level, solver=solver)
        apart = np.abs(np.float64(result.adversarial_uint8) - expected.adversarial_uint8)
        assert (apart > 1).mean() < 0.01
        np.testing.assert_allclose(result.ratio, expected.ratio, rtol=0.02)
        assert result.adversarial.dtype == np.float32
        if attack != "label-opt":  # which is not bounded by delta
            change = np.abs(np.float64(result.adversarial) - np.float64(sources))
            eight_bit = np.abs(np.float64(result.adversarial_uint8) - SOURCES)
            assert change.max() <= 7 * level
            assert eight_bit.max() <= 7
        if attack == "feature-fgrad":
            assert change.max() > 6.999 * level
            assert eight_bit.max() == 7
        # What is reported is of the images that are returned.
        target = np.float64(net(guides)["hidden"])
        for name, found in (
            ("distance", net(result.adversarial)),
            ("distance_uint8", net(result.adversarial_uint8)),
            ("initial_distance", net(sources)),
        ):
            distance = np.linalg.norm(np.float64(found["hidden"]) - target, axis=1)
            np.testing.assert_allclose(getattr(result, name), distance, rtol=1e-4)


def test_a_source_that_has_its_label_is_returned_as_it_is():
    net, sources = network((0, 1)), into(SOURCES, (0, 1)) * np.float32(0.99)
    labels = np.asarray(net(sources, "logits")["logits"]).argmax(1)
    result = advjax.attack(net, sources, labels=labels, attack="label-opt")
    np.testing.assert_array_equal(result.adversarial, sources)


def test_a_stream_has_deltas_in_units_and_ten_levels_without():
    net = network((0, 1))
    sources, guides = into(SOURCES, (0, 1)), into(GUIDES, (0, 1))
    pairs = [engine.Pair(sources[0], guides[0], 20 / 255), (sources[1], guides[1])]
    found = list(advjax.attack_stream(net, pairs, solver=SIGN))
    changes = [np.abs(r.adversarial - s).max() * 255 for r, s in zip(found, sources, strict=False)]
    assert 17 < changes[0] <= 20.001
    assert 8 < changes[1] <= 10.001


def test_inversion_and_transfer_in_units():
    net, levels = network((0, 1)), network()
    guides = into(GUIDES, (0, 1))
    result = advjax.invert(net, guides, solver=SIGN, variation=1.0)
    expected = advjax.invert(levels, GUIDES, solver=SIGN, variation=1.0)
    assert 0 <= result.image.min() <= result.image.max() <= 1
    np.testing.assert_allclose(result.loss, expected.loss, rtol=0.05)
    found = advjax.transfer(net, result.image, into(SOURCES, (0, 1)), guides)
    same = advjax.transfer(levels, result.image * np.float32(255), SOURCES, GUIDES)
    np.testing.assert_allclose(found.ratio, same.ratio, rtol=1e-3)
    with pytest.raises(ImageError, match=r"values from .*must be finite and within 0\.\.1"):
        advjax.transfer(net, *[SOURCES.astype(np.float32)] * 3)


def test_analysis_takes_results_in_units(tmp_path):
    for number, image in enumerate(np.concatenate([IMAGES] * 10)):
        write_png(tmp_path / "photos" / "cats" / f"{number:02}.png", np.roll(image, number))
    tables, protocol = [], advjax.Protocol(within="bank", components=5)
    for name, bounds in (("a", (0, 255)), ("b", (0, 1))):
        net = network(bounds)
        bank = build_bank(net, tmp_path / "photos", "hidden", tmp_path / name, progress=False)
        sources, guides = into(SOURCES, bounds), into(GUIDES, bounds)
        results = advjax.attack(net, SOURCES, GUIDES, attack="feature-fgrad")
        known = {"guide_classes": ["cats"] * 3, "protocol": protocol}
        tables.append(advjax.analyse(results, bank, net, sources, guides, **known).table)
    for name in ("ratio", "max_change", "mean_change", "psnr", "ssim_uint8", "delta_rank"):
        np.testing.assert_allclose(tables[1][name], tables[0][name], rtol=1e-3, err_msg=name)
    assert 9.9 < tables[1]["max_change"].max() <= 10.01


def test_files_and_runs_are_in_levels(tmp_path):
    for number, image in enumerate(IMAGES):
        write_png(tmp_path / f"{number}.png", image)
    (tmp_path / "pairs.csv").write_text("source,guide,delta\n0.png,3.png,\n1.png,4.png,4\n")
    net = network((0, 1))
    record = attack_files(
        net, tmp_path / "0.png", tmp_path / "3.png", tmp_path / "one", delta=6.0, solver=SIGN
    )
    assert record["settings"]["delta"] == 6
    written = load_file(tmp_path / "one" / "adversarial.safetensors")["adversarial"]
    change = np.abs(np.float64(written) - IMAGES[0])
    assert 5 < change.max() <= 6
    json.loads((tmp_path / "one" / "result.json").read_text())

    job = Job(net, delta=6.0, solver=SIGN, keep_float32=True, batch_size=2)
    run(job, make_pair_list(str(tmp_path / "pairs.csv")), tmp_path / "run", progress=False)
    data = advjax.open_run(tmp_path / "run")
    table = data.table().to_pydict()
    assert table["delta"] == [6, 4]
    for index, delta in enumerate((6, 4)):
        exact = data.image_float32(index)
        change = np.abs(np.float64(exact) - IMAGES[index])
        assert delta - 1 < change.max() <= delta
        assert table["max_change"][index] == pytest.approx(change.max())
    pairs = run_pairs(data, net)
    (first, second) = pairs.results()
    assert first.adversarial.max() <= 1
    np.testing.assert_allclose(second.adversarial, data.image_float32(1) / 255, rtol=1e-6)


# What is in the wrong unit.


def test_floats_in_0_to_1_are_refused_by_a_network_of_levels():
    net, images = network(), into(IMAGES, (0, 1))
    remedy = (
        r"no value above 1, and network takes 0\.\.255; multiply by 255, give uint8, or declare"
    )
    calls = {
        "images": lambda: net(images),
        "sources": lambda: advjax.attack(net, images[:3], GUIDES),
        "guides": lambda: advjax.attack(net, SOURCES, images[3:]),
        "source of pair 0": lambda: next(advjax.attack_stream(net, [(images[0], GUIDES[0])])),
        "targets": lambda: advjax.invert(net, images),
        "adversarials": lambda: advjax.transfer(net, images[:3], SOURCES, GUIDES),
    }
    sets = np.stack([images[:3], images[3:]], 1)
    calls["guides "] = lambda: advjax.attack(net, SOURCES, sets)
    for name, call in calls.items():
        with pytest.raises(ImageError, match=f"^{name.strip()} has {remedy}"):
            call()
    half = jnp.asarray(images, jnp.bfloat16)
    with pytest.raises(ImageError, match=remedy):
        net(half)


def test_dark_images_are_no_mistake():
    net = network()
    black = np.zeros((1, *SHAPE), np.float32)
    assert net(black)["hidden"].shape == (1, 9)
    assert net((IMAGES > 99).astype(np.uint8))["hidden"].shape == (6, 9)
    # Beside an image of levels a dark one is what it seems to be.
    sources = np.stack([IMAGES[0].astype(np.float32), np.ones(SHAPE, np.float32)])
    result = advjax.attack(net, sources, sources[::-1], solver=SIGN)
    assert result.initial_distance[0] == result.initial_distance[1]


@pytest.mark.parametrize(
    ("delta", "bounds", "said"),
    [
        (8 / 255, (0, 255), r"under half a level of 255; give levels, such as 10, or declare"),
        (0.499, (0, 255), "under half a level"),
        (10, (0, 1), r"delta is 10, and pixels are 0\.\.1; give a number .* from 0\.00196 .* to 1"),
        (1e-4, (-1, 1), r"delta is 0\.0001, and pixels are -1\.\.1"),
        (float("nan"), (0, 1), "delta is nan"),
    ],
)
def test_a_delta_in_other_units_is_refused(delta, bounds, said):
    with pytest.raises(AdvjaxError, match=said):
        check_delta(delta, bounds)
    net = network(bounds)
    with pytest.raises(AdvjaxError, match=said):
        advjax.attack(net, SOURCES, GUIDES, delta=delta)
    with pytest.raises(AdvjaxError, match=said):
        list(advjax.attack_stream(net, [engine.Pair(SOURCES[0], GUIDES[0], delta)]))


@pytest.mark.parametrize("bounds", [(1, 0), (0, 0), (0, np.inf), (np.nan, 1), 1, (0, 1, 2), "ab"])
def test_bounds_that_cannot_be(bounds):
    with pytest.raises(AdvjaxError, match="give the least and the largest value of a pixel"):
        Network(lambda images: {"x": images}, SHAPE, bounds=bounds)


def test_a_second_attack_in_units_compiles_nothing():
    net = network((0, 1))
    one = {"solver": SIGN, "batch_size": 2}
    advjax.attack(net, SOURCES, GUIDES, **one)
    before = engine.programs.programs_of.cache_info().misses
    advjax.attack(net, SOURCES, GUIDES, **one)
    assert engine.programs.programs_of.cache_info().misses == before
