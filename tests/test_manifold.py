import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from advjax.errors import AdvjaxError
from advjax.metrics import (
    delta_log_likelihood,
    fit_ppca,
    log_likelihood,
    mahalanobis,
    move_to,
    reference_sets,
)

SEEDS = st.integers(0, 2**32 - 1)


def cloud(seed, n, d, offset=0.0):
    """n correlated points in d dimensions, as float32."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(d, d)) * np.exp(-np.arange(d) / 5)[None, :] + 0.1 * np.eye(d)
    return (rng.normal(size=(n, d)) @ spread.T + offset).astype(np.float32)


def tipping_bishop(points, q):
    """Mean and full covariance of the closed form, in float64, by the d x d eigenproblem."""
    x = points.astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[q:].sum() / (x.shape[1] - q)
    top = vectors[:, :q]
    return x.mean(0), (top * (values[:q] - noise)) @ top.T + noise * np.eye(x.shape[1])


@pytest.mark.parametrize(("n", "d", "q"), [(15, 60, 10), (15, 60, 1), (15, 12, 11), (200, 30, 5)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_likelihood_is_that_of_the_multivariate_normal(n, d, q, offset):
    points, x = cloud(0, n, d, offset), cloud(1, 8, d, offset)
    mean, covariance = tipping_bishop(points, q)
    expected = multivariate_normal(mean, covariance).logpdf(x.astype(np.float64))
    model = jax.jit(fit_ppca, static_argnums=1)(points[None], q)
    np.testing.assert_allclose(jax.jit(log_likelihood)(model, x[None])[0], expected, rtol=1e-3)


def test_fit_is_that_of_the_dense_eigenproblem():
    points = cloud(2, 15, 60, offset=10.0)
    mean, covariance = tipping_bishop(points, 10)
    model = fit_ppca(points[None], 10)
    values = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(model.mean[0], mean, rtol=1e-5)
    np.testing.assert_allclose(model.variances[0], values[:10], rtol=1e-4)
    np.testing.assert_allclose(model.noise[0], values[-1], rtol=1e-4)
    v = np.asarray(model.components[0], np.float64)
    np.testing.assert_allclose(v @ v.T, np.eye(10), atol=1e-5)
    noise = float(model.noise[0])
    dense = (v.T * (np.asarray(model.variances[0]) - noise)) @ v + noise * np.eye(60)
    np.testing.assert_allclose(dense, covariance, atol=1e-4 * np.abs(covariance).max())


@pytest.mark.parametrize("q", [2, 7])
def test_difference_is_scikit_learns_score_with_the_mean_moved(q):
    # scikit-learn divides by n - 1: the points are drawn together by sqrt((n - 1) / n) for it.
    n, d = 40, 9
    points, x, guide = cloud(3, n, d), cloud(4, 6, d), cloud(5, 1, d)[0]
    far = points.astype(np.float64)
    drawn = far.mean(0) + np.sqrt((n - 1) / n) * (far - far.mean(0))
    pca = PCA(q, svd_solver="full").fit(drawn)
    pca.mean_ = guide.astype(np.float64)
    expected = pca.score_samples(x.astype(np.float64)) - pca.score_samples(pca.mean_[None])
    model = fit_ppca(points[None], q)
    found = jax.jit(delta_log_likelihood)(model, x[None], guide[None])
    np.testing.assert_allclose(found[0], expected, rtol=1e-3)


def test_difference_is_the_normals_at_a_guide_far_from_the_mean():
    points, x, guide = cloud(6, 15, 80), cloud(7, 5, 80), cloud(8, 1, 80)[0] + 3
    _, covariance = tipping_bishop(points, 10)
    normal = multivariate_normal(guide.astype(np.float64), covariance)
    expected = normal.logpdf(x.astype(np.float64)) - normal.logpdf(guide.astype(np.float64))
    model = fit_ppca(points[None], 10)
    found = delta_log_likelihood(model, x[None], guide[None])
    np.testing.assert_allclose(found[0], expected, rtol=1e-3)
    moved = move_to(model, guide[None])
    both = log_likelihood(moved, x[None]) - log_likelihood(moved, guide[None, None])
    np.testing.assert_allclose(both, found, rtol=1e-3)


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_the_guide_is_as_likely_as_itself_and_nobody_is_likelier(seed):
    model = fit_ppca(cloud(seed, 15, 30)[None], 10)
    guide = cloud(seed + 1, 1, 30)
    x = np.concatenate([guide, cloud(seed + 2, 4, 30)])
    found = np.asarray(delta_log_likelihood(model, x[None], guide))
    assert found[0, 0] == 0
    assert (found[0, 1:] < 0).all()


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_rotation_shift_and_order_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    points, x = cloud(seed, 15, 30), cloud(seed + 1, 4, 30)
    turn = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    shift, order = rng.normal(size=30), rng.permutation(15)
    moved = [(part @ turn + shift).astype(np.float32) for part in (points[order], x)]
    expected = mahalanobis(fit_ppca(points[None], 5), x[None])
    found = mahalanobis(fit_ppca(moved[0][None], 5), moved[1][None])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_batch_is_its_models_one_by_one():
    points = np.stack([cloud(i, 15, 40) for i in range(3)])
    x = np.stack([cloud(9 + i, 2, 40) for i in range(3)])
    together = log_likelihood(fit_ppca(points, 4), x)
    for i in range(3):
        alone = log_likelihood(fit_ppca(points[i : i + 1], 4), x[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-5)


def test_points_without_noise_give_nan_in_their_own_lane():
    flat = np.repeat(cloud(0, 5, 40), 3, 0)  # 15 points, 4 dimensions
    model = fit_ppca(np.stack([flat, cloud(1, 15, 40)]), 6)
    found = mahalanobis(model, np.zeros((2, 1, 40), np.float32))
    assert np.isnan(found[0, 0])
    assert np.isfinite(found[1, 0])


LARGE = """
import resource, numpy as np, jax
from advjax.metrics import delta_log_likelihood, fit_ppca

