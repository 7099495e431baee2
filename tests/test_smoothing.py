"""Smoothed gradients: values bit for bit, the derivative a closed formula, lanes independent."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import advjax
from advjax.attacks.base import PairData
from advjax.errors import AdvjaxError
from advjax.networks import zoo
from advjax.smoothing import count_kinks, smooth_kinks

pytestmark = pytest.mark.device

X = jnp.asarray(3 * np.random.default_rng(0).normal(size=(4, 50)), jnp.float32)
WEIGHTS = jnp.arange(1.0, 51.0)[None]

KINKS = {
    "relu": (jax.nn.relu, 1),
    "relu6": (jax.nn.relu6, 2),
    "maximum": (lambda x: jnp.maximum(x, 0), 1),
    "minimum": (lambda x: jnp.minimum(1.5, x), 1),
    "clip": (lambda x: jnp.clip(x, -1, 2), 2),
    "clamp": (lambda x: lax.clamp(x.dtype.type(-1), x, x.dtype.type(2)), 2),
    "leaky_relu": (jax.nn.leaky_relu, 1),
    "prelu": (lambda x: jnp.where(x > 0, x, (WEIGHTS / 100).astype(x.dtype) * x), 1),
    "where": (lambda x: jnp.where(x > 0, x, 0.0), 1),
    "where, turned": (lambda x: jnp.where(x < 0, 0.0, x), 1),
    "hard_sigmoid": (jax.nn.hard_sigmoid, 2),
    "hard_swish": (jax.nn.hard_swish, 2),
    "hard_tanh": (jax.nn.hard_tanh, 2),
    "checkpoint": (jax.checkpoint(jax.nn.relu), 1),
    "jit": (jax.jit(jax.nn.relu), 1),
    "vmap": (jax.vmap(jax.nn.relu), 1),
    "scan": (lambda x: lax.scan(lambda c, _: (jax.nn.relu(c - 0.1), c), x, None, 3), 1),
    "cond": (lambda x: lax.cond(x[0, 0] > 9, jax.nn.relu6, jax.nn.relu, x), 3),
    "two layers": (lambda x: jax.nn.relu(jax.nn.relu(x) @ jnp.eye(50) - 1), 2),
}


def total(outputs):
    leaves = jax.tree.leaves(outputs)
    rows = [leaf.astype(jnp.float32).reshape(-1, 50) for leaf in leaves]
    return sum(jnp.sum(each * WEIGHTS) for each in rows)


def gradient(function, x):
    return jax.grad(lambda x: total(function(x)))(x)


@pytest.mark.parametrize("name", KINKS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_are_equal_and_the_derivative_is_not(name, dtype):
    function, count = KINKS[name]
    x = X.astype(dtype)
    smoothed = smooth_kinks(function)
    assert count_kinks(function, x) == count
    for a, b in zip(
        jax.tree.leaves(jax.jit(functools.partial(smoothed, 0.3))(x)),
        jax.tree.leaves(jax.jit(function)(x)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    wide = gradient(functools.partial(smoothed, 0.3), x)
    assert bool(jnp.isfinite(wide).all())
    assert bool((wide != gradient(function, x)).any())


@pytest.mark.parametrize("name", KINKS)
def test_width_to_zero_is_the_exact_gradient(name):
    function, _ = KINKS[name]
    exact = gradient(function, X)
    for width in (0.0, 1e-7):
        smoothed = gradient(functools.partial(smooth_kinks(function), width), X)
        np.testing.assert_allclose(smoothed, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [0.01, 0.1, 0.5, 1.0])
def test_derivative_of_relu_and_relu6_is_the_ramp(width):
    x = np.asarray(X, np.float64)

    def ramp(x, m):
        return np.clip(0.5 + x / (8 * width * m), 0, 1)

    m = np.abs(x).mean(1, keepdims=True)
    slope = gradient(functools.partial(smooth_kinks(jax.nn.relu), width), X) / WEIGHTS
    np.testing.assert_allclose(slope, ramp(x, m), atol=1e-5)
    slope = gradient(functools.partial(smooth_kinks(jax.nn.relu6), width), X) / WEIGHTS
    np.testing.assert_allclose(slope, ramp(x, m) - ramp(x - 6, m), atol=1e-5)


def test_units_that_are_all_zero_keep_the_exact_gradient():
    """A residual block that begins at zero: relu's derivative at 0 is 0, also when smoothed."""
    slope = gradient(functools.partial(smooth_kinks(jax.nn.relu), 0.5), jnp.zeros((2, 50)))
    np.testing.assert_array_equal(slope, 0)


