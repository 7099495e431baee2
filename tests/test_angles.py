import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine

from advjax.errors import AdvjaxError
from advjax.metrics import angular_consistency

SEEDS = st.integers(0, 2**32 - 1)


def points(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_it_is_a_plain_loop_in_float64():
    z, guide, reference = points(0, 3, 4, 500), points(1, 3, 500), points(2, 3, 15, 500)
    found = jax.jit(angular_consistency)(z, guide, reference)
    far = [part.astype(np.float64) for part in (z, guide, reference)]
    for i in range(3):
        for j in range(4):
            cosines = [1 - cosine(x - far[0][i, j], x - far[1][i]) for x in far[2][i]]
            np.testing.assert_allclose(found[i, j], np.mean(cosines), atol=1e-5)


@settings(deadline=None)
@given(SEEDS)
def test_it_is_1_at_the_guide_and_within_its_range(seed):
    guide, reference = points(seed, 2, 6), points(seed + 1, 2, 5, 6)
    z = np.concatenate([guide[:, None], points(seed + 2, 2, 3, 6)], 1)
    found = np.asarray(angular_consistency(z, guide, reference))
    np.testing.assert_allclose(found[:, 0], 1, atol=1e-6)
    assert (np.abs(found) <= 1).all()


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.01, 100))
def test_rotation_shift_scale_and_order_do_not_matter(seed, scale):
    rng = np.random.default_rng(seed)
    z, guide, reference = points(seed, 1, 3, 8), points(seed + 1, 1, 8), points(seed + 2, 1, 5, 8)
    turn, shift = np.linalg.qr(rng.normal(size=(8, 8)))[0], rng.normal(size=8)
    moved = [
        ((part @ turn + shift) * scale).astype(np.float32)
        for part in (z, guide, reference[:, rng.permutation(5)])
    ]
    expected = angular_consistency(z, guide, reference)
    np.testing.assert_allclose(angular_consistency(*moved), expected, atol=1e-4)


def test_it_falls_with_the_distance_from_the_neighbours():
    # Neighbours around the guide; z walks away in a direction that they do not have.
    reference = points(0, 1, 15, 20)
    reference[..., 0] = 0
    guide = np.zeros((1, 20), np.float32)
    z = np.zeros((1, 6, 20), np.float32)
    z[0, :, 0] = [0, 1, 3, 10, 100, 1000]
    found = np.asarray(angular_consistency(z, guide, reference))[0]
    assert (np.diff(found) < 0).all()
    assert found[-1] < 0.01


def test_a_reference_without_direction_is_left_out():
    guide = np.array([[0.0, 0.0]], np.float32)
    reference = np.array([[[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]], np.float32)
    z = np.array([[[2.0, 0.0], [0.0, 0.0]]], np.float32)
    # z is the second reference: the third alone is left, at <(-2, 1), (0, 1)> / sqrt(5).
    found = angular_consistency(z, guide, reference)
    np.testing.assert_allclose(found, [[1 / np.sqrt(5), 1]], rtol=1e-6)
    assert np.isnan(angular_consistency(z, guide, reference[:, :1])).all()


def test_mistakes_are_named():
    with pytest.raises(AdvjaxError, match=r"shapes \(1, 2\), \(1, 2\), \(1, 5, 2\); give"):
        angular_consistency(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 5, 2)))
    with pytest.raises(AdvjaxError, match=r"give \[b, m, d\], \[b, d\], \[b, r, d\]"):
        angular_consistency(np.zeros((1, 2, 3)), np.zeros((1, 3)), np.zeros((1, 5, 2)))
