"""ONNX's operations on shapes, in NumPy: what depends on no pixel of an image.

ONNX computes shapes by operations, on tensors of whole numbers. These functions take the inputs and
attributes of an operation by their ONNX names; the rest of the table is in `onnx_operations`.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from advjax.errors import AdvjaxError

LARGEST = 2**28
"""The most entries of an array that depends on no image; a file may ask for any number."""

DTYPES: dict[int, Any] = {  # onnx.TensorProto.DataType
    **{1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32},
    **{7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64},
    16: jnp.bfloat16,
}


def bounded(shape: Any, who: str = "it") -> Any:
    """Return a shape that is not too large for what depends on no image.

    Raises:
        AdvjaxError: It is.
    """
    if math.prod(int(n) for n in shape) > LARGEST:
        raise AdvjaxError(f"{who} asks for an array of shape {tuple(shape)}")
    return shape


def new_shape(old: Any, shape: Any, allowzero: int) -> list[int]:
    """Return the shape for Reshape: a 0 stands for the old length, unless `allowzero`."""
    keep = enumerate(int(n) for n in shape)
    return [old[i] if n == 0 and not allowzero else n for i, n in keep]


def part_sizes(x: Any, axis: int, split: Any, num_outputs: int | None) -> list[int]:
    """Return the lengths of the parts into which Split cuts an axis."""
    if split is not None:
        return [int(n) for n in split]
    assert num_outputs  # the number of the node's outputs
    size = -(-x.shape[axis] // num_outputs)
    return [min(size, x.shape[axis] - start) for start in range(0, x.shape[axis], size)]


def slice_index(rank: int, starts: Any, ends: Any, axes: Any, steps: Any) -> list[slice]:
    """Return the index of each axis for Slice."""
    index = [slice(None)] * rank
    axes = range(len(starts)) if axes is None else axes
    steps = itertools.repeat(1) if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=False):
        index[axis] = slice(start, end, step)
    return index


def _divide(x, y):
    if np.issubdtype(x.dtype, np.integer):
        return np.trunc(x / y).astype(x.dtype)
    return x / y


def _gather(x, indices, axis=0):
    return np.take(x, indices, axis)


def _reshape(x, shape, allowzero=0):
    return x.reshape(new_shape(x.shape, shape, allowzero))


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def operation(x, axes=None, keepdims=1, noop_with_empty_axes=0):
        if (axes is None or not len(axes)) and noop_with_empty_axes:
            return x
        axes = None if axes is None or not len(axes) else tuple(int(a) for a in axes)
        return np.asarray(function(x, axis=axes, keepdims=bool(keepdims)), x.dtype)

    return operation


def _split(x, split=None, axis=0, num_outputs=None):
    parts = part_sizes(x, axis, split, num_outputs)
    return np.split(x, list(itertools.accumulate(parts))[:-1], axis)


def _slice(x, starts, ends, axes=None, steps=None):
    lists = (None if v is None else [int(n) for n in v] for v in (starts, ends, axes, steps))
    return x[tuple(slice_index(x.ndim, *lists))]


def _axes(axes: Any) -> Any:
    return None if axes is None else tuple(int(a) for a in axes)


def _constant(shape, value=None):
    fill = np.zeros(1, np.float32) if value is None else value
    return np.full(bounded(shape.tolist()), fill.reshape(()))


def _range(start, limit, delta):
    start, limit, delta = start.item(), limit.item(), delta.item()
    bounded([max(0, math.ceil((limit - start) / delta))])
    return np.arange(start, limit, delta)


def _expand(x, shape):
    return np.broadcast_to(x, bounded(np.broadcast_shapes(x.shape, tuple(shape.tolist()))))


def _tile(x, repeats):
    bounded([n * r for n, r in zip(x.shape, repeats.tolist(), strict=True)])
    return np.tile(x, repeats)


NUMPY: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name.lower()) for name in ("Equal", "Greater", "Less", "Where")},
    **{name: getattr(np, name.lower()) for name in ("Floor", "Ceil", "Sqrt")},
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Mod": lambda x, y, fmod=0: np.fmod(x, y) if fmod else np.mod(x, y),
    "Pow": lambda x, y: np.power(x, y).astype(x.dtype),
    "Max": lambda *inputs: functools.reduce(np.maximum, inputs),
    "Min": lambda *inputs: functools.reduce(np.minimum, inputs),
    "Neg": np.negative,
    "Abs": np.abs,
    "GreaterOrEqual": np.greater_equal,
    "LessOrEqual": np.less_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Identity": lambda x: x,
    "Cast": lambda x, to, saturate=1, round_mode="up": x.astype(DTYPES[to]),
    "Shape": lambda x, start=0, end=None: np.array(x.shape[start:end], np.int64),
    "Size": lambda x: np.array(x.size, np.int64),
    "Reshape": _reshape,
    "Transpose": lambda x, perm=None: np.transpose(x, perm),
    "Squeeze": lambda x, axes=None: np.squeeze(x, _axes(axes)),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, _axes(axes)),
    "Gather": _gather,
    "Slice": _slice,
    "Concat": lambda *inputs, axis: np.concatenate(inputs, axis),
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant,
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
}
"""The operations by which graphs compute shapes, on NumPy's arrays."""
