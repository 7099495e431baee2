import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.spatial.distance import cdist, pdist

import advjax
from advjax import metrics
from advjax.errors import AdvjaxError

FLOATS = st.floats(-1e3, 1e3, width=32)


def batches(shape, count):
    return st.tuples(*[npst.arrays(np.float32, shape, elements=FLOATS)] * count)


def relu(seed, *shape, scale=100.0):
    return np.maximum(np.random.default_rng(seed).normal(size=shape) * scale, 0).astype(np.float32)


@pytest.mark.parametrize("units", [(4096,), (55, 55, 96)])
def test_euclidean_is_scipys_in_float64(units):
    x, y = relu(0, 3, *units), relu(1, 3, *units)
    flat = [part.reshape(3, -1).astype(np.float64) for part in (x, y)]
    expected = np.diag(cdist(*flat))
    np.testing.assert_allclose(jax.jit(metrics.euclidean)(x, y), expected, rtol=1e-6)


@pytest.mark.parametrize("units", [(4096,), (55, 55, 96)])
def test_the_cosine_is_scipys_in_float64(units):
    x, y = relu(0, 3, *units), relu(1, 3, *units) - 20
    flat = [part.reshape(3, -1).astype(np.float64) for part in (x, y)]
    expected = 1 - np.diag(cdist(*flat, "cosine"))
    np.testing.assert_allclose(jax.jit(metrics.cosine)(x, y), expected, atol=1e-6)


def test_zero_has_no_direction():
    np.testing.assert_array_equal(metrics.cosine([[0.0, 0.0]], [[1.0, 2.0]]), [0])


def test_euclidean_of_near_points_far_from_the_origin_keeps_its_digits():
    x = np.full((1, 5000), 4096.0, np.float32)
    y = x + np.float32(2**-10)
    np.testing.assert_allclose(metrics.euclidean(x, y), [np.sqrt(5000) * 2**-10], rtol=1e-6)


def test_uint8_does_not_wrap():
    x, y = np.array([[3]], np.uint8), np.array([[5]], np.uint8)
    assert metrics.euclidean(x, y) == 2


@settings(deadline=None)
@given(batches((4, 6), 2))
def test_the_ratio_is_0_at_the_guide_and_1_at_the_source(pair):
    source, guide = pair
    apart = np.abs(source - guide).max(1) > 1e-3
    at_guide = np.asarray(metrics.distance_ratio(guide, source, guide))
    at_source = np.asarray(metrics.distance_ratio(source, source, guide))
    assert (at_guide[apart] == 0).all()
    assert (at_source[apart] == 1).all()


@settings(deadline=None)
@given(batches((3, 5), 3), st.integers(-20, 20))
def test_the_ratio_does_not_depend_on_the_unit(triple, power):
    a, s, g = triple
    # Of smaller differences the squares are nothing in float32, in one unit or in the other.
    differences = np.abs(np.stack([a - g, s - g]))
    assume(not ((differences > 0) & (differences < 1e-10)).any())
    scaled = [part * np.float32(2.0**power) for part in triple]
    np.testing.assert_allclose(
        metrics.distance_ratio(*scaled), metrics.distance_ratio(a, s, g), rtol=1e-5
    )


def test_the_three_ratios_against_scipy():
    a, s, g = relu(0, 4, 300), relu(1, 4, 300), relu(2, 4, 300)
    of_guide, of_source = relu(3, 4), relu(4, 4)
    to_guide, to_source = (np.diag(cdist(a.astype(np.float64), x)) for x in (g, s))
    np.testing.assert_allclose(
        metrics.distance_ratio(a, s, g), to_guide / np.diag(cdist(s, g)), rtol=1e-5
    )
    of_guide, of_source = of_guide + 1, of_source + 1
    np.testing.assert_allclose(
        metrics.nearest_ratio(a, g, of_guide), to_guide / of_guide, rtol=1e-5
    )
    np.testing.assert_allclose(
        metrics.pairwise_ratio(a, s, of_source), to_source / of_source, rtol=1e-5
    )


def test_a_pair_of_equal_activations_has_the_engines_ratio_and_leaves_the_others_alone():
    net = advjax.Network(lambda x: {"mean": x.mean((1, 2))}, (2, 2, 1))
    images = np.full((2, 2, 2, 1), 9, np.uint8)
    by_engine = advjax.attack(net, images[:1], images[1:], solver=advjax.ProjectedLBFGS(3))
    source, guide = jnp.array([[1.0], [4.0], [jnp.nan]]), jnp.array([[1.0], [0.0], [0.0]])
    for adversarial in (source, source + 1):
        ratio = metrics.distance_ratio(adversarial, source, guide)
        assert ratio[0] == by_engine.ratio[0] == 0
        assert jnp.isfinite(ratio[1])
        assert jnp.isnan(ratio[2])


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_classes_means_against_scipy(offset):
    x = relu(5, 60, 500) + np.float32(offset)
    far = x.astype(np.float64)
    square = cdist(far, far) + np.diag(np.full(60, np.inf))
    np.testing.assert_allclose(jax.jit(metrics.mean_pairwise_distance)(x), pdist(far).mean(), 1e-4)
    np.testing.assert_allclose(
        jax.jit(metrics.mean_nearest_distance)(x), square.min(1).mean(), rtol=1e-5
    )


def test_duplicates_in_a_class_are_each_others_nearest():
    # By row, not by distance zero: a subject that is there twice has a neighbour at 0.
    x = jnp.array([[1.0, 1.0], [1.0, 1.0], [4.0, 5.0]])
    np.testing.assert_allclose(metrics.mean_nearest_distance(x), 5 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics.mean_pairwise_distance(x), 10 / 3, rtol=1e-6)


@settings(deadline=None)
@given(npst.arrays(np.float32, (7, 3), elements=FLOATS), st.permutations(range(7)))
def test_the_classes_means_do_not_depend_on_the_order(x, order):
    x = x + np.arange(7, dtype=np.float32)[:, None]
    for mean in (metrics.mean_pairwise_distance, metrics.mean_nearest_distance):
        np.testing.assert_allclose(mean(x), mean(x[list(order)]), rtol=1e-3, atol=1e-2)


def test_mistakes_are_named():
    with pytest.raises(AdvjaxError, match=r"shape \(2, 3\) and y has shape \(2, 4\); give"):
        metrics.euclidean(np.zeros((2, 3)), np.zeros((2, 4)))
    for mean in (metrics.mean_pairwise_distance, metrics.mean_nearest_distance):
        with pytest.raises(AdvjaxError, match="two or more images of a class"):
            mean(np.zeros((1, 3)))
