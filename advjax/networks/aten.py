"""PyTorch's operations in JAX: a table by their ATen names, for `from_torch`.

A value is a `Tensor`, a JAX array whose axes may lie in another order than PyTorch's dimensions.
So a transposition costs nothing, and images stay channels last from one convolution to the next,
which is what XLA is fast at; `view` keeps that order where it can. Each function takes the
arguments of its ATen operation. The dtype of a result is PyTorch's: `from_torch` converts to it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advjax.networks import layers

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


def _dims(x: Tensor, dim: Any) -> list[int]:
    """Return PyTorch's `dim`, one number or several, none for all, as dimensions from 0."""
    n = len(x.axes)
    if dim is None or dim == []:
        return list(range(n))
    return [d % n if n else 0 for d in ([dim] if isinstance(dim, int) else dim)]


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation of a function that knows arrays in PyTorch's order only."""

    def strip(value: Any) -> Any:
        if isinstance(value, list | tuple) and not isinstance(value, Tensor):
            return [strip(item) for item in value]
        return value.plain if isinstance(value, Tensor) else value

    @functools.wraps(function)
    def operation(*args: Any, **kwargs: Any) -> Tensor:
        return tensor(function(*map(strip, args), **{k: strip(v) for k, v in kwargs.items()}))

    return operation


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
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


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def operation(x: Tensor, dim=None, keepdim=False, dtype=None) -> Tensor:
        dims = _dims(x, dim)
        kept = Tensor(function(x.data, tuple(x.axes[d] for d in dims), keepdims=True), x.axes)
        return kept if keepdim else squeeze(kept, dims)

    return operation


# Shapes.


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
    gone = {x.axes[d] for d in _dims(x, dim) if shape and shape[d] == 1}
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


