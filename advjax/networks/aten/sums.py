"""PyTorch's products of matrices, attention, normalisation and statistics."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from advjax.networks.aten.elements import absolute, add, multiply, where
from advjax.networks.aten.extremes import largest, maximum, minimum, smallest
from advjax.networks.aten.tensors import (
    Tensor,
    elementwise,
    reduction,
    split_dimension,
    squeeze,
    tensor,
    transpose,
    view,
    wide,
)


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
    return y if bias is None else add(y, bias)


def _einsum(equation: str, tensors: Sequence[Tensor], path: Any = None) -> Tensor:
    return tensor(jnp.einsum(equation, *(t.plain for t in tensors)))


def _addmm(bias: Tensor, x: Tensor, y: Tensor, *, beta=1, alpha=1) -> Tensor:
    product = matmul(x, y)
    return add(product if alpha == 1 else multiply(product, alpha), bias, alpha=beta)


def _softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return Tensor(jax.nn.softmax(wide(x.data), x.axes[dim]), x.axes)


def _log_softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return Tensor(jax.nn.log_softmax(wide(x.data), x.axes[dim]), x.axes)


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
    scores = matmul(multiply(query, scale), transpose(key, -2, -1))
    if is_causal:
        attn_mask = tensor(jnp.tril(jnp.ones(scores.shape[-2:], bool)))
    if attn_mask is not None and attn_mask.data.dtype == bool:
        scores = where(attn_mask, scores, -jnp.inf)
    elif attn_mask is not None:
        scores = add(scores, attn_mask)
    weights = _softmax(scores, -1)
    return matmul(Tensor(weights.data.astype(value.data.dtype), weights.axes), value)


# Normalisation: in float32, as PyTorch computes it.


def _normalised(x: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    axes = tuple(x.axes[d] for d in dims)
    data = wide(x.data)
    centred = data - data.mean(axes, keepdims=True)
    variance = jnp.mean(centred * centred, axes, keepdims=True)
    return Tensor(centred * lax.rsqrt(variance + eps), x.axes)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else multiply(x, weight)
    return x if bias is None else add(x, bias)


def _layer_norm(x: Tensor, shape, weight=None, bias=None, eps=1e-5, cudnn=False) -> Tensor:
    return _affine(_normalised(x, range(-len(shape), 0), eps), weight, bias)


def _rms_norm(x: Tensor, shape, weight=None, eps=None) -> Tensor:
    eps = float(jnp.finfo(x.data.dtype).eps) if eps is None else eps
    data = wide(x.data)
    axes = tuple(x.axes[d] for d in range(-len(shape), 0))
    scale = lax.rsqrt(jnp.mean(data * data, axes, keepdims=True) + eps)
    return _affine(Tensor(data * scale, x.axes), weight, None)


def _channels(vector: Tensor | None, rank: int) -> Tensor | None:
    """Return [c] as [c, 1, 1], so that it meets the channels of [b, c, h, w]."""
    return vector and tensor(vector.plain.reshape((-1,) + (1,) * (rank - 2)))


def _group_norm(x: Tensor, groups: int, weight=None, bias=None, eps=1e-5, cudnn=False) -> Tensor:
    split = split_dimension(x, 1, groups)
    y = view(_normalised(split, range(2, len(split.axes)), eps), x.shape)
    return _affine(y, *(_channels(v, len(x.axes)) for v in (weight, bias)))


def _instance_norm(x, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn) -> Tensor:
    if not use_input_stats:
        return _batch_norm(x, weight, bias, mean, var, momentum, eps)[0]
    return _group_norm(x, x.shape[1], weight, bias, eps)


def _batch_norm(x: Tensor, weight, bias, mean, var, momentum: float, eps: float) -> list[Any]:
    scale = lax.rsqrt(wide(var.plain) + eps)
    scale = scale if weight is None else scale * weight.plain
    shift = -mean.plain * scale
    shift = shift if bias is None else shift + bias.plain
    scale, shift = (_channels(tensor(v), len(x.axes)) for v in (scale, shift))
    return [_affine(x, scale, shift), None, None]


def _vector_norm(x: Tensor, ord=2, dim=None, keepdim=False, dtype=None) -> Tensor:
    def norm(data, axes, keepdims):
        size = absolute(wide(data))
        if ord == float("inf"):
            return largest(size, axes, keepdims)
        if ord == 1:
            return size.sum(axes, keepdims=keepdims)
        if ord == 2:
            total = jnp.sum(size * size, axes, keepdims=keepdims)
            # The floor: a slope of 0 where everything is 0, as in PyTorch, and not NaN.
            tiny = jnp.finfo(total.dtype).tiny
            return jnp.sqrt(jnp.where(total < tiny, tiny, total))
        return jnp.sum(size**ord, axes, keepdims=keepdims) ** (1 / ord)

    return reduction(norm)(x, dim, keepdim)


def _variance(x: Tensor, dim=None, unbiased=True, keepdim=False, *, correction=None) -> Tensor:
    less = int(unbiased) if correction is None else correction

    def variance(data, axes, keepdims):
        return jnp.var(wide(data), axes, ddof=less, keepdims=keepdims)

    if isinstance(dim, bool):  # var(x, unbiased)
        dim, less = None, int(dim)
    return reduction(variance)(x, dim, keepdim)


def _extreme(index: Callable[..., Any], whole: Callable[..., Any]) -> Callable[..., Any]:
    """Return max or min: of everything, or along one dimension with its places."""

    def operation(x: Tensor, dim=None, keepdim=False) -> Any:
        if dim is None:
            return reduction(whole)(x)
        if isinstance(dim, Tensor):
            return elementwise(maximum if index is jnp.argmax else minimum)(x, dim)
        places = index(x.data, x.axes[dim], keepdims=True)
        values = jnp.take_along_axis(x.data, places, x.axes[dim])
        both = Tensor(values, x.axes), Tensor(places, x.axes)
        return list(both) if keepdim else [squeeze(t, dim) for t in both]

    return operation


SUMS: dict[str, Callable[..., Any]] = {
    # Products.
    **dict.fromkeys(("matmul", "mm", "bmm"), matmul),
    "linear": linear,
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "einsum": _einsum,
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
    # Normalisation and reductions.
    "_native_batch_norm_legit_no_training": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "mean": reduction(jnp.mean),
    "sum": reduction(jnp.sum),
    "amax": reduction(largest),
    "amin": reduction(smallest),
    "prod": reduction(jnp.prod),
    "any": reduction(jnp.any),
    "all": reduction(jnp.all),
    "logsumexp": reduction(jax.nn.logsumexp),
    "max": _extreme(jnp.argmax, largest),
    "min": _extreme(jnp.argmin, smallest),
    "argmax": lambda x, dim, keepdim=False: _extreme(jnp.argmax, largest)(x, dim, keepdim)[1],
    "var": _variance,
    "std": lambda *args, **more: elementwise(jnp.sqrt)(_variance(*args, **more)),
    "var_mean": lambda x, dim=None, *args, keepdim=False, **more: [
        _variance(x, dim, *args, keepdim=keepdim, **more),
        reduction(jnp.mean)(x, dim, keepdim),
    ],
    "linalg_vector_norm": _vector_norm,
}
