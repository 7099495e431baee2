"""The fast gradients against their formula, and against the optimum of a linear network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.errors import AdvjaxError

SHAPE = (4, 5, 1)
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(0, 0.01, (20, 6)), jnp.float32)


def function(images):
    x = jnp.tanh((images - 128).reshape(len(images), -1) @ W)
    return {"hidden": x, "top": x[:, :3] - x[:, 3:]}


NET = advjax.Network(function, SHAPE, layer="hidden", output="top")


@pytest.fixture(scope="module")
def images():
    return RNG.integers(0, 256, (2, 5, *SHAPE), dtype=np.uint8)


def stepped(sources, gradient, delta):
    moved = np.float64(sources) - delta * np.sign(gradient)
    return np.clip(moved, 0, 255)


@pytest.mark.parametrize("delta", [3.0, 10.0])
def test_feature_fgrad_is_one_signed_step(images, delta):
    sources, guides = images
    target = NET(guides)["hidden"]

    def loss(x):
        return jnp.sum((function(x)["hidden"] - target) ** 2)

    result = advjax.attack(NET, sources, guides, attack="feature-fgrad", delta=delta, batch_size=2)
    gradient = jax.grad(loss)(jnp.asarray(sources, jnp.float32))
    np.testing.assert_array_equal(result.adversarial, stepped(sources, gradient, delta))
    np.testing.assert_array_equal(result.adversarial, result.adversarial_uint8)
    np.testing.assert_allclose(result.objective, result.distance**2, rtol=1e-4)
    assert (result.ratio < 1).all()


def test_label_fgrad_is_one_signed_step_towards_the_label(images):
    sources = images[0]
    labels = np.array([0, 1, 2, 0, 1])

    def loss(x):
        logs = jax.nn.log_softmax(function(x)["top"])
        return -jnp.sum(jnp.take_along_axis(logs, labels[:, None], 1))

    result = advjax.attack(NET, sources, labels=labels, attack="label-fgrad", delta=7)
    gradient = jax.grad(loss)(jnp.asarray(sources, jnp.float32))
    np.testing.assert_array_equal(result.adversarial, stepped(sources, gradient, 7))
    logs = jax.nn.log_softmax(function(result.adversarial)["top"])
    np.testing.assert_allclose(result.objective, -logs[np.arange(5), labels], rtol=1e-4)


def test_on_one_linear_unit_the_step_is_the_optimum(images):
    """Of (w.I - t)^2 with t out of reach, the least in the box is at a corner, and it is found."""
    w = np.asarray(W[:, 0])
    net = advjax.Network(lambda i: {"unit": i.reshape(len(i), -1) @ w[:, None]}, SHAPE)
    source = images[0, 0]
    far = {"unit": np.array([[1e3]])}
    step = advjax.attack(net, source, far, attack="feature-fgrad", delta=10)
    best = advjax.attack(net, source, far, delta=10, solver=advjax.ProjectedLBFGS(100))
    np.testing.assert_allclose(step.distance, best.distance, rtol=1e-6)
    low, high = np.clip(np.float64(source.reshape(1, -1)) + np.array([[-10], [10]]), 0, 255)
    reached = np.where(w > 0, high, low) @ w
    np.testing.assert_allclose(step.distance, 1e3 - reached, rtol=1e-5)


def test_a_pixel_without_gradient_stays(images):
    net = advjax.Network(lambda i: {"left": i[:, :, :2].reshape(len(i), -1) / 255}, SHAPE)
    sources, guides = images
    result = advjax.attack(net, sources, guides, attack="feature-fgrad")
    np.testing.assert_array_equal(result.adversarial[:, :, 2:], sources[:, :, 2:])
    assert (result.adversarial[:, :, :2] != sources[:, :, :2]).any()


def test_the_step_is_kept_even_if_it_leads_away(images):
    """The method is one step; that it overshoots is its result, not something to hide."""
    source, guide = images[0, :1], np.clip(images[0, :1].astype(int) + 1, 0, 255).astype(np.uint8)
    net = advjax.Network(lambda i: {"all": i.reshape(len(i), -1)}, SHAPE)
    result = advjax.attack(net, source, guide, attack="feature-fgrad", delta=10)
    assert result.ratio[0] > 5


@pytest.mark.parametrize("delta", [0.5, 3.7, 400.0])
@pytest.mark.parametrize("attack", ["feature-fgrad", "label-fgrad"])
def test_box_holds_exactly(images, attack, delta):
    sources = images[0]
    result = advjax.attack(NET, *images, attack=attack, delta=delta)
    for adversarial in (result.adversarial, result.adversarial_uint8):
        assert np.abs(adversarial.astype(np.float64) - sources).max() <= delta
        assert adversarial.min() >= 0
        assert adversarial.max() <= 255


def test_a_nan_ends_its_pair_alone(images):
    net = advjax.Network(
        lambda i: {"a": i.reshape(len(i), -1) + jnp.where(i[:, 0, 0] > 254, jnp.nan, 0)}, SHAPE
    )
    sources, guides = images[0].copy(), images[1].copy()
    sources[:, 0, 0], guides[:, 0, 0] = 100, 100
    sources[2, 0, 0] = 255
    result = advjax.attack(net, sources, guides, attack="feature-fgrad")
    assert result.status[2] == advjax.Status.NON_FINITE
    assert (np.delete(result.status, 2) == advjax.Status.MAX_EVALUATIONS).all()
    np.testing.assert_array_equal(result.adversarial[2], sources[2])


def test_it_takes_no_solver(images):
    with pytest.raises(AdvjaxError, match="feature-fgrad takes one step"):
        advjax.attack(NET, *images, attack="feature-fgrad", solver=advjax.ProjectedLBFGS())
