import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax.errors import AdvjaxError
from advjax.metrics import active_change, active_overlap, active_share


def relu(seed, *shape):
    return np.maximum(np.random.default_rng(seed).normal(size=shape), 0).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_they_are_counts_of_sets(seed):
    a, s = relu(seed, 2, 3, 4, 2), relu(seed + 1, 2, 3, 4, 2)
    share, change, overlap = active_share(a), active_change(a, s), active_overlap(a, s)
    for i in range(2):
        of_a = {j for j, value in enumerate(a[i].ravel()) if value != 0}
        of_s = {j for j, value in enumerate(s[i].ravel()) if value != 0}
        np.testing.assert_allclose(share[i], len(of_a) / 24, rtol=1e-6)
        np.testing.assert_allclose(change[i], (len(of_a) - len(of_s)) / 24, atol=1e-6)
        np.testing.assert_allclose(overlap[i], len(of_a & of_s) / len(of_a | of_s), rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_they_see_which_units_are_active_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    a, s, order = relu(seed, 1, 30), relu(seed + 1, 1, 30), rng.permutation(30)
    overlap = jax.jit(active_overlap)(a, s)
    assert active_overlap(s, a) == overlap
    assert active_overlap(-3 * a, s**2) == overlap
    assert active_overlap(a[:, order], s[:, order]) == overlap
    assert active_overlap(a, a) == 1
    assert active_change(a, a) == 0
    assert active_change(s, a) == -active_change(a, s)


def test_a_large_layer_is_counted_exactly():
    x = np.zeros((1, 290_400), np.float32)
    x[0, ::3] = 1
    assert active_share(x) == np.float32(96_800 / 290_400)


def test_two_silent_layers_are_the_same():
    silent, loud = np.zeros((1, 4)), np.ones((1, 4))
    assert active_overlap(silent, silent) == 1
    assert active_overlap(silent, loud) == 0


def test_mistakes_are_named():
    with pytest.raises(AdvjaxError, match=r"shapes \(1, 4\) and \(1, 5\); give two batches"):
        active_overlap(np.zeros((1, 4)), np.zeros((1, 5)))
