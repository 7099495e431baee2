"""PyTorch's operations by elements, with its derivatives where a function has a corner."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from advjax.networks.aten.extremes import maximum, minimum
from advjax.networks.aten.tensors import Tensor, elementwise, split, tensor


def _scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return add or sub, which multiply their second operand by alpha."""

    def operation(x, y, alpha=1):
        return function(x, y if alpha == 1 else y * alpha)

    return elementwise(operation)


add = _scaled(lambda x, y: x + y)
_sub = _scaled(lambda x, y: x - y)
multiply = elementwise(lambda x, y: x * y)


def absolute(x: Any) -> Any:
    """Return |x| with PyTorch's derivative at 0, which is 0; that of jnp.abs is 1."""
    return x * jnp.sign(x)


def _divide(x, y, rounding_mode=None):
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    quotient = x / y
    return jnp.trunc(quotient) if rounding_mode == "trunc" else quotient


def _where_data(condition, x, y):
    return jnp.where(condition, x, y)


where = elementwise(_where_data)


def _clamp(x, min=None, max=None):
    # Not jnp.clip, whose derivative at the ends is a half: PyTorch's is 1.
    x = x if min is None else jnp.where(x >= min, x, min)
    return x if max is None else jnp.where(x <= max, x, max)


def _hardtanh(x, low=-1.0, high=1.0):
    return lax.clamp(jnp.asarray(low, x.dtype), x, jnp.asarray(high, x.dtype))  # 0 at the ends


def _hardsigmoid(x):
    return _hardtanh(x + 3, 0.0, 6.0) / 6


def _elu(x, alpha=1.0, scale=1.0, input_scale=1.0):
    negative = alpha * jnp.expm1(input_scale * jnp.where(x > 0, 0, x))
    return scale * jnp.where(x > 0, x, negative)


def _gelu(x, approximate="none"):
    if approximate == "tanh":
        return jax.nn.gelu(x, approximate=True)
    # By erf, as PyTorch: jax.nn.gelu's erfc takes twice the time on a CPU.
    return x * (0.5 + 0.5 * lax.erf(x * math.sqrt(0.5)))


def _softplus(x, beta=1, threshold=20):
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(x * beta) / beta)


def _leaky_relu(x, slope=0.01):
    return jnp.where(x > 0, x, x * slope)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    if len(weight.axes) == 1:
        weight = tensor(weight.plain.reshape((-1,) + (1,) * (len(x.axes) - 2)))
    return elementwise(_leaky_relu)(x, weight)


def _power(x, exponent):
    whole = isinstance(exponent, float) and exponent.is_integer()
    return x ** (int(exponent) if whole else exponent)  # x**2 is a product


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = split(x, x.shape[dim] // 2, dim)
    return multiply(value, elementwise(jax.nn.sigmoid)(gate))


def _by_elements() -> dict[str, Callable[..., Any]]:
    functions = {
        "relu": jax.nn.relu,  # of derivative 0 at 0
        "relu6": lambda x: _hardtanh(x, 0.0, 6.0),
        "hardtanh": _hardtanh,
        "hardsigmoid": _hardsigmoid,
        "hardswish": lambda x: x * _hardsigmoid(x),
        "leaky_relu": _leaky_relu,
        "elu": _elu,
        "celu": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1 / alpha),
        "selu": jax.nn.selu,
        "gelu": _gelu,
        "silu": jax.nn.silu,
        "mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
        "softplus": _softplus,
        "log_sigmoid": jax.nn.log_sigmoid,
        "sigmoid": jax.nn.sigmoid,
        "tanh": jnp.tanh,
        "clamp": _clamp,
        "clamp_min": _clamp,
        "clamp_max": lambda x, max: _clamp(x, None, max),
        "maximum": maximum,
        "minimum": minimum,
        "mul": lambda x, y: x * y,
        "div": _divide,
        "rsub": lambda x, y, alpha=1: y - x * alpha,
        "floor_divide": jnp.floor_divide,
        "remainder": jnp.remainder,
        "pow": _power,
        "where": _where_data,
        "masked_fill": lambda x, mask, value: jnp.where(mask, value, x),
        "addcmul": lambda x, y, z, value=1: x + value * y * z,
        "lerp": lambda x, y, weight: x + weight * (y - x),
        "abs": absolute,
        "square": jnp.square,
        "reciprocal": jnp.reciprocal,
        "rsqrt": lax.rsqrt,
        "neg": jnp.negative,
        "detach": lax.stop_gradient,
    }
    same_names = (
        *("ceil", "cos", "erf", "exp", "exp2", "expm1", "floor", "log", "log1p", "round"),
        *("sign", "sin", "sqrt", "trunc", "atan2", "isnan", "isfinite"),
        *("logical_and", "logical_or", "logical_not", "logical_xor"),
        *("bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor"),
    )
    for name in same_names:
        functions[name] = getattr(jnp, name, None) or getattr(lax, name)
    comparisons = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
    for name, comparison in zip(("eq", "ne", "gt", "ge", "lt", "le"), comparisons, strict=True):
        functions[name] = getattr(jnp, comparison)
    for name in ("and", "or", "xor"):
        functions[f"__{name}__"] = functions[f"bitwise_{name}"]
    return {name: elementwise(function) for name, function in functions.items()}


ELEMENTS: dict[str, Callable[..., Any]] = {
    **_by_elements(),
    "add": add,
    "sub": _sub,
    "glu": _glu,
    **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
}
