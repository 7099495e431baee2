"""Maxima and minima whose gradient is that of PyTorch: equal entries share it.

JAX's own rules ask which operands equal the result. Where the compiler computes an operand anew
for that and rounds it otherwise, none does: of two arrays neither gets the gradient, and of one
array's entries all get 0 / 0. Here operands are compared with each other, and the first of the
largest entries always counts.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _of_two(value: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
    """Return jnp.maximum or jnp.minimum; before(x, y) says where the result is x."""

    @jax.custom_jvp
    def rule(x, y):
        return value(x, y)

    @rule.defjvp
    def _(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        return rule(x, y), jnp.where(x == y, (dx + dy) / 2, jnp.where(before(x, y), dx, dy))

    def function(x, y):
        dtype = jnp.result_type(x, y)
        return rule(jnp.asarray(x, dtype), jnp.asarray(y, dtype))

    return function


def _of_entries(value: Callable[..., Any], place: Callable[..., Any]) -> Callable[..., Any]:
    """Return jnp.max or jnp.min of some axes; place(rows, -1) is where the first such entry is."""

    @functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
    def function(x, axes, keepdims):
        return value(x, axes, keepdims=keepdims)

    @function.defjvp
    def _(axes, keepdims, primals, tangents):
        (x,), (dx,) = primals, tangents
        rest = [axis for axis in range(x.ndim) if axis not in axes]

        def rows(array):
            array = jnp.transpose(array, (*rest, *axes))
            return array.reshape(*array.shape[: len(rest)], -1)

        entries = rows(x)
        counts = jax.nn.one_hot(place(entries, -1), entries.shape[-1], dtype=bool)
        counts |= entries == value(entries, -1, keepdims=True)
        share = jnp.where(counts, rows(dx), 0).sum(-1) / counts.sum(-1).astype(dx.dtype)
        return function(x, axes, keepdims), jnp.expand_dims(share, axes) if keepdims else share

    return function


maximum, minimum = _of_two(jnp.maximum, jnp.greater), _of_two(jnp.minimum, jnp.less)
largest, smallest = _of_entries(jnp.max, jnp.argmax), _of_entries(jnp.min, jnp.argmin)
