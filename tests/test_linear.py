"""feature-linear against an explicit Jacobian and a dense bounded least-squares solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear

import advjax
from advjax.attacks.base import PairData
from advjax.attacks.linear import FeatureLinear
from advjax.networks.convolution_forms import depthwise_convolution

SHAPE = (3, 4, 2)
RNG = np.random.default_rng(0)
WEIGHTS = jnp.asarray(RNG.normal(0, 0.01, (24, 9)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(0, 0.01, (3, 3, 1, 2)), jnp.float32)


def smooth(images):
    flat = (images - 128).reshape(len(images), -1)
    return {"a": jnp.tanh(flat @ WEIGHTS), "b": jnp.sin(flat @ WEIGHTS[:, :4])}


def depthwise(images):
    """Through a layer with a custom VJP, for which JAX has no forward mode."""
    x = depthwise_convolution(images - 128, KERNEL, padding=1)
    return {"a": jnp.tanh(x), "b": x**2}


def pair(function, seed=1):
    rng = np.random.default_rng(seed)
    source, guide = rng.uniform(0, 255, (2, *SHAPE)).astype(np.float32)
    features = [jax.tree.map(np.asarray, function(jnp.asarray(i[None]))) for i in (source, guide)]
    return source, guide, features


def jacobian(function, layer, source):
    """[units, pixels], one basis vector of the units after the other, by reverse mode."""

    def flat(pixels):
        return function(pixels.reshape(1, *SHAPE))[layer].reshape(-1)

    return np.asarray(jax.jacrev(flat)(jnp.asarray(source).reshape(-1)), np.float64)


@pytest.mark.parametrize("function", [smooth, depthwise])
@pytest.mark.parametrize("layers", [("a",), ("a", "b")])
def test_objective_and_gradient_are_those_of_the_explicit_jacobian(function, layers):
    weights = (3.0, 0.5)[: len(layers)]
    source, _, (found, guide) = pair(function)
    spec = FeatureLinear(layers, weights)
    target = spec.target(PairData(source, found, guide, None))
    images = RNG.uniform(0, 255, (1, *SHAPE)).astype(np.float32)
    value, gradient = 0.0, np.zeros(24)
    for layer, w in zip(layers, weights, strict=True):
        j = jacobian(function, layer, source)
        change = np.float64(images - source).reshape(-1)
        residual = np.float64(found[layer] - guide[layer]).reshape(-1) + j @ change
        value += w * residual @ residual
        gradient += 2 * w * residual @ j

    def total(images):
        return spec.loss(function, images, target)[0].sum()

    ours, slope = jax.value_and_grad(total)(jnp.asarray(images))
    np.testing.assert_allclose(ours, value, rtol=1e-4)
    np.testing.assert_allclose(slope.reshape(-1), gradient, rtol=1e-3, atol=1e-5 * abs(slope).max())


def test_rows_are_linearised_each_at_its_own_source():
    spec = FeatureLinear(("a",))
    given = [pair(smooth, seed) for seed in (1, 2)]
    targets = [spec.target(PairData(s, f, g, None)) for s, _, (f, g) in given]
    images = RNG.uniform(0, 255, (2, *SHAPE)).astype(np.float32)
    both, _ = spec.loss(smooth, images, jax.tree.map(lambda *x: np.concatenate(x), *targets))
    alone = [spec.loss(smooth, images[i : i + 1], targets[i])[0][0] for i in range(2)]
    np.testing.assert_allclose(both, alone, rtol=1e-5)


@pytest.mark.parametrize("delta", [4.0, 30.0])
def test_minimum_is_that_of_a_dense_bounded_least_squares_solver(delta):
    net = advjax.Network(smooth, SHAPE)
    source, guide, (found, guided) = pair(smooth)
    solver = advjax.ProjectedLBFGS(max_evaluations=400, ftol=0.0)
    result = advjax.attack(
        net, source, guide, attack="feature-linear", layer="a", delta=delta, solver=solver
    )
    low, high = np.maximum(source - delta, 0), np.minimum(source + delta, 255)
    best = lsq_linear(
        jacobian(smooth, "a", source),
        np.float64(guided["a"] - found["a"]).reshape(-1),
        ((low - source).reshape(-1) - 1e-9, (high - source).reshape(-1) + 1e-9),
        tol=1e-12,
    )
    np.testing.assert_allclose(result.objective[0], 2 * best.cost, rtol=2e-3)


def test_the_true_distance_is_reported_beside_the_linear_one():
    net = advjax.Network(smooth, SHAPE)
    source, guide, _ = pair(smooth)
    solver = advjax.ProjectedLBFGS(max_evaluations=40)
    result = advjax.attack(
        net, source, guide, attack="feature-linear", layer="a", delta=60, solver=solver, trace=True
    )
    a, g = (np.asarray(net(x, "a")["a"], np.float64) for x in (result.adversarial, guide[None]))
    np.testing.assert_allclose(result.distance[0], np.linalg.norm(a - g), rtol=1e-5)
    linear = np.sqrt(result.objective[0])
    np.testing.assert_allclose(linear**2, np.nanmin(result.trace), rtol=1e-3)
    assert linear < 0.9 * result.distance[0]


def test_of_a_linear_network_it_is_feature_opt():
    net = advjax.Network(lambda i: {"a": (i / 255).reshape(len(i), -1) @ (40 * WEIGHTS)}, SHAPE)
    source, guide, _ = pair(smooth)
    results = [
        advjax.attack(net, source, guide, attack=attack, solver=advjax.ProjectedLBFGS(20))
        for attack in ("feature-opt", "feature-linear")
    ]
    np.testing.assert_allclose(results[1].distance, results[0].distance, rtol=1e-3)
    np.testing.assert_allclose(np.sqrt(results[1].objective), results[1].distance, rtol=1e-3)
