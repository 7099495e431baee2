import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from advjax.errors import AdvjaxError
from advjax.metrics import class_statistics


def relu(seed, n, d):
    return np.maximum(np.random.default_rng(seed).normal(size=(n, d)), 0).astype(np.float32)


def loop(points, k):
    """Scores, mean nearest and mean pairwise distance in float64."""
    distances = pdist(points.astype(np.float64))
    ordered = np.sort(squareform(distances), 1)[:, 1:]  # without itself: no two are equal
    return ordered[:, :k].mean(1), ordered[:, 0].mean(), distances.mean()


@pytest.mark.parametrize("memory", [2**28, 20 * 100 * 9, 1])  # one block, blocks of 9, of 1
@pytest.mark.parametrize(("n", "k"), [(40, 3), (33, 1), (4, 3)])
def test_it_is_a_plain_loop_whatever_the_blocks(n, k, memory):
    points = relu(0, n, 100)
    scores, nearest, pairwise = loop(points, k)
    found = class_statistics(points, k, memory=memory)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    np.testing.assert_allclose(found.mean_nearest, nearest, rtol=1e-5)
    np.testing.assert_allclose(found.mean_pairwise, pairwise, rtol=1e-4)


def test_rows_of_a_memory_map(tmp_path):
    np.save(tmp_path / "points.npy", relu(1, 60, 30))
    points = np.load(tmp_path / "points.npy", mmap_mode="r")
    rows = np.array([2, 3, 4, 9, 30, 59])
    found, alone = class_statistics(points, rows=rows), class_statistics(np.array(points[rows]))
    np.testing.assert_array_equal(found.scores, alone.scores)
    assert found[1:] == alone[1:]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_the_order_changes_only_the_order(seed):
    points = relu(seed, 12, 5)
    order = np.random.default_rng(seed).permutation(12)
    one, other = class_statistics(points), class_statistics(points[order])
    np.testing.assert_allclose(one.scores[order], other.scores, rtol=1e-5)
    np.testing.assert_allclose(one[1:], other[1:], rtol=1e-4)


def test_copies_are_each_others_neighbours():
    points = np.repeat(relu(2, 1, 5), 4, 0)
    found = class_statistics(points)
    assert (found.scores == 0).all()
    assert found[1:] == (0, 0)


def test_a_small_class_is_named():
    with pytest.raises(AdvjaxError, match="k is 3, but a class of 3 images leaves 2 neighbours"):
        class_statistics(np.zeros((3, 2), np.float32))
    with pytest.raises(AdvjaxError, match="a class of 0 images leaves 0 neighbours"):
        class_statistics(np.zeros((3, 2), np.float32), rows=np.array([], int))