def _split_dim(x: Tensor, dim: int, size: int) -> Tensor:
    """Split one dimension into two, the first of this size."""
    shape = list(x.shape)
    shape[dim : dim + 1] = [size, shape[dim] // size]
    return view(x, shape)


def _repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    for _ in range(len(repeats) - len(x.axes)):
        x = unsqueeze(x, 0)
    return Tensor(jnp.tile(x.data, [repeats[d] for d in x.order]), x.axes)


def _slice(x: Tensor, dim=0, start=None, end=None, step=1) -> Tensor:
    (dim,) = _dims(x, dim)
    begin, stop, step = slice(start, end, step).indices(x.shape[dim])
    return Tensor(lax.slice_in_dim(x.data, begin, max(begin, stop), step, x.axes[dim]), x.axes)


def _select(x: Tensor, dim: int, index: int) -> Tensor:
    (dim,) = _dims(x, dim)
    index %= x.shape[dim]
    return squeeze(_slice(x, dim, index, index + 1), dim)


def _split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    ends = list(itertools.accumulate(sizes))
    return [_slice(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _split(x: Tensor, size: Any, dim: int = 0) -> list[Tensor]:
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
    return Tensor(jnp.roll(x.data, shifts, [x.axes[d] for d in _dims(x, dims)]), x.axes)


def _flip(x: Tensor, dims: Sequence[int]) -> Tensor:
    return Tensor(jnp.flip(x.data, [x.axes[d] for d in _dims(x, dims)]), x.axes)


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
    return view(transpose(_split_dim(x, 1, groups), 1, 2), x.shape)


# Products.


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """Multiply matrices, batches of them, and vectors."""
    m, n = len(x.axes), len(y.axes)
    if m < 2 or n < 2 or (n > 2 and x.shape[:-2] != y.shape[:-2]):
        return tensor(jnp.matmul(x.plain, y.plain))
    batch = range(m - 2) if n > 2 else ()
    numbers = (
        ((x.axes[-1],), (y.axes[-2],)),
        (tuple(x.axes[d] for d in batch), tuple(y.axes[d] for d in batch)),
    )
    data = lax.dot_general(x.data, y.data, numbers)
    rows = [d for d in x.order if d not in (*batch, m - 1)]  # as they lie
    return tensor(data, [*batch, *rows, m - 1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply the last dimension by a matrix [outputs, inputs]."""
    y = matmul(x, transpose(weight))
    return y if bias is None else _add(y, bias)


def _einsum(equation: str, tensors: Sequence[Tensor], path: Any = None) -> Tensor:
    return tensor(jnp.einsum(equation, *(t.plain for t in tensors)))


def _addmm(bias: Tensor, x: Tensor, y: Tensor, *, beta=1, alpha=1) -> Tensor:
    product = matmul(x, y)
    return _add(product if alpha == 1 else _mul(product, alpha), bias, alpha=beta)


def _softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return Tensor(jax.nn.softmax(_wide(x.data), x.axes[dim]), x.axes)


def _log_softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return Tensor(jax.nn.log_softmax(_wide(x.data), x.axes[dim]), x.axes)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute scaled dot-product attention over [..., tokens, channels]."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (Tensor(jnp.repeat(t.data, times, t.axes[-3]), t.axes) for t in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = matmul(_mul(query, scale), transpose(key, -2, -1))
    if is_causal:
        attn_mask = tensor(jnp.tril(jnp.ones(scores.shape[-2:], bool)))
    if attn_mask is not None and attn_mask.data.dtype == bool:
        scores = _where(attn_mask, scores, -jnp.inf)
    elif attn_mask is not None:
        scores = _add(scores, attn_mask)
    weights = _softmax(scores, -1)
    return matmul(Tensor(weights.data.astype(value.data.dtype), weights.axes), value)


# Convolutions and pooling.


def _pair(value: Any) -> tuple[int, int]:
    """Return PyTorch's argument for both directions: a number, one in a list, or two."""
    first, *rest = [value] if isinstance(value, int) else value
    return int(first), int(rest[0] if rest else first)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve [b, c, h, w], or [b, c, w] as one row, with a kernel [o, i, h, w]."""
    if len(x.axes) == 3:
        if not isinstance(padding, str):
            padding = (0, _pair(padding)[-1])
        stride, dilation = (1, _pair(stride)[-1]), (1, _pair(dilation)[-1])
        row = convolution(
            unsqueeze(x, 2), unsqueeze(weight, 2), bias, stride, padding, dilation, groups
        )
        return squeeze(row, 2)
    kernel = weight.laid(KERNEL)
    strides, dilations = _pair(stride), _pair(dilation)
    if padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilations, kernel.shape, strict=False)]
        pads = tuple((n // 2, n - n // 2) for n in whole)
    else:
        pads = tuple((n, n) for n in _pair(0 if padding == "valid" else padding))
    y = _convolution(x.laid(CHANNELS_LAST), kernel, strides, pads, dilations, groups)
    return tensor(y if bias is None else y + bias.plain.reshape(1, 1, 1, -1), CHANNELS_LAST)


def _convolution(x, kernel, strides, pads, dilations, groups):
    if strides[0] != strides[1] or dilations != (1, 1):
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilations,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    if groups == x.shape[-1] > 1 and kernel.shape[-1] == groups:
        return layers.depthwise_convolution(x, kernel, stride=strides[0], padding=pads)
    return layers.convolution(x, kernel, stride=strides[0], padding=pads, groups=groups)


def _conv_transpose(
    x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> Tensor:
    kernel = weight.laid((2, 3, 0, 1))[::-1, ::-1]  # [h, w, i, o of one group]
    if groups > 1:  # inputs of all groups to outputs of all groups
        h, w, i, o = kernel.shape
        kernel = kernel.reshape(h, w, groups, i // groups, o).transpose(0, 1, 3, 2, 4)
        kernel = kernel.reshape(h, w, i // groups, groups * o)
    dilations = _pair(dilation)
    sides = zip(kernel.shape, _pair(padding), _pair(output_padding), dilations, strict=False)
    y = lax.conv_general_dilated(
        x.laid(CHANNELS_LAST),
        kernel,
        (1, 1),
        [(d * (k - 1) - p, d * (k - 1) - p + more) for k, p, more, d in sides],
        lhs_dilation=_pair(stride),
        rhs_dilation=dilations,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return tensor(y if bias is None else y + bias.plain.reshape(1, 1, 1, -1), CHANNELS_LAST)


def _max_pool(x: Tensor, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False) -> Tensor:
    y = layers.max_pool(
        x.laid(CHANNELS_LAST),
        _pair(kernel_size),
        _pair(stride or kernel_size),
        _pair(padding),
        ceil=ceil_mode,
        dilation=_pair(dilation),
    )
    return tensor(y, CHANNELS_LAST)


def _average_pool(
    x: Tensor,
    kernel_size,
    stride=(),
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> Tensor:
    y = layers.average_pool(
        x.laid(CHANNELS_LAST),
        _pair(kernel_size),
        _pair(stride or kernel_size),
        _pair(padding),
        ceil=ceil_mode,
        divisor=divisor_override or ("padded" if count_include_pad else "image"),
    )
    return tensor(y, CHANNELS_LAST)


def _resample(x: Tensor, matrices: Sequence[np.ndarray | None]) -> Tensor:
    """Multiply the last dimensions by matrices [outputs, inputs], one for each; None keeps one."""
    for matrix, dim in zip(matrices, range(len(x.axes) - len(matrices), len(x.axes)), strict=True):
        if matrix is not None:
            wide = _wide(x.data)
            y = jnp.tensordot(wide, jnp.asarray(matrix, wide.dtype), ((x.axes[dim],), (1,)))
            x = Tensor(jnp.moveaxis(y, -1, x.axes[dim]), x.axes)
    return x


def _adaptive_average_pool(x: Tensor, output_size: Any) -> Tensor:
    sizes = [output_size] if isinstance(output_size, int) else list(output_size)
    return _resample(
        x, [_averages(n, m) for n, m in zip(x.shape[-len(sizes) :], sizes, strict=True)]
    )


def _averages(inputs: int, outputs: int) -> np.ndarray | None:
    """Return the matrix of adaptive average pooling along one side."""
    if outputs in (inputs, -1):
        return None
    matrix = np.zeros((outputs, inputs))
    for n in range(outputs):
        begin, end = n * inputs // outputs, -(-(n + 1) * inputs // outputs)
        matrix[n, begin:end] = 1 / (end - begin)
    return matrix


def _upsample(reach: int, kernel: Callable[[np.ndarray], np.ndarray] | None) -> Callable[..., Any]:
    """Return upsample_nearest, _bilinear or _bicubic: a kernel of this reach on each side."""

    def operation(x: Tensor, output_size=None, *args: Any) -> Tensor:
        # (output_size, [align_corners], scale_factors) or (..., [align_corners], scale_h, scale_w)
        align = bool(kernel) and bool(args[0])
        scales: Any = args[1:] if kernel else args
        scales = scales[0] if scales and not isinstance(scales[0], int | float) else scales
        given: list[Any] = list(scales) if scales else [None, None]
        sizes = x.shape[-2:]
        if output_size is None:
            output_size = [int(n * s) for n, s in zip(sizes, given, strict=True)]
        rows = zip(sizes, output_size, given, strict=True)
        return _resample(x, [_interpolation(n, m, s, align, reach, kernel) for n, m, s in rows])

    return operation


def _interpolation(inputs, outputs, scale, align, reach, kernel) -> np.ndarray | None:
    """Return the matrix of PyTorch's interpolation along one side."""
    if inputs == outputs:
        return None
    matrix = np.zeros((outputs, inputs))
    at = np.arange(outputs)
    step = inputs / outputs if scale is None else 1 / scale
    if kernel is None:
        matrix[at, np.minimum((at * step).astype(int), inputs - 1)] = 1
        return matrix
    if align:
        places = at * ((inputs - 1) / max(outputs - 1, 1))
    else:
        places = (at + 0.5) * step - 0.5
        places = np.maximum(places, 0) if reach == 1 else places
    low = np.floor(places).astype(int)
    for tap in range(1 - reach, reach + 1):
        column = np.clip(low + tap, 0, inputs - 1)
        np.add.at(matrix, (at, column), kernel(np.abs(places - low - tap)))
    return matrix


def _cubic(distance: np.ndarray) -> np.ndarray:
    a, d = -0.75, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    return np.where(d <= 1, near, ((d - 5) * d + 8) * d * a - 4 * a)


# Normalisation: in float32, as PyTorch computes it.


def _wide(data: Any) -> Any:
    return data.astype(jnp.float32) if data.dtype in (jnp.bfloat16, jnp.float16) else data


def _normalised(x: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    axes = tuple(x.axes[d] for d in dims)
    data = _wide(x.data)
    centred = data - data.mean(axes, keepdims=True)
    variance = jnp.mean(centred * centred, axes, keepdims=True)
    return Tensor(centred * lax.rsqrt(variance + eps), x.axes)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else _mul(x, weight)
    return x if bias is None else _add(x, bias)


def _layer_norm(x: Tensor, shape, weight=None, bias=None, eps=1e-5, cudnn=False) -> Tensor:
    return _affine(_normalised(x, range(-len(shape), 0), eps), weight, bias)


def _rms_norm(x: Tensor, shape, weight=None, eps=None) -> Tensor:
    eps = float(jnp.finfo(x.data.dtype).eps) if eps is None else eps
    data = _wide(x.data)
    axes = tuple(x.axes[d] for d in range(-len(shape), 0))
    scale = lax.rsqrt(jnp.mean(data * data, axes, keepdims=True) + eps)
    return _affine(Tensor(data * scale, x.axes), weight, None)


def _channels(vector: Tensor | None, rank: int) -> Tensor | None:
    """Return [c] as [c, 1, 1], so that it meets the channels of [b, c, h, w]."""
    return vector and tensor(vector.plain.reshape((-1,) + (1,) * (rank - 2)))


def _group_norm(x: Tensor, groups: int, weight=None, bias=None, eps=1e-5, cudnn=False) -> Tensor:
    split = _split_dim(x, 1, groups)
    y = view(_normalised(split, range(2, len(split.axes)), eps), x.shape)
    return _affine(y, *(_channels(v, len(x.axes)) for v in (weight, bias)))


def _instance_norm(x, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn) -> Tensor:
    if not use_input_stats:
        return _batch_norm(x, weight, bias, mean, var, momentum, eps)[0]
    return _group_norm(x, x.shape[1], weight, bias, eps)


def _batch_norm(x: Tensor, weight, bias, mean, var, momentum: float, eps: float) -> list[Any]:
    scale = lax.rsqrt(_wide(var.plain) + eps)
    scale = scale if weight is None else scale * weight.plain
    shift = -mean.plain * scale
    shift = shift if bias is None else shift + bias.plain
    scale, shift = (_channels(tensor(v), len(x.axes)) for v in (scale, shift))
    return [_affine(x, scale, shift), None, None]


def _vector_norm(x: Tensor, ord=2, dim=None, keepdim=False, dtype=None) -> Tensor:
    def norm(data, axes, keepdims):
        size = _absolute(_wide(data))
        if ord == float("inf"):
            return size.max(axes, keepdims=keepdims)
        if ord == 1:
            return size.sum(axes, keepdims=keepdims)
        if ord == 2:
            total = jnp.sum(size * size, axes, keepdims=keepdims)
            # The floor: a slope of 0 where everything is 0, as in PyTorch, and not NaN.
            return jnp.sqrt(jnp.maximum(total, jnp.finfo(total.dtype).tiny))
        return jnp.sum(size**ord, axes, keepdims=keepdims) ** (1 / ord)

    return _reduction(norm)(x, dim, keepdim)


def _variance(x: Tensor, dim=None, unbiased=True, keepdim=False, *, correction=None) -> Tensor:
    less = int(unbiased) if correction is None else correction

    def variance(data, axes, keepdims):
        return jnp.var(_wide(data), axes, ddof=less, keepdims=keepdims)

    if isinstance(dim, bool):  # var(x, unbiased)
        dim, less = None, int(dim)
    return _reduction(variance)(x, dim, keepdim)


def _extreme(index: Callable[..., Any], whole: Callable[..., Any]) -> Callable[..., Any]:
    """Return max or min: of everything, or along one dimension with its places."""

    def operation(x: Tensor, dim=None, keepdim=False) -> Any:
        if dim is None:
            return _reduction(whole)(x)
        if isinstance(dim, Tensor):
            return _elementwise(jnp.maximum if whole is jnp.max else jnp.minimum)(x, dim)
        places = index(x.data, x.axes[dim], keepdims=True)
        values = jnp.take_along_axis(x.data, places, x.axes[dim])
        both = Tensor(values, x.axes), Tensor(places, x.axes)
        return list(both) if keepdim else [squeeze(t, dim) for t in both]

    return operation


# Elements.


def _scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return add or sub, which multiply their second operand by alpha."""

    def operation(x, y, alpha=1):
        return function(x, y if alpha == 1 else y * alpha)

    return _elementwise(operation)


_add = _scaled(lambda x, y: x + y)
_sub = _scaled(lambda x, y: x - y)
_mul = _elementwise(lambda x, y: x * y)


def _absolute(x):
    return x * jnp.sign(x)  # jnp.abs has the derivative 1 at 0: PyTorch's is 0


def _divide(x, y, rounding_mode=None):
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    quotient = x / y
    return jnp.trunc(quotient) if rounding_mode == "trunc" else quotient


def _where_data(condition, x, y):
    return jnp.where(condition, x, y)


_where = _elementwise(_where_data)


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
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _softplus(x, beta=1, threshold=20):
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(x * beta) / beta)


def _leaky_relu(x, slope=0.01):
    return jnp.where(x > 0, x, x * slope)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    if len(weight.axes) == 1:
        weight = tensor(weight.plain.reshape((-1,) + (1,) * (len(x.axes) - 2)))
    return _elementwise(_leaky_relu)(x, weight)


def _power(x, exponent):
    whole = isinstance(exponent, float) and exponent.is_integer()
    return x ** (int(exponent) if whole else exponent)  # x**2 is a product


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = _split(x, x.shape[dim] // 2, dim)
    return _mul(value, _elementwise(jax.nn.sigmoid)(gate))


def _index(x, indices):
    return x[tuple(slice(None) if i is None else i for i in indices)]


def _index_put(x, indices, values, accumulate=False):
    place = x.at[tuple(slice(None) if i is None else i for i in indices)]
    return place.add(values) if accumulate else place.set(values)


def _slice_scatter(x, source, dim=0, start=None, end=None, step=1):
    return x.at[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)].set(source)


def _select_scatter(x, source, dim, index):
    return x.at[(slice(None),) * (dim % x.ndim) + (index,)].set(source)


def _im2col(x, kernel_size, dilation, padding, stride):
    y = lax.conv_general_dilated_patches(
        x,
        _pair(kernel_size),
        _pair(stride),
        [(n, n) for n in _pair(padding)],
        rhs_dilation=_pair(dilation),
    )
    return y.reshape(*y.shape[:2], -1)


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
        "maximum": jnp.maximum,
        "minimum": jnp.minimum,
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
        "abs": _absolute,
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
    return {name: _elementwise(function) for name, function in functions.items()}


OPERATIONS: dict[str, Callable[..., Any]] = {
    **_by_elements(),
    "add": _add,
    "sub": _sub,
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
    "split": _split,
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
    "im2col": _plain(_im2col),
    # Entries.
    "index": _plain(_index),
    "index_select": _plain(lambda x, dim, index: jnp.take(x, index, dim)),
    "index_put": _plain(_index_put),
    "gather": _plain(lambda x, dim, index: jnp.take_along_axis(x, index, dim)),
    "embedding": _plain(lambda weight, indices, *rest: weight[indices]),
    "slice_scatter": _plain(_slice_scatter),
    "select_scatter": _plain(_select_scatter),
    "tril": _plain(jnp.tril),
    "triu": _plain(jnp.triu),
    "cumsum": _plain(lambda x, dim: jnp.cumsum(x, dim)),
    "copy": lambda x, source: expand(source, x.shape),
    # Products.
    **dict.fromkeys(("matmul", "mm", "bmm"), matmul),
    "linear": linear,
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "einsum": _einsum,
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
    # Convolutions and pooling.
    **dict.fromkeys(("conv1d", "conv2d"), convolution),
    "conv_transpose2d": _conv_transpose,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"),
        _adaptive_average_pool,
    ),
    "upsample_nearest2d": _upsample(0, None),
    "upsample_bilinear2d": _upsample(1, lambda distance: np.maximum(1 - distance, 0)),
    "upsample_bicubic2d": _upsample(2, _cubic),
    # Normalisation and reductions.
    "_native_batch_norm_legit_no_training": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "mean": _reduction(jnp.mean),
    "sum": _reduction(jnp.sum),
    "amax": _reduction(jnp.max),
    "amin": _reduction(jnp.min),
    "prod": _reduction(jnp.prod),
    "any": _reduction(jnp.any),
    "all": _reduction(jnp.all),
    "logsumexp": _reduction(jax.nn.logsumexp),
    "max": _extreme(jnp.argmax, jnp.max),
    "min": _extreme(jnp.argmin, jnp.min),
    "argmax": lambda x, dim, keepdim=False: _extreme(jnp.argmax, jnp.max)(x, dim, keepdim)[1],
    "var": _variance,
    "std": lambda *args, **more: _elementwise(jnp.sqrt)(_variance(*args, **more)),
    "var_mean": lambda x, dim=None, *args, keepdim=False, **more: [
        _variance(x, dim, *args, keepdim=keepdim, **more),
        _reduction(jnp.mean)(x, dim, keepdim),
    ],
    "linalg_vector_norm": _vector_norm,
    "glu": _glu,
    **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
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
"""By the name of an ATen operation, without its overload."""
