import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from advjax.errors import AdvjaxError, UnknownName
from advjax.metrics import knn, knn_blocks, neighbours


def relu(seed, *shape):
    return np.maximum(np.random.default_rng(seed).normal(size=shape), 0).astype(np.float32)


def oracle(queries, points, k, metric):
    search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute")
    return search.fit(points.astype(np.float64)).kneighbors(queries.astype(np.float64))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_knn_is_scikit_learns(metric, k):
    queries, points = relu(0, 20, 300), relu(1, 400, 300)
    distances, indices = oracle(queries, points, k, metric)
    found = jax.jit(knn, static_argnames=("k", "metric"))(queries, points, k, metric=metric)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-5)
    # Of two at the same distance but for the rounding, either may be first.
    between = np.diff(distances, axis=1) > 1e-5 * distances[:, 1:]
    alone = np.pad(between, ((0, 0), (1, 0)), constant_values=True)
    alone[:, :-1] &= between
    assert alone.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(found.indices)[alone], indices[alone])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_blocks_of_any_size_from_an_array_or_an_iterable(metric, tmp_path):
    queries, points = relu(2, 7, 40), relu(3, 113, 40)
    distances, indices = oracle(queries, points, 4, metric)
    np.save(tmp_path / "points.npy", points)
    on_disk = np.load(tmp_path / "points.npy", mmap_mode="r")
    ways = [points, on_disk, [points], np.array_split(points, 9), (row[None] for row in points)]
    for way in ways:
        for memory in (1, 20_000) if isinstance(way, np.ndarray) else (2**28, 20_000):
            found = knn_blocks(queries, way, 4, metric=metric, memory=memory)
            np.testing.assert_array_equal(found.indices, indices)
            np.testing.assert_allclose(found.distances, distances, rtol=1e-5)
            if not hasattr(way, "__len__"):
                break


def test_near_neighbours_far_from_the_origin():
    # |x|^2 + |y|^2 - 2 <x, y> in float32 is off by some 1e4 here, the distances are about 1.
    rng = np.random.default_rng(4)
    points = (1e5 + rng.integers(0, 64, (500, 30)) / 32).astype(np.float32)
    found = knn(points, points, 4)
    np.testing.assert_allclose(found.distances, nearest(points, 4), rtol=1e-5)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(500))


def nearest(points, k):
    """The distances from differences in float64; scikit-learn's come from products too."""
    return np.sort(cdist(points.astype(np.float64), points.astype(np.float64)), 1)[:, :k]


