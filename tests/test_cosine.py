"""feature-opt in the cosine metric."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.attack_files import attack_files
from advjax.attacks.base import cosine_distance, squared_distance
from advjax.attacks.feature import FeatureOpt
from advjax.errors import AdvjaxError, UnknownName

RNG = np.random.default_rng(0)
SHAPES = {"conv": (3, 4, 5, 2), "fc": (3, 7)}
FEATURES = {k: RNG.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
GUIDE = {k: RNG.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
NET = advjax.load("lenet", "orthonormal")
SOURCES, GUIDES = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28, 1), np.uint8)
COSINE = FeatureOpt(metric="cosine")


def one_less_cosine(layer):
    a, g = (x[layer].reshape(3, -1).astype(np.float64) for x in (FEATURES, GUIDE))
    return 1 - np.sum(a * g, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(g, axis=1)


@pytest.mark.parametrize("weights", [None, (0.25, 4.0)])
def test_the_distance_is_one_less_the_cosine(weights):
    first, second = weights or (1.0, 1.0)
    attack = FeatureOpt(("conv", "fc"), weights, metric="cosine")
    expected = first * one_less_cosine("conv") + second * one_less_cosine("fc")
    np.testing.assert_allclose(attack.distance(FEATURES, GUIDE), expected, rtol=1e-5)
    loss, _ = attack.loss(lambda images: FEATURES, jnp.zeros((3, 2, 2, 3)), GUIDE)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_of_unit_vectors_it_is_half_the_squared_distance():
    unit = [
        {"fc": x["fc"] / np.linalg.norm(x["fc"], axis=1, keepdims=True)} for x in (FEATURES, GUIDE)
    ]
    np.testing.assert_allclose(
        cosine_distance(("fc",), None, *unit), squared_distance(("fc",), None, *unit) / 2, rtol=1e-5
    )


def test_near_the_guide_it_keeps_its_digits():
    """1 - cos of an angle t is t^2 / 2; in float32, 1 - cos itself would be 0."""
    angle = 1e-4
    near = {"fc": np.array([[np.cos(angle), np.sin(angle)]], np.float32)}
    along = {"fc": np.array([[3.0, 0.0]], np.float32)}
    distance = cosine_distance(("fc",), None, near, along)
    np.testing.assert_allclose(distance, angle**2 / 2, rtol=1e-3)


def test_its_gradient_against_finite_differences():
    matrix = RNG.normal(size=(12, 5))

    def loss(x, lib, matrix):
        return cosine_distance(("fc",), None, {"fc": x @ matrix}, {"fc": lib.ones((1, 5))}).sum()

    x, step = RNG.normal(size=(1, 12)), 1e-5
    slope = jax.grad(lambda x: loss(x, jnp, jnp.asarray(matrix, jnp.float32)))(
        jnp.asarray(x, jnp.float32)
    )
    expected = [
        (loss(x + step * e, np, matrix) - loss(x - step * e, np, matrix)) / (2 * step)
        for e in np.eye(12)[:, None]
    ]
    np.testing.assert_allclose(slope[0], expected, rtol=1e-4, atol=1e-5)


def test_activations_that_are_zero_have_a_finite_gradient():
    zero = {"fc": jnp.zeros((1, 4))}
    slope = jax.grad(lambda f: cosine_distance(("fc",), None, {"fc": f}, zero).sum())(zero["fc"])
    assert np.isfinite(slope).all()


def test_an_attack_minimises_the_angle():
    result = advjax.attack(
        *(NET, SOURCES, GUIDES), attack=COSINE, delta=40, solver=advjax.SignMomentum(60), trace=True
    )
    a, g = (np.asarray(NET(x)["ip1"], np.float64) for x in (result.adversarial, GUIDES))
    cosine = np.sum(a * g, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(g, axis=1)
    np.testing.assert_allclose(result.distance, 1 - cosine, rtol=1e-3)
    np.testing.assert_allclose(result.trace[:, 0], result.initial_distance, rtol=1e-3)
    assert (result.ratio < 0.5).all()


def test_a_target_ratio_is_of_the_cosine():
    result = advjax.attack(*(NET, SOURCES, GUIDES), attack=COSINE, delta=40, target_ratio=0.8)
    assert (result.status == advjax.Status.TARGET).all()
    assert (result.ratio <= 0.8 * (1 + 1e-4)).all()


def test_another_metric_is_named():
    with pytest.raises(UnknownName, match="metric"):
        FeatureOpt(metric="cosin")  # pyright: ignore[reportArgumentType]


def test_the_command_line_has_it(tmp_path):
    from advjax.cli.options import AttackOptions

    assert AttackOptions(metric="cosine").settings()["attack"] == COSINE
    with pytest.raises(AdvjaxError, match="label-opt matches no features"):
        AttackOptions("label-opt", metric="cosine").settings()
    for name, image in (("s.png", SOURCES[0]), ("g.png", GUIDES[0])):
        advjax.write_png(tmp_path / name, image)
    record = attack_files(
        *(NET, tmp_path / "s.png", tmp_path / "g.png", tmp_path / "out"),
        attack=COSINE,
        solver=advjax.SignMomentum(5),
    )
    assert record["settings"]["attack_settings"]["metric"] == "cosine"
    kept = json.loads((tmp_path / "out" / "result.json").read_text())
    assert kept["settings"]["attack_settings"]["metric"] == "cosine"
