"""Tensors whose axes lie in any order, and PyTorch's operations on their shapes.

A value is a `Tensor`, a JAX array whose axes may lie in another order than PyTorch's dimensions.
So a transposition costs nothing, and images stay channels last from one convolution to the next,
which is what XLA is fast at; `view` keeps that order where it can.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

CHANNELS_LAST = (0, 2, 3, 1)
"""The dimensions [b, c, h, w] in the order in which their axes lie."""

KERNEL = (2, 3, 1, 0)
"""Likewise of a convolution's kernel [o, i, h, w]."""


class Tensor(NamedTuple):
    """An array and, for each of PyTorch's dimensions, the axis that it is."""

    data: Any
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that PyTorch sees."""
        return tuple(self.data.shape[axis] for axis in self.axes)

    @property
    def order(self) -> tuple[int, ...]:
        """The dimensions in the order in which they lie."""
        return tuple(int(d) for d in np.argsort(self.axes))

    @property
    def plain(self) -> Any:
        """The array with its axes in PyTorch's order."""
        return self.laid(range(len(self.axes)))

    def laid(self, order: Sequence[int]) -> Any:
        """Return the array with the dimensions in this order."""
        axes = tuple(self.axes[d] for d in order)
        return self.data if axes == tuple(range(len(axes))) else self.data.transpose(axes)


def tensor(data: Any, order: Sequence[int] | None = None) -> Tensor:
    """Return an array, its dimensions lying in `order`, as a Tensor."""
    axes = range(data.ndim) if order is None else np.argsort(order)
    return Tensor(data, tuple(int(axis) for axis in axes))


def dimensions(x: Tensor, dim: Any) -> list[int]:
    """Return PyTorch's `dim`, one number or several, none for all, as dimensions from 0."""
    n = len(x.axes)
    if dim is None or dim == []:
        return list(range(n))
    return [d % n if n else 0 for d in ([dim] if isinstance(dim, int) else dim)]


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation of a function that knows arrays in PyTorch's order only."""

    def strip(value: Any) -> Any:
        if isinstance(value, list | tuple) and not isinstance(value, Tensor):
            return [strip(item) for item in value]
        return value.plain if isinstance(value, Tensor) else value

    @functools.wraps(function)
    def operation(*args: Any, **kwargs: Any) -> Tensor:
        return tensor(function(*map(strip, args), **{k: strip(v) for k, v in kwargs.items()}))

    return operation


def elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation by elements; its tensors take the order of the largest one."""

    @functools.wraps(function)
    def operation(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [a for a in args if isinstance(a, Tensor)]
        leader = max(tensors, key=lambda t: (len(t.axes), t.data.size))
        rank = len(leader.axes)

        def laid(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if len(x.axes) < rank:  # JAX may be told to refuse to promote ranks
                x = tensor(x.plain.reshape((1,) * (rank - len(x.axes)) + x.shape))
            return x.laid(leader.order)

        return Tensor(function(*map(laid, args), **kwargs), leader.axes)

    return operation


def reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation of function(array, axes, keepdims=True)."""

    def operation(x: Tensor, dim=None, keepdim=False, dtype=None) -> Tensor:
        dims = dimensions(x, dim)
        kept = Tensor(function(x.data, tuple(x.axes[d] for d in dims), keepdims=True), x.axes)
        return kept if keepdim else squeeze(kept, dims)

    return operation


def wide(data: Any) -> Any:
    """Return an array of half precision in float32, in which PyTorch sums and normalises."""
    return data.astype(jnp.float32) if data.dtype in (jnp.bfloat16, jnp.float16) else data


