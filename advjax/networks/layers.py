"""Caffe's layers, exactly, on NHWC arrays, written so that XLA is fast in both directions.

Each function has a plain definition that the tests hold it against, in value and in gradient. Where
the code is not that definition, it is because XLA's CPU kernel for it is several times slower
(`docs/benchmarks.md` has the figures): overlapping pooling windows, powers. Convolutions have a
module of their own, `convolution_forms`.
"""

import functools
import math
from collections.abc import Callable
from functools import reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from advjax.networks.convolution_forms import Padding, convolution, strided

Generator = np.random.Generator | None
"""The source of random weights; None leaves zeros, for weights that will be read."""


def pooled_size(
    size: int,
    window: int,
    stride: int,
    padding: int | tuple[int, int] = 0,
    *,
    ceil: bool = True,
) -> int:
    """Return the number of windows along one side, of which none begins in the padding behind.

    Padding is the same at both ends, or (before, behind). Caffe rounds up; PyTorch rounds down
    unless told otherwise.

    Example:
        >>> pooled_size(55, 3, 2), pooled_size(14, 3, 2), pooled_size(7, 3, 2, 1)
        (27, 7, 4)
        >>> pooled_size(14, 3, 2, ceil=False)
        6
    """
    before, behind = _both(padding)
    room = size + before + behind - window
    if not ceil:
        return room // stride + 1
    count = math.ceil(room / stride) + 1
    return count - 1 if before + behind and (count - 1) * stride >= size + before else count


Side = int | tuple[int, int]
"""The same number in both directions, or (down, across)."""


def _both(side: Any) -> tuple[Any, Any]:
    return (side, side) if isinstance(side, int) else side


def _pool(
    x: Array,
    window: Side,
    stride: Side,
    padding: Side | Padding,
    fill: float,
    combine: Callable[[Array, Array], Array],
    ceil: bool,
    dilation: Side = 1,
) -> Array:
    """Combine the entries of each window, one side after the other: 2k slices instead of k^2.

    Across first: of equal entries a maximum then takes the first one, row by row.
    """
    sides = zip(*map(_both, (window, stride, padding, dilation)), strict=True)
    for axis, (k, s, pad, apart) in reversed(list(zip((1, 2), sides, strict=True))):
        size = x.shape[axis]
        reach = (k - 1) * apart + 1
        count = pooled_size(size, reach, s, pad, ceil=ceil)
        before, _ = _both(pad)
        # At least the last window's end; what lies beyond it is cut off by the slices.
        after = max(0, (count - 1) * s + reach - size - before)
        pads = [(0, 0, 0)] * 4
        pads[axis] = (before, after, 0)
        x = lax.pad(x, jnp.asarray(fill, x.dtype), pads)
        offsets = tuple(i * apart for i in range(k))
        x = reduce(combine, _windows(x, axis, offsets, count, s, x.shape[axis]))
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _windows(x, axis, offsets, count, stride, size):
    """Return `strided` of x, whose axis has this size, at each of the offsets."""
    return tuple(strided(x, axis, offset, count, stride) for offset in offsets)


def _windows_forward(x, axis, offsets, count, stride, size):
    return _windows(x, axis, offsets, count, stride, size), None


