"""Away, contrast, several guides, tokens, embeddings: each against a plain formula or a loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.attacks.base import PairData
from advjax.errors import AdvjaxError, UnknownName

RNG = np.random.default_rng(0)
FEATURES = {"a": RNG.normal(size=(2, 5, 3)), "b": RNG.normal(size=(2, 7))}
GUIDE = {"a": RNG.normal(size=(2, 5, 3)), "b": RNG.normal(size=(2, 7))}
SETS = {k: RNG.normal(size=(2, 3, *v.shape[1:])) for k, v in FEATURES.items()}
NET = advjax.load("lenet", "orthonormal")
SOURCES, GUIDES = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28, 1), np.uint8)
SIGN = advjax.SignMomentum(30)


def squared(a, g):
    return float(np.sum((a - g) ** 2))


def one_less_cosine(a, g):
    return float(1 - np.sum(a * g) / np.linalg.norm(a) / np.linalg.norm(g))


FORMULAS = {"l2": squared, "cosine": one_less_cosine}


def nearest(a, g, metric):
    costs = [min(FORMULAS[metric](i, j) for j in g) for i in a]
    return np.mean(costs) if metric == "cosine" else np.sum(costs)


def info_nce(a, guides, temperature):
    logits = np.array([1 - one_less_cosine(a, g) for g in guides]) / temperature
    return float(np.log(np.exp(logits).sum()) - logits[0])


CASES = [
    *(
        (advjax.FeatureAway(("a",), metric=m), GUIDE, lambda a, g, m=m: -FORMULAS[m](a, g))
        for m in ("l2", "cosine")
    ),
    *(
        (
            advjax.FeatureOpt(("a",), metric=m, tokens="mean"),
            GUIDE,
            lambda a, g, m=m: FORMULAS[m](a.mean(0), g.mean(0)),
        )
        for m in ("l2", "cosine")
    ),
    *(
        (
            advjax.FeatureOpt(("a",), metric=m, tokens="nearest"),
            GUIDE,
            lambda a, g, m=m: nearest(a, g, m),
        )
        for m in ("l2", "cosine")
    ),
    *(
        (
            advjax.FeatureOpt(("a",), metric=m, guide_weights=(1.0, 0.5, 0.25)),
            SETS,
            lambda a, g, m=m: sum(
                v * FORMULAS[m](a, x) for v, x in zip((1, 0.5, 0.25), g, strict=True)
            ),
        )
        for m in ("l2", "cosine")
    ),
    (
        advjax.FeatureContrast(("a",), negatives=2, temperature=0.5),
        SETS,
        lambda a, g: info_nce(a, g, 0.5),
    ),
]


@pytest.mark.parametrize(("attack", "guide", "formula"), CASES)
def test_value_and_gradient(attack, guide, formula):
    a, g = FEATURES["a"], guide["a"]
    expected = [formula(x, y) for x, y in zip(a, g, strict=True)]
    np.testing.assert_allclose(attack.objective({"a": a}, {"a": g}), expected, rtol=1e-5)
    in_jax = {"a": jnp.asarray(g, jnp.float32)}

    def value(x):
        values, features = attack.loss(lambda images: {"a": images}, x, in_jax)
        return values.sum(), features

    (_, features), slope = jax.value_and_grad(value, has_aux=True)(jnp.asarray(a, jnp.float32))
    assert features["a"].shape == a.shape
    direction, step = RNG.normal(size=a.shape), 1e-5
    moved = [
        sum(formula(x, y) for x, y in zip(a + s * direction, g, strict=True)) for s in (step, -step)
    ]
    wanted = (moved[0] - moved[1]) / (2 * step)
    np.testing.assert_allclose(np.sum(slope * direction), wanted, rtol=1e-3)


def test_distances_are_not_the_objectives_but_what_they_are_about():
    data = {"b": FEATURES["b"]}, {"b": GUIDE["b"]}
    away = advjax.FeatureAway(("b",))
    plain = np.linalg.norm(FEATURES["b"] - GUIDE["b"], axis=1)
    np.testing.assert_allclose(away.distance(*data), plain)
    contrast = advjax.FeatureContrast(("b",), negatives=2)
    first = [one_less_cosine(a, g[0]) for a, g in zip(FEATURES["b"], SETS["b"], strict=True)]
    np.testing.assert_allclose(contrast.distance(data[0], SETS), first, rtol=1e-6)
    weighted = advjax.FeatureOpt(("b",), guide_weights=(1.0, 2.0, 3.0))
    squares = [
        sum(v * squared(a, x) for v, x in zip((1, 2, 3), g, strict=True))
        for a, g in zip(FEATURES["b"], SETS["b"], strict=True)
    ]
    np.testing.assert_allclose(weighted.distance(data[0], SETS), np.sqrt(squares))
    one = PairData(np.zeros((1, 1, 1), np.uint8), {"b": FEATURES["b"][:1]}, {"b": SETS["b"][:1]}, 0)
    assert 0 < weighted.relative_distance(one) <= np.sqrt(2)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_away_raises_the_distance_to_the_source_from_a_random_start(metric):
    attack = advjax.FeatureAway(metric=metric)
    found = advjax.attack(NET, SOURCES, attack=attack, delta=20, solver=SIGN, seed=3)
    a, s = (np.asarray(NET(x)["ip1"], np.float64) for x in (found.adversarial, SOURCES))
    np.testing.assert_allclose(found.initial_distance, 0, atol=1e-6)
    expected = [FORMULAS[metric](*x) for x in zip(a, s, strict=True)]
    root = 0.5 if metric == "l2" else 1
    np.testing.assert_allclose(found.distance, np.power(expected, root), rtol=1e-3)
    noise = np.random.default_rng(0).uniform(-20, 20, SOURCES.shape)
    noisy = NET(np.clip(SOURCES + noise, 0, 255).astype(np.float32))["ip1"]
    chance = [FORMULAS[metric](*x) for x in zip(np.asarray(noisy, np.float64), s, strict=True)]
    assert (np.array(expected) > 4 * np.array(chance)).all()
    assert np.isnan(found.ratio).all()
    again = advjax.attack(NET, SOURCES, attack=attack, delta=20, solver=SIGN, seed=3, batch_size=1)
    np.testing.assert_allclose(again.distance, found.distance, rtol=2e-2)
    other = advjax.attack(NET, SOURCES, attack=attack, delta=20, solver=SIGN, seed=4)
    assert (other.adversarial != found.adversarial).any()


def test_away_ends_at_a_distance_or_at_another_label():
    settings = {"delta": 60, "solver": SIGN}
    free = advjax.attack(NET, SOURCES, attack="feature-away", **settings)
    until = advjax.Until(distance=float(free.distance_uint8.min()) / 2)
    found = advjax.attack(NET, SOURCES, attack="feature-away", until=until, **settings)
    assert (found.status == advjax.Status.TARGET).all()
    assert (found.distance_uint8 >= until.distance).all()
    assert (found.evaluations < free.evaluations).all()
    found = advjax.attack(NET, SOURCES, attack="feature-away", until_label=True, **settings)
    done = found.status == advjax.Status.LABEL
    assert done.any()
    np.testing.assert_array_equal(done, found.label_uint8 != found.source_label)
    with pytest.raises(AdvjaxError, match="feature-away has no ratio to reach"):
        advjax.attack(NET, SOURCES, attack="feature-away", target_ratio=0.5)


def test_several_guides_negatives_and_embeddings_go_through_the_engine():
    sets = np.stack([GUIDES, SOURCES[::-1]], 1)
    acts = np.stack([np.asarray(NET(sets[:, j])["ip1"]) for j in (0, 1)], 1)
    settings = {"delta": 30, "solver": SIGN}
    weighted = advjax.FeatureOpt(guide_weights=(1.0, 0.25))
    one = advjax.attack(NET, SOURCES, sets, attack=weighted, **settings)
    a = np.asarray(NET(one.adversarial)["ip1"])
    squares = ((a[:, None] - acts) ** 2).sum(2) @ np.array([1.0, 0.25])
    np.testing.assert_allclose(one.distance, np.sqrt(squares), rtol=1e-3)
    assert (one.ratio < 0.95).all()
    same = advjax.attack(NET, SOURCES, acts, attack=weighted, **settings)  # embeddings
    np.testing.assert_allclose(same.distance, one.distance, rtol=1e-2)

    contrast = advjax.FeatureContrast(negatives=1)
    found = advjax.attack(NET, SOURCES, sets, attack=contrast, **settings)
    np.testing.assert_allclose(found.cosine, 1 - found.distance, atol=1e-4)
    assert (found.ratio < 1).all()
    for image, guides in zip(np.asarray(NET(found.adversarial)["ip1"]), acts, strict=True):
        assert one_less_cosine(image, guides[0]) < one_less_cosine(image, guides[1])

    array = advjax.attack(NET, SOURCES, acts[:, 0], **settings)
    by_name = advjax.attack(NET, SOURCES, {"ip1": acts[:, 0]}, **settings)
    np.testing.assert_array_equal(array.adversarial, by_name.adversarial)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: advjax.FeatureOpt(tokens="some"), UnknownName, "tokens"),
        (lambda: advjax.FeatureOpt(guide_weights=(1.0, 0.0)), AdvjaxError, "guide_weights is"),
        (lambda: advjax.FeatureContrast(negatives=0), AdvjaxError, "negatives is 0"),
        (lambda: advjax.FeatureContrast(temperature=0.0), AdvjaxError, "temperature is 0"),
        (
            lambda: advjax.attack(NET, SOURCES, GUIDES, attack=advjax.FeatureContrast()),
            AdvjaxError,
            "guide of pair 0 has 1 images, and feature-contrast takes 2",
        ),
        (
            lambda: advjax.attack(NET, SOURCES, attack=advjax.FeatureAway(guide_weights=(1.0,))),
            AdvjaxError,
            "guide of pair 0 is None",
        ),
    ],
)
def test_mistakes_get_one_clear_line(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_linear_map_takes_tokens_and_weights_too():
    attack = advjax.FeatureLinear(("a",), tokens="mean")
    target = {"guide": {"a": jnp.asarray(GUIDE["a"], jnp.float32)}, "source": jnp.zeros((2, 5, 3))}
    images = jnp.asarray(FEATURES["a"], jnp.float32)
    value, _ = attack.loss(lambda x: {"a": 2 * x}, images, target)
    doubled = dataclasses.replace(attack).objective({"a": 2 * FEATURES["a"]}, GUIDE)
    np.testing.assert_allclose(value, doubled, rtol=1e-5)