rng = np.random.default_rng(0)
points = np.maximum(rng.standard_normal((1, 31, 290400), np.float32), 0)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
jax.jit(lambda x: x + 1)(1.0)
before = peak()
model = jax.jit(fit_ppca)(points[:, :15])
found = jax.jit(delta_log_likelihood)(model, points[:, 15:], points[:, 0])
found.block_until_ready()
grown = peak() - before
x = points[0, :15].astype(np.float64)
z = x - x.mean(0)
_, s, v = np.linalg.svd(z, full_matrices=False)
noise = (s[10:] ** 2).sum() / 15 / (290400 - 10)
d = points[0, 15:].astype(np.float64) - points[0, 0]
inside = d @ v[:10].T
out = ((d - inside @ v[:10]) ** 2).sum(1)
expected = -0.5 * ((inside**2 / (s[:10] ** 2 / 15)).sum(1) + out / noise)
print(grown, np.abs(np.asarray(found[0]) / expected - 1).max())
"""


def test_conv1_of_caffenet_fits_in_memory_and_keeps_its_digits():
    command = [sys.executable, "-c", LARGE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes, error = map(float, done.stdout.split())
    assert megabytes < 500
    assert error < 1e-3


def test_reference_sets_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    neighbours = np.stack([rng.permutation(1000)[:60] for _ in range(200)])
    sets = jax.jit(reference_sets)(neighbours, jax.random.key(1))
    assert [part.shape for part in sets] == [(200, 15), (200, 5), (200, 10)]
    lists = (np.asarray(part).tolist() for part in (neighbours, *sets))
    for row, reference, near, far in zip(*lists, strict=True):
        assert sorted(reference + near) == sorted(row[:20])
        assert far == row[40:50]
    # Random: every place of the 20 is left out about as often (5 of 20, 200 times).
    counts = [(neighbours[:, [i]] == np.asarray(sets.near)).any(1).sum() for i in range(20)]
    assert sum(counts) == 1000
    assert min(counts) > 25
    assert max(counts) < 80


def test_reference_sets_follow_the_seed():
    neighbours = np.arange(50)[None]
    one, same, other = (reference_sets(neighbours, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one.reference, same.reference)
    assert (one.reference != other.reference).any()


def test_a_key_for_each_guide_makes_its_sets_its_own():
    neighbours = np.stack([np.arange(50), np.arange(50) + 100])
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(2))
    both, second = reference_sets(neighbours, keys), reference_sets(neighbours[1:], keys[1:])
    for one, other in zip(both, second, strict=True):
        np.testing.assert_array_equal(one[1:], other)
    assert (both.reference[0] != both.reference[1] - 100).any()


def test_mistakes_are_named():
    with pytest.raises(AdvjaxError, match="components is 14, but 15 points in 60 dimensions allow"):
        fit_ppca(np.zeros((1, 15, 60)), 14)
    with pytest.raises(AdvjaxError, match="allow 1 to 4; give fewer components"):
        fit_ppca(np.zeros((1, 15, 5)), 5)
    with pytest.raises(AdvjaxError, match=r"points has shape \(15, 60\); give \[b, n, d\]"):
        fit_ppca(np.zeros((15, 60)))
    with pytest.raises(AdvjaxError, match=r"neighbours has shape \(1, 49\); give \[b, 50\]"):
        reference_sets(jnp.zeros((1, 49), int), jax.random.key(0))
    with pytest.raises(AdvjaxError, match="reference, near and far are 25, 20"):
        reference_sets(jnp.zeros((1, 50), int), jax.random.key(0), reference=25)
