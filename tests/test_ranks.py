import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import percentileofscore

from advjax.errors import AdvjaxError
from advjax.metrics import intersection, neighbour_scores, neighbourhood, percentile_rank

SEEDS = st.integers(0, 2**32 - 1)


def relu(seed, *shape):
    return np.maximum(np.random.default_rng(seed).normal(size=shape), 0).astype(np.float32)


@settings(deadline=None)
@given(SEEDS)
def test_intersection_is_that_of_sets(seed):
    rng = np.random.default_rng(seed)
    x, y = (np.stack([rng.permutation(6)[:3] for _ in range(5)]) for _ in range(2))
    expected = [len(set(i) & set(j)) for i, j in zip(x.tolist(), y.tolist(), strict=True)]
    np.testing.assert_array_equal(intersection(x, y), expected)


def test_missing_neighbours_are_not_common():
    assert intersection(np.array([[4, -1, -1]]), np.array([[-1, 4, -1]])) == 1


@settings(deadline=None)
@given(SEEDS)
def test_percentile_rank_is_scipys(seed):
    rng = np.random.default_rng(seed)
    population = rng.integers(0, 9, 20).astype(np.float32)  # with ties
    scores = rng.integers(0, 9, 6).astype(np.float32)
    expected = [percentileofscore(population, score, kind="mean") for score in scores]
    np.testing.assert_allclose(percentile_rank(scores, population), expected, rtol=1e-6)
    without = rng.integers(0, 20, 6)
    expected = [
        percentileofscore(np.delete(population, row), score, kind="mean")
        for score, row in zip(scores, without, strict=True)
    ]
    np.testing.assert_allclose(percentile_rank(scores, population, without), expected, rtol=1e-6)


@settings(deadline=None)
@given(SEEDS)
def test_percentile_rank_depends_on_the_order_alone(seed):
    rng = np.random.default_rng(seed)
    population, scores = rng.normal(size=15), rng.normal(size=4)
    rank = percentile_rank(scores, population)
    np.testing.assert_array_equal(rank, percentile_rank(scores, rng.permutation(population)))
    np.testing.assert_array_equal(rank, percentile_rank(np.exp(scores), np.exp(population)))


def test_percentile_rank_of_nothing_is_nan():
    rank = percentile_rank(np.array([np.nan, 1.0]), np.array([2.0]), np.array([-1, 0]))
    assert np.isnan(rank).all()


def loop(a, g, points, row, k):
    """The definition of section 4.1 in float64, one guide at a time."""
    points = points.astype(np.float64)
    square = cdist(points, points)
    scores = [np.sort(np.delete(square[i], i))[:k].mean() for i in range(len(points))]
    rest = np.delete(np.arange(len(points)), row)
    near, score = [], []
    for x in (a, g):
        distance = cdist(x[None].astype(np.float64), points[rest])[0]
        near.append(set(rest[np.argsort(distance)[:k]]))
        score.append(np.sort(distance)[:k].mean())
    ranks = [100 * np.mean([scores[i] < s for i in rest]) for s in score]
    return len(near[0] & near[1]), ranks[0], ranks[1]


@pytest.mark.parametrize("k", [3, 5])
def test_neighbourhood_is_a_plain_loop(k):
    points = relu(0, 60, 100)
    rows = np.array([3, 17, 59])
    guides = points[rows]
    adversarial = guides + 0.4 * relu(1, 3, 100)
    population = neighbour_scores(points, k)
    found = jax.jit(neighbourhood, static_argnums=5)(
        adversarial, guides, points, population, rows, k
    )
    for i, row in enumerate(rows):
        common, rank_a, rank_g = loop(adversarial[i], guides[i], points, row, k)
        assert found.common[i] == common
        np.testing.assert_allclose(found.rank_adversarial[i], rank_a, rtol=1e-5)
        np.testing.assert_allclose(found.rank_guide[i], rank_g, rtol=1e-5)
        np.testing.assert_allclose(found.delta_rank[i], rank_a - rank_g, rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_at_the_guide_all_neighbours_are_common_and_the_rank_is_the_guides(seed):
    points = relu(seed, 20, 12)
    rows = np.array([0, 7, -1])
    guides = np.concatenate([points[rows[:2]], relu(seed + 1, 1, 12)])
    found = neighbourhood(guides, guides, points, neighbour_scores(points), rows)
    np.testing.assert_array_equal(found.common, 3)
    np.testing.assert_array_equal(found.delta_rank, 0)


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.permutations(range(20)))
def test_the_order_of_the_class_does_not_matter(seed, order):
    order = np.array(order)
    points, adversarial = relu(seed, 20, 12), relu(seed + 1, 2, 12)
    rows = np.array([5, 11])
    moved = np.argsort(order)[rows]
    found = neighbourhood(adversarial, points[rows], points, neighbour_scores(points), rows)
    mixed = points[order]
    other = neighbourhood(adversarial, mixed[moved], mixed, neighbour_scores(mixed), moved)
    for x, y in zip(found, other, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_a_small_class_is_named():
    with pytest.raises(AdvjaxError, match="k is 3, but a class of 3 images leaves 2 neighbours"):
        neighbour_scores(np.zeros((3, 2)))
    with pytest.raises(AdvjaxError, match="lower k or take a class with more images"):
        neighbourhood(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((3, 2)), np.zeros(3), [0])