def layer_norm(x):
    """The variance of Flax's norms, with its floor at 0."""
    mean = x.mean(1, keepdims=True)
    variance = jnp.maximum(0, (x**2).mean(1, keepdims=True) - mean**2)
    return (x - mean) * lax.rsqrt(variance + 1e-6)


def unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def unit_by_where(x):
    norm = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(norm >= 1e-12, norm, 1e-12)


@pytest.mark.parametrize(
    "function",
    [
        layer_norm,
        unit,
        unit_by_where,
        jax.nn.gelu,
        jax.nn.silu,
        jax.nn.elu,
        jax.nn.selu,
        jnp.tanh,
        jnp.abs,
        lambda x: x.max(1),
    ],
)
def test_without_kinks_the_function_has_its_own_gradient(function):
    assert count_kinks(function, X) == 0

    def loss(f):
        return jax.grad(lambda x: jnp.sum(f(x)))(X)

    np.testing.assert_array_equal(
        loss(functools.partial(smooth_kinks(function), 0.5)), loss(function)
    )


def test_a_gradient_rule_of_the_users_own_is_kept():
    @jax.custom_vjp
    def straight_through(x):
        return jnp.maximum(x, 0)

    straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, ct: (ct,))

    @jax.custom_jvp
    def rounded(x):
        return jnp.round(jnp.maximum(x, 0))

    rounded.defjvp(lambda primals, tangents: (rounded(*primals), tangents[0]))

    for function in (straight_through, rounded):
        assert count_kinks(function, X) == 0
        np.testing.assert_array_equal(
            gradient(functools.partial(smooth_kinks(function), 0.5), X),
            jnp.broadcast_to(WEIGHTS, X.shape),
        )


