"""Convolutions of any function in fast forms: the same values and gradients, where they may be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import advjax
from advjax.engine import make_plan
from advjax.engine.programs import programs_of
from advjax.networks.convolutions import _has_slow, with_fast_convolutions

RNG = np.random.default_rng(0)
FIRST, LAST = ("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC")


def arrays(image, kernel, dtype=np.float32):
    return [jnp.asarray(RNG.normal(size=shape), dtype) for shape in (image, kernel)]


def convolve(x, kernel, layout=LAST, strides=(1, 1), padding="SAME", groups=1, **more):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=layout,
        feature_group_count=groups,
        **more,
    )


IMAGE = (2, 7, 6, 4)  # channels last
CASES = {
    "plain": (IMAGE, (3, 3, 4, 5), {}),
    "even kernel, valid": (IMAGE, (2, 4, 4, 5), {"padding": "VALID"}),
    "padding of each side": (IMAGE, (3, 3, 4, 5), {"padding": ((0, 2), (3, 1))}),
    "more padding than kernel": (IMAGE, (1, 2, 4, 5), {"padding": ((2, 2), (3, 3))}),
    "strided": (IMAGE, (3, 3, 4, 5), {"strides": (2, 2)}),
    "strided, many channels": ((2, 7, 6, 18), (3, 3, 18, 5), {"strides": (2, 2)}),
    "strided 1x1": (IMAGE, (1, 1, 4, 5), {"strides": (2, 2)}),
    "patches": (IMAGE, (3, 3, 4, 5), {"strides": (3, 3), "padding": "VALID"}),
    "groups": (IMAGE, (3, 3, 2, 6), {"groups": 2, "strides": (2, 2)}),
    "depthwise": (IMAGE, (3, 3, 1, 4), {"groups": 4, "strides": (2, 2)}),
    "depthwise, two filters each": (IMAGE, (3, 3, 1, 8), {"groups": 4}),
    "many groups": ((2, 3, 3, 130), (3, 3, 2, 65), {"groups": 65}),
    "channels first": ((2, 4, 7, 6), (5, 4, 3, 2), {"layout": FIRST}),
    "mixed layout": (
        (7, 6, 4, 2),
        (4, 3, 2, 5),
        {"layout": ("HWCN", "IHWO", "NCHW"), "strides": (2, 2)},
    ),
}
AS_THEY_ARE = {
    "dilated": (IMAGE, (3, 3, 4, 5), {"rhs_dilation": (2, 2)}),
    "transposed": (IMAGE, (3, 3, 4, 5), {"lhs_dilation": (2, 2), "padding": ((1, 1), (2, 2))}),
    "two strides": (IMAGE, (3, 3, 4, 5), {"strides": (2, 1)}),
    "negative padding": (IMAGE, (3, 3, 4, 5), {"padding": ((-1, 2), (0, 0))}),
    "groups of the batch": (IMAGE, (3, 3, 4, 4), {"batch_group_count": 2}),
    "one dimension": ((2, 7, 4), (3, 4, 5), {"layout": ("NHC", "HIO", "NHC"), "strides": (1,)}),
}


def test_values_and_gradients_are_those_of_the_plain_convolution():
    given = {name: arrays(image, kernel) for name, (image, kernel, _) in CASES.items()}
    plain = {name: functools.partial(convolve, **more) for name, (_, _, more) in CASES.items()}
    fast = {name: with_fast_convolutions(function) for name, function in plain.items()}

    def everything(functions):
        @jax.jit
        def run(given):
            out = {}
            for name, function in functions.items():
                x, kernel = given[name]
                y, pull = jax.vjp(lambda x, f=function, k=kernel: f(x, k), x)
                out[name] = [y, *pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))]
            return out

        return run(given)

    expected, found = everything(plain), everything(fast)
    for name, several in expected.items():
        for value, right in zip(found[name], several, strict=True):
            np.testing.assert_allclose(
                value, right, rtol=0, atol=2e-6 * abs(right).max(), err_msg=name
            )


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_what_stays_as_it_is(name):
    image, kernel, more = AS_THEY_ARE[name]
    function = functools.partial(convolve, **more)
    given = arrays(image, kernel)
    before, after = (
        str(jax.make_jaxpr(each)(*given)) for each in (function, with_fast_convolutions(function))
    )
    assert after == before


def test_half_precision_and_functions_without_convolutions_stay_as_they_are():
    given = arrays(IMAGE, (3, 3, 4, 5), jnp.bfloat16)
    for function in (convolve, lambda x, kernel: {"b": x, "a": (kernel, jnp.sin(x))}):
        assert str(jax.make_jaxpr(with_fast_convolutions(function))(*given)) == str(
            jax.make_jaxpr(function)(*given)
        )


def everywhere(params, x):
    """Convolutions inside of everything that is entered, and of what is not."""
    x = jax.jit(lambda x: jax.nn.relu(convolve(x, params["a"])))(x)
    x = jax.checkpoint(lambda x: x + convolve(x, params["a"]))(x)
    x, sums = lax.scan(lambda x, k: (jnp.tanh(convolve(x, k)), x.sum()), x, params["stacked"])
    x = lax.cond(sums[0] > 0, lambda x: convolve(x, params["a"]), lambda x: 2 * x, x)
    x = jax.vmap(lambda x: convolve(x.transpose(2, 0, 1)[None], params["b"], FIRST)[0])(x)
    frozen = jax.custom_jvp(lambda x: convolve(x, params["b"], FIRST))
    frozen.defjvp(lambda x, t: (frozen(*x), frozen(*t)))
    x = lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, frozen(c[1])), (0, x))[1]
    return {"sums": sums, "out": frozen(x)}


def test_inside_of_everything():
    params = {
        "a": arrays((1,), (3, 3, 4, 4))[1],
        "b": arrays((1,), (4, 4, 3, 3))[1],
        "stacked": arrays((1,), (2, 3, 3, 4, 4))[1],
    }
    x = arrays(IMAGE, (1,))[0]
    fast = with_fast_convolutions(everywhere)
    closed = jax.make_jaxpr(fast)(params, x)
    kept = {equation.primitive.name for equation in closed.eqns}
    assert {"remat2", "scan", "cond", "while", "custom_jvp_call"} <= kept
    assert not any(map(_has_slow, closed.eqns))
    expected, found = jax.jit(everywhere)(params, x), jax.jit(fast)(params, x)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=3e-6 * abs(value).max())


def test_the_engine_has_them():
    """In its loop no kernel is convolved with its axes turned, as autodiff leaves them."""

    def function(params, images):
        return {"out": convolve(images, params).mean((1, 2))}

    net = advjax.Network(function, (6, 6, 3), arrays((1,), (3, 3, 3, 4))[1])
    attack, solver = advjax.engine.resolve(net, "feature-opt", solver=advjax.ProjectedLBFGS())
    plan = make_plan(net, attack, solver)
    stream = advjax.engine.Stream(net, plan)
    images = RNG.integers(0, 256, (2, 6, 6, 3), np.uint8)
    (problem,) = stream.complete(stream.begin([(0, advjax.Pair(*images))]))
    lanes = stream.empty_lanes(1, problem)
    counts = np.int32(1), np.ones(1, np.int32)
    text = programs_of(plan).advance.lower(stream.params, lanes, *counts).as_text()
    assert "x[0, 1, i, o]->" in text
    assert "x[0, 1, o, i]->" not in text
