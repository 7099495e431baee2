"""Convolutions of any traced function in the forms of `layers`, which XLA's CPU compiler likes.

The engine evaluates a network in the body of a loop. There a convolution's input gradient, as
autodiff leaves it, does not reach XLA's fast kernel: a ResNet-50 of Flax or Keras takes nearly
twice the time that it takes outside (docs/benchmarks.md). The networks of the zoo, of `from_torch`
and of `from_onnx` are written in these forms; here the others are brought to them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advjax.jaxprs import Interpreter, bind, bodies
from advjax.networks.convolution_forms import general_convolution


def with_fast_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function, on a CPU with its two-dimensional convolutions in fast forms.

    What is rewritten: convolutions in float32 or float64, in any layout, by one stride in both
    directions, also in groups, wherever they stand: in jit, checkpoint, scan and cond. What stays
    as it is: transposed and dilated ones, those in functions with a derivative of their own
    (custom_jvp, custom_vjp) and in while loops. Values differ by rounding. The fast forms have
    derivatives in reverse mode alone.

    Args:
        function: Pytrees of arrays to a pytree of arrays.

    Example:
        >>> def function(x):
        ...     return jax.lax.conv(x, jnp.ones((2, 3, 3, 3)), (1, 1), "SAME")
        >>> with_fast_convolutions(function)(jnp.ones((1, 3, 5, 5)))[0, 0, 0]
        Array([12., 18., 18., 18., 12.], dtype=float32)
    """

    @functools.wraps(function)
    def fast(*args: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*args)
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        if not any(map(_has_slow, closed.jaxpr.eqns)):
            return function(*args)
        results = _Rewriter().run(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return fast


class _Rewriter(Interpreter):
    """Evaluates a jaxpr, its slow convolutions in fast forms."""

    def evaluate(self, equation: Any, inputs: list[Any]) -> Sequence[Any]:
        if not _has_slow(equation):
            return bind(equation, inputs)
        if equation.primitive.name != "conv_general_dilated":
            return super().evaluate(equation, inputs)
        params = equation.params
        (n, c, h, w), (o, i, kh, kw), out = params["dimension_numbers"]
        y = general_convolution(
            jnp.transpose(inputs[0], (n, h, w, c)),
            jnp.transpose(inputs[1], (kh, kw, i, o)),
            strides=params["window_strides"],
            padding=params["padding"],
            groups=params["feature_group_count"],
        )
        places = [out[0], *out[2:], out[1]]  # of batch, height, width, channels
        return [jnp.transpose(y, [places.index(axis) for axis in range(4)])]


def _has_slow(equation: Any) -> bool:
    """Return True for a convolution that has a fast form, or a construct that holds one."""
    params = equation.params
    if equation.primitive.name != "conv_general_dilated":
        return any(map(_has_slow, (e for body in bodies(equation) for e in body.jaxpr.eqns)))
    image, kernel = (atom.aval for atom in equation.invars)
    return (
        image.ndim == 4
        and image.dtype == kernel.dtype
        and image.dtype in (jnp.float32, jnp.float64)
        and params["preferred_element_type"] in (None, image.dtype)
        and params["batch_group_count"] == 1
        and {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}
        and len(set(params["window_strides"])) == 1
        and min(map(min, params["padding"])) >= 0
    )