def test_rows_have_widths_of_their_own_and_know_nothing_of_each_other():
    function = KINKS["two layers"][0]
    widths = jnp.array([0.01, 0.1, 0.5, 1.0])
    together = gradient(functools.partial(smooth_kinks(function), widths), X)
    for i in range(4):
        alone = gradient(functools.partial(smooth_kinks(function), widths[i]), X[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-5, atol=1e-5)


def test_a_batch_folded_into_another_axis_is_evaluated_image_by_image():
    """Windows of Swin: [b, 50] becomes [5 b, 10]; the mean is still over one whole image."""

    def folded(x):
        return jax.nn.relu(x.reshape(-1, 10)).reshape(x.shape)

    widths = jnp.array([0.01, 0.1, 0.5, 1.0])
    np.testing.assert_array_equal(smooth_kinks(folded)(widths, X), folded(X))
    np.testing.assert_allclose(
        gradient(functools.partial(smooth_kinks(folded), widths), X),
        gradient(functools.partial(smooth_kinks(jax.nn.relu), widths), X),
        rtol=1e-6,
    )


def test_another_axis_of_the_batchs_length_is_not_taken_for_the_batch():
    """Four channels stand first, and the batch has four images."""

    def turned(x):
        return jax.nn.relu(x.T).T

    images = X[:, :4]
    widths = jnp.array([0.01, 0.1, 0.5, 1.0])

    def of(function):
        smoothed = functools.partial(smooth_kinks(function), widths)
        return jax.grad(lambda x: jnp.sum(smoothed(x) * WEIGHTS[:, :4]))(images)

    np.testing.assert_allclose(of(turned), of(jax.nn.relu), rtol=1e-6)


RELUS = {
    "caffenet": 7,
    "alexnet": 7,
    "places205_alexnet": 7,
    "places_hybrid": 7,
    "flickr_style": 7,
    "vgg_cnn_s": 7,
    "googlenet": 57,
    "squeezenet": 26,
    "lenet": 1,
    "cifar10_full": 3,
    "cifar10_quick": 3,
    "efficientnet_lite0": 2 * 33,  # ReLU6 has two kinks
    "efficientnet_lite1": 2 * 43,
    "efficientnet_lite2": 2 * 43,
    "face_descriptor": 29,
}


@pytest.mark.parametrize("name", sorted(zoo.ARCHITECTURES))
def test_every_relu_of_the_zoo_is_a_kink(name):
    module = zoo.ARCHITECTURES[name].build(None)  # zeros: nothing is computed
    images = jax.ShapeDtypeStruct((2, *zoo.ARCHITECTURES[name].input_shape), jnp.float32)
    assert count_kinks(lambda images: module(images), images) == RELUS[name]


class Block(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
        self.conv2 = nnx.Conv(3, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        inner = self.conv2(nnx.relu(self.norm(self.conv1(x))))
        return nnx.relu(x + inner)


def test_a_flax_residual_network():
    net = advjax.Network.from_nnx(Block(nnx.Rngs(0)), (8, 8, 3), transform=lambda x: x / 255 - 0.5)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)), jnp.float32)

    def function(images):
        return net.function(net.params, images)

    assert count_kinks(function, images) == 2
    smoothed = smooth_kinks(function)(0.5, images)
    for name, value in function(images).items():
        np.testing.assert_array_equal(smoothed[name], value)


RNG = np.random.default_rng(1)
MATRICES = [jnp.asarray(RNG.normal(size=s) / 12, jnp.float32) for s in ((192, 60), (60, 20))]


def network(images):
    x = images.reshape(len(images), -1) / 64 - 2
    for matrix in MATRICES:
        x = jax.nn.relu(x @ matrix)
    return {"top": x}