def view(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Reshape; what is split, or merged of dimensions that lie side by side, is not moved."""
    old = x.shape
    shape = [int(n) for n in shape]
    if -1 in shape:
        rest = math.prod(n for n in shape if n != -1)
        shape[shape.index(-1)] = math.prod(old) // rest
    blocks = _blocks(old, shape)
    starts = []  # the first axis of each block, if its dimensions lie one after the other
    for dims, _ in blocks:
        axes = [x.axes[d] for d in dims]
        if not axes or axes != list(range(axes[0], axes[0] + len(axes))):
            return tensor(x.plain.reshape(shape))
        starts.append(axes[0])
    lying = [d for n in np.argsort(starts) for d in blocks[n][1]]
    return tensor(x.data.reshape([shape[d] for d in lying]), lying)


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest groups of dimensions of `old` and `new` with the same sizes."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news = [], []
        a = b = 1
        while True:
            if (a < b or not olds) and i < len(old):
                olds.append(i)
                a *= old[i]
                i += 1
            elif (b < a or not news) and j < len(new):
                news.append(j)
                b *= new[j]
                j += 1
            else:
                break
        blocks.append((olds, news))
    return blocks


def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Permute the dimensions; nothing is moved."""
    return Tensor(x.data, tuple(x.axes[d] for d in dims))


def transpose(x: Tensor, first: int = 0, second: int = 1) -> Tensor:
    """Exchange two dimensions; nothing is moved."""
    axes = list(x.axes)
    if axes:
        axes[first], axes[second] = axes[second], axes[first]
    return Tensor(x.data, tuple(axes))


def squeeze(x: Tensor, dim: Any = None) -> Tensor:
    """Drop dimensions of size 1."""
    shape = x.shape
    gone = {x.axes[d] for d in dimensions(x, dim) if shape and shape[d] == 1}
    kept = [axis for axis in x.axes if axis not in gone]
    rank = {axis: n for n, axis in enumerate(sorted(kept))}
    return Tensor(jnp.squeeze(x.data, tuple(gone)), tuple(rank[axis] for axis in kept))


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """Insert a dimension of size 1; it lies before the one that follows it."""
    dim %= len(x.axes) + 1
    axis = x.axes[dim] if dim < len(x.axes) else x.data.ndim
    axes = [a + (a >= axis) for a in x.axes]
    return Tensor(jnp.expand_dims(x.data, axis), (*axes[:dim], axis, *axes[dim:]))


def expand(x: Tensor, size: Sequence[int], *, implicit: bool = False) -> Tensor:
    """Repeat dimensions of size 1."""
    for _ in range(len(size) - len(x.axes)):
        x = unsqueeze(x, 0)
    full = [old if new == -1 else new for old, new in zip(x.shape, size, strict=True)]
    return Tensor(jnp.broadcast_to(x.data, [full[d] for d in x.order]), x.axes)


def split_dimension(x: Tensor, dim: int, size: int) -> Tensor:
    """Split one dimension into two, the first of this size."""
    shape = list(x.shape)
    shape[dim : dim + 1] = [size, shape[dim] // size]
    return view(x, shape)


def _repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    for _ in range(len(repeats) - len(x.axes)):
        x = unsqueeze(x, 0)
    return Tensor(jnp.tile(x.data, [repeats[d] for d in x.order]), x.axes)


def _slice(x: Tensor, dim=0, start=None, end=None, step=1) -> Tensor:
    (dim,) = dimensions(x, dim)
    begin, stop, step = slice(start, end, step).indices(x.shape[dim])
    return Tensor(lax.slice_in_dim(x.data, begin, max(begin, stop), step, x.axes[dim]), x.axes)


def _select(x: Tensor, dim: int, index: int) -> Tensor:
    (dim,) = dimensions(x, dim)
    index %= x.shape[dim]
    return squeeze(_slice(x, dim, index, index + 1), dim)


def _split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    ends = list(itertools.accumulate(sizes))
    return [_slice(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def split(x: Tensor, size: Any, dim: int = 0) -> list[Tensor]:
    """Cut into parts of a size, of which the last may be smaller, or of several sizes."""
    if not isinstance(size, int):
        return _split_with_sizes(x, size, dim)
    n = x.shape[dim]
    return _split_with_sizes(x, [min(size, n - start) for start in range(0, n, size)], dim)


def _unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    return [_select(x, dim, n) for n in range(x.shape[dim])]


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    tensors = [t for t in tensors if t.shape != (0,)]  # PyTorch skips the empty ones of old
    leader = max(tensors, key=lambda t: t.data.size)
    parts = [t.laid(leader.order) for t in tensors]
    return Tensor(jnp.concatenate(parts, leader.axes[dim]), leader.axes)


def _roll(x: Tensor, shifts: Any, dims: Any = ()) -> Tensor:
    if not dims:
        return view(tensor(jnp.roll(x.plain.reshape(-1), shifts)), x.shape)
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    return Tensor(jnp.roll(x.data, shifts, [x.axes[d] for d in dimensions(x, dims)]), x.axes)


def _flip(x: Tensor, dims: Sequence[int]) -> Tensor:
    return Tensor(jnp.flip(x.data, [x.axes[d] for d in dimensions(x, dims)]), x.axes)


def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Tensor:
    sides = [(0, 0)] * len(x.axes)
    for n in range(len(pad) // 2):  # from the last dimension on
        sides[x.axes[-1 - n]] = (pad[2 * n], pad[2 * n + 1])
    if mode == "constant":
        fill = jnp.asarray(value or 0, x.data.dtype)
        return Tensor(lax.pad(x.data, fill, [(lo, hi, 0) for lo, hi in sides]), x.axes)
    modes: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return Tensor(jnp.pad(x.data, sides, mode=modes[mode]), x.axes)


def _pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    b, c, h, w = x.shape
    x = view(x, [b, c // factor**2, factor, factor, h, w])
    return view(permute(x, [0, 1, 4, 2, 5, 3]), [b, -1, h * factor, w * factor])


def _pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    b, c, h, w = x.shape
    x = view(x, [b, c, h // factor, factor, w // factor, factor])
    return view(permute(x, [0, 1, 3, 5, 2, 4]), [b, c * factor**2, h // factor, w // factor])


def _channel_shuffle(x: Tensor, groups: int) -> Tensor:
    return view(transpose(split_dimension(x, 1, groups), 1, 2), x.shape)


def _index(x, indices):
    return x[tuple(slice(None) if i is None else i for i in indices)]


def _index_put(x, indices, values, accumulate=False):
    place = x.at[tuple(slice(None) if i is None else i for i in indices)]
    return place.add(values) if accumulate else place.set(values)


def _slice_scatter(x, source, dim=0, start=None, end=None, step=1):
    return x.at[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)].set(source)


def _select_scatter(x, source, dim, index):
    return x.at[(slice(None),) * (dim % x.ndim) + (index,)].set(source)


def _same(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return x: a copy, a conversion (the dtype is set for every result), dropout at rest."""
    return x


def _filled(value: Any) -> Callable[..., Any]:
    def operation(size, *args: Any) -> Tensor:
        return tensor(jnp.full(size, args[0] if value is None else value))

    return operation


def _filled_like(value: Any) -> Callable[..., Any]:
    def operation(x: Tensor, *args: Any) -> Tensor:
        (fill,) = args[:1] if value is None else (value,)
        fill = fill.plain if isinstance(fill, Tensor) else fill
        return Tensor(jnp.full(x.data.shape, fill), x.axes)

    return operation


def _new(value: Any) -> Callable[..., Any]:
    return lambda x, size, *args: _filled(value)(size, *args)


SHAPES: dict[str, Callable[..., Any]] = {
    # Shapes.
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), view),
    "permute": permute,
    "transpose": transpose,
    **dict.fromkeys(("t", "numpy_T"), lambda x: permute(x, range(len(x.axes))[::-1])),
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "expand": expand,
    "broadcast_to": expand,
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "slice": _slice,
    "select": _select,
    "split": split,
    "split_with_sizes": _split_with_sizes,
    "unbind": _unbind,
    **dict.fromkeys(("cat", "concat"), _cat),
    "stack": lambda tensors, dim=0: _cat(
        [unsqueeze(t, dim) for t in tensors], dim % (len(tensors[0].axes) + 1)
    ),
    "roll": _roll,
    "flip": _flip,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    # Entries.
    "index": plain(_index),
    "index_select": plain(lambda x, dim, index: jnp.take(x, index, dim)),
    "index_put": plain(_index_put),
    "gather": plain(lambda x, dim, index: jnp.take_along_axis(x, index, dim)),
    "embedding": plain(lambda weight, indices, *rest: weight[indices]),
    "slice_scatter": plain(_slice_scatter),
    "select_scatter": plain(_select_scatter),
    "tril": plain(jnp.tril),
    "triu": plain(jnp.triu),
    "cumsum": plain(lambda x, dim: jnp.cumsum(x, dim)),
    "copy": lambda x, source: expand(source, x.shape),
    # Copies, and new tensors whose size depends on the batch.
    **dict.fromkeys(
        ("clone", "alias", "contiguous", "lift_fresh_copy", "to", "_to_copy", "type_as", "dropout"),
        _same,
    ),
    "feature_dropout": _same,
    "full": _filled(None),
    "zeros": _filled(0),
    "ones": _filled(1),
    **dict.fromkeys(("full_like", "fill"), _filled_like(None)),
    "zeros_like": _filled_like(0),
    "ones_like": _filled_like(1),
    "new_full": _new(None),
    "new_zeros": _new(0),
    "new_ones": _new(1),
    "arange": lambda *ends: tensor(jnp.arange(*ends)),
    "sym_size": lambda x, dim: x.shape[dim],
}