def clusters():
    """Twenty near copies of each of ten far points: more than the candidates of a block."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(10, 1, 64)) * 1e4
    copies = centres + rng.integers(-8, 9, (10, 20, 64)) / 256
    return copies.reshape(200, 64).astype(np.float32)


def test_more_near_copies_than_candidates_are_searched_in_full():
    points = clusters()
    # The case is what it says: by products alone, even the point itself is not the nearest.
    products = np.asarray(neighbours.squared_distances(points, points))
    assert (products.argmin(1) != np.arange(200)).any()
    for k in (3, 15):
        for found in (knn(points, points, k), knn_blocks(points, points, k, memory=30_000)):
            np.testing.assert_allclose(found.distances, nearest(points, k), rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4]))
def test_a_plain_loop_over_small_whole_numbers(seed, k):
    # Whole numbers: distances are exact, ties are many and go to the lower row.
    rng = np.random.default_rng(seed)
    points = rng.integers(-3, 4, (30, 3)).astype(np.float32)
    queries = rng.integers(-3, 4, (4, 3)).astype(np.float32)
    exclude = rng.integers(-1, 30, (4, 2))
    for found in (
        knn(queries, points, k, exclude=exclude),
        knn_blocks(queries, points, k, exclude=exclude, memory=500),
    ):
        for query, out, distances, indices in zip(queries, exclude, *found, strict=True):
            squares = [
                (float(((point - query) ** 2).sum()), row)
                for row, point in enumerate(points)
                if row not in out
            ]
            expected = sorted(squares)[:k]
            assert [int(i) for i in indices] == [row for _, row in expected]
            np.testing.assert_allclose(distances, np.sqrt([s for s, _ in expected]), rtol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_points_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    points, queries = relu(seed, 50, 8), relu(seed + 1, 5, 8)
    order = rng.permutation(50)
    found, mixed = knn(queries, points, 5), knn(queries, points[order], 5)
    np.testing.assert_allclose(mixed.distances, found.distances, rtol=1e-5)
    # Two points that are equally far, within rounding, may change places.
    apart = np.diff(found.distances, axis=1) > 1e-5 * np.asarray(found.distances)[:, 1:]
    clear = np.pad(apart, ((0, 0), (1, 0)), constant_values=True)
    clear &= np.pad(apart, ((0, 0), (0, 1)))  # the last may be as far as one that is left out
    np.testing.assert_array_equal(order[mixed.indices][clear], np.asarray(found.indices)[clear])


def test_subjects_are_excluded_by_row_not_by_distance():
    points = np.array([[0.0], [0.0], [1.0], [5.0]], np.float32)
    own = np.arange(4)[:, None]
    found = knn_blocks(points, points, 1, exclude=own)
    np.testing.assert_array_equal(found.indices[:, 0], [1, 0, 0, 2])
    np.testing.assert_array_equal(found.distances[:, 0], [0, 0, 1, 4])


def test_within_the_rows_of_a_class():
    points = relu(6, 60, 16)
    rows = np.flatnonzero(np.arange(60) % 4 == 1)
    for memory in (1, 2**28):
        found = knn_blocks(points[rows], points, 2, rows=rows, exclude=rows[:, None], memory=memory)
        expected = oracle(points[rows], points[rows], 3, "euclidean")
        np.testing.assert_array_equal(found.indices, rows[expected[1][:, 1:]])


def test_cosine_of_zero_vectors_is_1():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, -2.0]], np.float32)
    queries = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    found = knn(queries, points, 3, metric="cosine")
    np.testing.assert_allclose(found.distances[0], [1, 1, 1], rtol=1e-6)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found.distances[1], [1 - half, 1, 1 + half], rtol=1e-6)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2], [1, 0, 2]])


def test_near_vectors_keep_the_digits_of_their_cosine_distance():
    points = np.array([[1.0, 1e-4], [1.0, 2e-4]], np.float32)
    found = knn(np.array([[3.0, 0.0]], np.float32), points, 2, metric="cosine")
    # 1 - cos(t) for a small t, from the exact angle; 1 - <u, v> in float32 would give 0.
    angle = np.arctan(points[:, 1].astype(np.float64) / points[:, 0])
    np.testing.assert_allclose(found.distances[0], 2 * np.sin(angle / 2) ** 2, rtol=1e-3)


def test_nan_stays_in_its_own_lane():
    points = np.array([[0.0], [np.nan], [2.0], [3.0]], np.float32)
    found = knn(np.array([[np.nan], [1.9]], np.float32), points, 2)
    np.testing.assert_array_equal(found.indices, [[-1, -1], [2, 3]])
    assert np.isinf(found.distances[0]).all()


def test_too_few_neighbours_are_infinite_inside_and_an_error_at_the_door():
    points = np.arange(3, dtype=np.float32)[:, None]
    found = knn(points, points, 3, exclude=np.arange(3)[:, None])
    np.testing.assert_array_equal(found.indices[:, 2], [-1, -1, -1])
    assert np.isinf(np.asarray(found.distances)[:, 2]).all()
    with pytest.raises(AdvjaxError, match=r"k is 3, but query 1 has 2 neighbours .* lower k or"):
        knn_blocks(points, points, 3, exclude=np.array([[-1], [1], [-1]]))
    with pytest.raises(AdvjaxError, match="k is 4, but there are 3 points"):
        knn(points, points, 4)
    with pytest.raises(AdvjaxError, match="k is 1, but query 0 has 0 neighbours"):
        knn_blocks(points, points[:0], 1)
    with pytest.raises(AdvjaxError, match="query 0 has 0 neighbours"):
        knn_blocks(points, points, 1, rows=np.array([], int))


def test_no_queries_have_no_neighbours():
    points = np.ones((5, 2), np.float32)
    assert knn_blocks(points[:0], points, 2).indices.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0; give a number of neighbours"),
        ({"k": 1.5}, "k is 1.5; give"),
        ({"queries": np.zeros(3)}, r"queries has shape \(3,\)"),
        ({"queries": np.zeros((2, 4))}, "queries has 4 features; give the same layer"),
        ({"queries": np.full((2, 3), np.nan)}, "queries has NaN"),
        ({"exclude": np.zeros(2, int)}, r"exclude is int32\[2\]; give row numbers \[2, e\]"),
        ({"exclude": np.zeros((2, 1))}, r"exclude is float32\[2, 1\]; give row numbers"),
        ({"rows": np.array([0, 9])}, r"rows is int64\[2\]; give row numbers from 0 to 4"),
        ({"rows": np.ones(5, bool)}, r"rows is bool\[5\]; give row numbers"),
        ({"points": [np.ones((5, 3))], "rows": np.array([0])}, "rows needs points as an array"),
        ({"points": [np.ones(5)]}, r"points has shape \(5,\)"),
    ],
)
def test_mistakes_are_named(arguments, message):
    given = {"queries": np.zeros((2, 3)), "points": np.ones((5, 3)), "k": 2} | arguments
    with pytest.raises(AdvjaxError, match=message) as error:
        knn_blocks(given.pop("queries"), given.pop("points"), given.pop("k"), **given)
    assert "\n" not in str(error.value)


def test_another_metric_is_named():
    with pytest.raises(UnknownName, match="metric 'cosin' is not known; did you mean 'cosine'"):
        knn(jnp.zeros((1, 1)), jnp.zeros((1, 1)), 1, metric="cosin")  # pyright: ignore


MEMORY = """
import resource, numpy as np
from advjax.metrics import knn_blocks

block = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
blocks = lambda n: (block + i for i in range(n))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
knn_blocks(block[:50], blocks(3), 3, memory=2**26)
before = peak()
knn_blocks(block[:50], blocks(80), 3, memory=2**26)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_number_of_points():
    # 1.25 GB go through; keeping the blocks would show.
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 150  # MB
