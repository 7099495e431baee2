"""A graph of another library as a list of steps in JAX: what `from_torch` and `from_onnx` make.

Values are `aten.Tensor`s, whose axes lie in any order; the steps are operations on them. Weights
are an argument of the function, by their own names.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.networks import aten


class Ref(NamedTuple):
    """A value that an earlier step has made."""

    name: str


class Step(NamedTuple):
    """One operation; `dtypes` are those of its result, or of each of its results; None as it is."""

    name: str
    operation: Callable[..., Any]
    args: Any
    kwargs: Any
    dtypes: Any = None


class Output(NamedTuple):
    """A layer: the value that it is, and its dimension that is the batch."""

    value: str
    batch: int


class Program(NamedTuple):
    """A graph without its weights."""

    steps: tuple[Step, ...]
    orders: Mapping[str, tuple[int, ...]]  # of the weights' dimensions, as they lie
    constants: Mapping[str, np.ndarray]  # indices and masks
    layers: Mapping[str, Output]
    image: str
    order: tuple[int, ...]  # of the image's dimensions, which lie as [b, h, w, c]
    dtype: Any


def run(
    program: Program, transform: Callable[..., Any] | None, params: Any, images: Any
) -> dict[str, Any]:
    """Return the layers of images [b, h, w, c]."""
    values = compute(program, params, transform(images) if transform else images)
    return {
        name: jnp.moveaxis(values[layer.value].plain, layer.batch, 0)
        for name, layer in program.layers.items()
    }


def compute(program: Program, params: Any, inputs: Any) -> dict[str, Any]:
    """Return all values by their names, of what the graph takes, [b, h, w, c]."""
    values: dict[str, Any] = {
        name: aten.tensor(jnp.asarray(params[name]), order)
        for name, order in program.orders.items()
    }
    values |= {name: aten.tensor(array) for name, array in program.constants.items()}
    values[program.image] = aten.tensor(inputs.astype(program.dtype), program.order)

    def filled(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return values[argument.name]
        return [filled(a) for a in argument] if isinstance(argument, list) else argument

    for step in program.steps:
        result = step.operation(
            *map(filled, step.args), **{k: filled(v) for k, v in step.kwargs.items()}
        )
        values[step.name] = _with_dtypes(result, step.dtypes)
    return values


def _with_dtypes(result: Any, dtypes: Any) -> Any:
    if dtypes is None:
        return result
    if isinstance(result, aten.Tensor):
        dtype = jax.dtypes.canonicalize_dtype(dtypes)
        if result.data.dtype == dtype:
            return result
        return aten.Tensor(result.data.astype(dtype), result.axes)
    if isinstance(result, list):
        return [_with_dtypes(r, d) for r, d in zip(result, dtypes, strict=True)]
    return result  # a size