def _windows_backward(axis, offsets, count, stride, size, _, cts):
    """Return the sum of what each window gets, entry by entry of a step, laid side by side.

    Autodiff spreads each gradient over every `stride`-th entry of full size, one entry at a time,
    which takes up to twice as long (benchmarks/forms.py).
    """
    steps = -(-size // stride)
    entries = []
    for entry in range(stride):
        entries.append(jnp.zeros_like(cts[0], shape=_resized(cts[0].shape, axis, steps)))
        for offset, ct in zip(offsets, cts, strict=True):
            if offset % stride == entry:
                sides = [(0, 0, 0)] * ct.ndim
                sides[axis] = (offset // stride, steps - count - offset // stride, 0)
                entries[-1] += lax.pad(ct, jnp.zeros((), ct.dtype), sides)
    whole = jnp.stack(entries, axis + 1)
    whole = whole.reshape(_resized(cts[0].shape, axis, steps * stride))
    return (lax.slice_in_dim(whole, 0, size, axis=axis),)


_windows.defvjp(_windows_forward, _windows_backward)


def _resized(shape, axis, size):
    return (*shape[:axis], size, *shape[axis + 1 :])


def max_pool(
    x: Float[Array, "b h w c"],
    window: Side,
    stride: Side,
    padding: Side | Padding = 0,
    *,
    ceil: bool = True,
    dilation: Side = 1,
) -> Float[Array, "b p q c"]:
    """Apply Caffe's max pooling: ceil mode, windows clipped to the image.

    The gradient goes to one entry of a window, also when several are largest, as in Caffe.

    Args:
        x: Input.
        window: Height and width of the windows.
        stride: Step between windows.
        padding: Rows and columns around the image that belong to windows; a number, (down,
            across), or ((top, bottom), (left, right)).
        ceil: False rounds the number of windows down, as PyTorch does.
        dilation: Step between the entries of a window.

    Example:
        >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 3, 2)[0, :, :, 0]
        Array([[10., 11.],
               [14., 15.]], dtype=float32)
    """
    # A select has a far cheaper gradient than reduce_window's scatter, and no halves at ties.
    return _pool(
        x,
        window,
        stride,
        padding,
        -jnp.inf,
        lambda a, b: jnp.where(a >= b, a, b),
        ceil,
        dilation,
    )


def average_pool(
    x: Float[Array, "b h w c"],
    window: Side,
    stride: Side,
    padding: Side | Padding = 0,
    *,
    ceil: bool = True,
    divisor: Literal["padded", "image"] | int = "padded",
) -> Float[Array, "b p q c"]:
    """Apply Caffe's average pooling: ceil mode; the divisor is the window in the padded image.

    Args:
        x: Input.
        window: Height and width of the windows.
        stride: Step between windows.
        padding: Zeros around the image that belong to windows; as in `max_pool`.
        ceil: False rounds the number of windows down, as PyTorch does.
        divisor: The size of the window inside the padded image, or inside the image; or a number.

    Example:
        >>> average_pool(jnp.ones((1, 4, 4, 1)), 3, 2, 1)[0, :, :, 0]
        Array([[0.44444445, 0.6666667 , 0.33333334],
               [0.6666667 , 1.        , 0.5       ],
               [0.33333334, 0.5       , 0.25      ]], dtype=float32)
    """
    total = _pool(x, window, stride, padding, 0.0, jnp.add, ceil)
    if isinstance(divisor, int):
        return total / divisor

    def counts(size, k, s, pad):
        before, behind = _both(pad)
        starts = [i * s - before for i in range(pooled_size(size, k, s, pad, ceil=ceil))]
        first, last = (-before, size + behind) if divisor == "padded" else (0, size)
        return jnp.asarray([min(n + k, last) - max(n, first) for n in starts], x.dtype)

    sides = zip(x.shape[1:3], *map(_both, (window, stride, padding)), strict=True)
    rows, columns = (counts(*side) for side in sides)
    return total / (rows[:, None] * columns[None, :])[None, :, :, None]


def _inverse_power(x, beta):
    if beta == 0.75:  # x^-1/2 x^-1/4: LRN's usual exponent, without XLA's slow power
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x**-beta


def lrn_across_channels(
    x: Float[Array, "b h w c"], size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1
) -> Float[Array, "b h w c"]:
    """Normalise responses, ACROSS_CHANNELS: x / (k + alpha / size * sum x^2)^beta.

    The sum runs over the `size` channels around each one (Krizhevsky et al. 2012, section 3.3, but
    with alpha divided by the window, as Caffe does).

    Example:
        >>> lrn_across_channels(jnp.ones((1, 1, 1, 3)), size=3, alpha=3.0)[0, 0, 0].round(4)
        Array([0.4387, 0.3536, 0.4387], dtype=float32)
    """
    c = x.shape[-1]
    offset = jnp.arange(c)[:, None] - jnp.arange(c)[None, :]
    # (c, c): ones within the window. A banded product beats a window sum along the fastest axis.
    band = (jnp.abs(offset) <= (size - 1) // 2).astype(x.dtype)
    total = jnp.matmul(x * x, band, precision=lax.Precision.HIGHEST)
    return x * _inverse_power(k + alpha / size * total, beta)


def lrn_within_channel(
    x: Float[Array, "b h w c"], size: int = 3, alpha: float = 1.0, beta: float = 0.75
) -> Float[Array, "b h w c"]:
    """Normalise responses, WITHIN_CHANNEL: x / (1 + alpha * mean x^2)^beta.

    The mean is Caffe's average pooling over a size x size window with stride 1; k is always 1.

    Example:
        >>> float(lrn_within_channel(jnp.ones((1, 1, 1, 1)), size=1, alpha=15.0)[0, 0, 0, 0])
        0.125
    """
    mean = average_pool(x * x, size, 1, (size - 1) // 2)
    return x * _inverse_power(1 + alpha * mean, beta)


class Conv(nnx.Module):
    """Caffe's Convolution: `convolution` plus a bias, with Caffe's gaussian and constant fillers.

    Args:
        inputs: Input channels, all groups together.
        outputs: Output channels.
        window: Height and width of the kernel.
        std: Standard deviation of the kernel's filler; None is Caffe's xavier, uniform within
            sqrt(3 / fan in).
        bias: Constant filler of the bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: int,
        *,
        stride: int = 1,
        padding: Padding = 0,
        groups: int = 1,
        std: float | None = None,
        bias: float = 0.0,
        rng: Generator,
    ):
        shape = (window, window, inputs // groups, outputs)
        self.kernel = nnx.Param(fill(rng, shape, std))
        self.bias = nnx.Param(jnp.full((outputs,), bias, jnp.float32))
        self.stride, self.padding, self.groups = stride, padding, groups

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q o"]:
        """Apply the layer to a batch."""
        y = convolution(
            x, self.kernel[...], stride=self.stride, padding=self.padding, groups=self.groups
        )
        return y + self.bias[...][None, None, None]


class InnerProduct(nnx.Module):
    """Caffe's InnerProduct on an input of any shape, flattened in NHWC order.

    Caffe flattens channel-major; the conversion of weights permutes the kernel's rows instead, for
    which it needs `input_shape`.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        *,
        std: float | None = None,
        bias: float = 0.0,
        rng: Generator,
    ):
        self.kernel = nnx.Param(fill(rng, (math.prod(input_shape), outputs), std))
        self.bias = nnx.Param(jnp.full((outputs,), bias, jnp.float32))
        self.input_shape = input_shape

    def __call__(self, x: Float[Array, "b ..."]) -> Float[Array, "b o"]:
        """Apply the layer to a batch."""
        x = x.reshape(x.shape[0], math.prod(self.input_shape))
        return x @ self.kernel[...] + self.bias[...][None]


def fill(rng: Generator, shape: tuple[int, ...], std: float | None) -> Float[Array, "..."]:
    """Fill as Caffe's gaussian filler, or for std None its xavier: uniform within sqrt(3 / fan in).

    Drawn on the host: the same numbers on every device, and nothing to compile. Without a
    generator, zeros.
    """
    if rng is None:
        return jnp.zeros(shape, jnp.float32)
    if std is not None:
        return jnp.asarray(rng.standard_normal(shape, np.float32) * np.float32(std))
    limit = math.sqrt(3 / math.prod(shape[:-1]))
    return jnp.asarray((rng.random(shape, np.float32) * 2 - 1) * np.float32(limit))