NET = advjax.Network(network, (8, 8, 3))
SOURCES, GUIDES = RNG.integers(0, 256, (2, 5, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "solver", [advjax.SignMomentum(30), advjax.ProjectedLBFGS(30, line_search=False)]
)
def test_lanes_of_different_ages_give_what_each_gives_alone(solver):
    """Three lanes for five pairs that end at different times: a new pair stands beside old ones."""
    settings = {"solver": solver, "delta": 30, "smoothing": advjax.Smoothing(), "target_ratio": 0.5}
    pairs = list(zip(SOURCES, GUIDES, strict=True))
    together = list(advjax.attack_stream(NET, pairs, batch_size=3, **settings))
    assert len({result.evaluations for result in together}) > 1
    for pair, result in zip(pairs, together, strict=True):
        # Three lanes again: another batch size sums in another order.
        (alone,) = advjax.attack_stream(NET, iter([pair]), batch_size=3, **settings)
        np.testing.assert_array_equal(result.adversarial, alone.adversarial)
        assert result.evaluations == alone.evaluations


def test_four_devices_give_what_one_gives():
    settings = {"solver": advjax.SignMomentum(20), "delta": 30, "smoothing": advjax.Smoothing()}
    one = advjax.attack(NET, SOURCES, GUIDES, batch_size=1, **settings)
    four = advjax.attack(
        NET, SOURCES, GUIDES, batch_size=4, devices=jax.local_devices()[:4], **settings
    )
    np.testing.assert_allclose(four.ratio, one.ratio, rtol=1e-4)


def test_reported_distances_are_of_the_network_itself():
    result = advjax.attack(
        NET,
        SOURCES,
        GUIDES,
        solver=advjax.SignMomentum(20),
        smoothing=advjax.Smoothing(),
        trace=True,
        delta=30,
    )
    a, g = (np.asarray(network(jnp.float32(x))["top"]) for x in (result.adversarial, GUIDES))
    np.testing.assert_allclose(result.distance, np.linalg.norm(a - g, axis=1), rtol=1e-4)
    np.testing.assert_allclose(np.nanmin(result.trace, 1), result.distance**2, rtol=1e-3)


def test_smoothing_comes_nearer_on_a_network_of_many_kinks():
    rng = np.random.default_rng(2)
    sizes = [192, 200, 200, 200, 64]
    matrices = [
        jnp.asarray(rng.normal(size=s) * np.sqrt(2 / s[0]), jnp.float32)
        for s in itertools.pairwise(sizes)
    ]

    def deep(images):
        x = images.reshape(len(images), -1) / 64 - 2
        for matrix in matrices:
            x = jax.nn.relu(x @ matrix)
        return {"top": x}

    net = advjax.Network(deep, (8, 8, 3))
    sources, guides = rng.integers(0, 256, (2, 8, 8, 8, 3), np.uint8)
    solver = advjax.SignMomentum(60)
    exact, smooth = (
        advjax.attack(net, sources, guides, solver=solver, delta=40, smoothing=s).ratio
        for s in (None, advjax.Smoothing())
    )
    assert np.log(smooth / exact).mean() < 0


@pytest.mark.parametrize("setting", [{"first": 0.0}, {"last": -1.0}, {"first": float("inf")}])
def test_widths_that_cannot_be(setting):
    with pytest.raises(AdvjaxError, match=rf"{next(iter(setting))} of smoothing is .*; give"):
        advjax.Smoothing(**setting)


def test_smoothing_is_a_value():
    assert advjax.Smoothing(0.7, 0.014) == advjax.Smoothing()
    assert dataclasses.replace(advjax.Smoothing(), last=0.1).last == 0.1


@pytest.mark.parametrize(
    ("source", "guide", "relative"),
    [
        ([3.0, 0.0], [0.0, 4.0], 1.0),  # nothing in common
        ([1.0, 0.0], [3.0, 0.0], 2 / np.sqrt(10)),
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 1.0),  # no size to be a fraction of
        ([1.0, 0.0], None, 1.0),
    ],
)
def test_widths_are_in_proportion_to_the_relative_distance(source, guide, relative):
    source, guide = ({"a": np.float32([x])} if x else None for x in (source, guide))
    pair = PairData(np.zeros((1, 1, 3)), source, guide, None)
    for weights in (None, (7.0,)):
        attack = advjax.FeatureOpt(("a",), weights)
        assert attack.relative_distance(pair) == pytest.approx(relative)


def test_a_pair_of_little_relative_distance_has_narrow_kinks():
    """A large constant beside the units leaves the objective as it is, and their size not."""

    def beside(images):
        return {"top": jnp.pad(network(images)["top"], ((0, 0), (0, 1)), constant_values=100.0)}

    settings = {"solver": advjax.SignMomentum(4), "delta": 30}
    for source, guide in zip(SOURCES[:2], GUIDES[:2], strict=True):
        s, g = (np.asarray(network(jnp.float32(x[None]))["top"]) for x in (source, guide))
        size = np.hypot(np.linalg.norm(s), np.linalg.norm(g))
        factor = np.hypot(size, 100 * np.sqrt(2)) / size
        smoothing = advjax.Smoothing()
        wide = advjax.Smoothing(first=smoothing.first * factor, last=smoothing.last * factor)
        narrow = advjax.attack(NET, source, guide, smoothing=smoothing, **settings)
        scaled = advjax.attack(
            advjax.Network(beside, (8, 8, 3)), source, guide, smoothing=wide, **settings
        )
        np.testing.assert_allclose(scaled.ratio, narrow.ratio, rtol=1e-3)
