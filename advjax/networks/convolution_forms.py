"""Convolutions on NHWC arrays, in the forms that XLA's CPU compiler is fast at, both ways.

Each has a plain definition that the tests hold it against, in value and in gradient. Where the code
is not that definition, it is because XLA's CPU kernel for it is several times slower
(`docs/benchmarks.md` has the figures): grouped and depthwise convolutions, strided convolutions of
few channels, few outputs, many channels.
"""

import functools
import itertools
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = int | tuple[tuple[int, int], tuple[int, int]]
"""The same number of zeros on every side, or ((top, bottom), (left, right))."""


_NHWC = ("NHWC", "HWIO", "NHWC")


def _pairs(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding


def convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    *,
    stride: int = 1,
    padding: Padding = 0,
    groups: int = 1,
) -> Float[Array, "b p q o"]:
    """Compute a cross-correlation with zero padding, as Caffe's Convolution without its bias.

    Args:
        x: Input.
        kernel: `i` is the number of input channels of one group, `c / groups`.
        stride: Step in both directions; the last incomplete step is dropped, as in Caffe.
        padding: Zeros around the input.
        groups: Input and output channels are split into this many independent convolutions.

    Example:
        >>> convolution(jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 2, 6)), padding=1, groups=2).shape
        (1, 5, 5, 6)
    """
    pads = _pairs(padding)
    if groups > 1:
        # XLA's grouped kernel is 3 to 5 times slower on CPU than the groups one after the other.
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate([_dense(a, b, stride, pads) for a, b in parts], -1)
    return _dense(x, kernel, stride, pads)


def _dense(x, kernel, stride, pads):
    kh, kw, inputs, outputs = kernel.shape
    if pads == ((0, 0), (0, 0)) and ((kh, kw) == (1, 1) or kh == kw == stride):
        # One matrix product is faster than XLA's CPU convolution with windows that do not overlap.
        x = _patches(x[:, ::stride, ::stride] if kh == 1 else x, kh)
        y = x.reshape(-1, kh * kw * inputs) @ kernel.reshape(-1, outputs)
        return y.reshape(*x.shape[:3], outputs)
    if stride > 1 and kh == kw > stride and inputs < 16:
        return _space_to_depth_convolution(x, kernel, stride, pads)
    if stride == 1:
        return _unit_stride(x, kernel, pads)
    return _plain(x, kernel, pads, stride)


def _patches(x, size):
    """Lay squares of size x size pixels into channels; what is left over is dropped."""
    if size == 1:
        return x
    b, h, w, c = x.shape[0], x.shape[1] // size, x.shape[2] // size, x.shape[3]
    x = x[:, : h * size, : w * size].reshape(b, h, size, w, size * c)
    return x.swapaxes(2, 3).reshape(b, h, w, size * size * c)


def _plain(x, kernel, pads, stride):
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_NHWC)


def _unit_stride_value(x, kernel, pads):
    kh, kw, inputs, outputs = kernel.shape
    if jax.default_backend() == "cpu":
        # XLA is slow where the output is larger than the input, and fast with the same size.
        larger = all(sum(pad) >= k for pad, k in zip(pads, (kh, kw), strict=True))
        if outputs <= 12 and inputs >= 16 and min(kh, kw) > 2 and larger:
            return _squares_at_once(x, kernel, pads)
        # What it saves grows with the product of the channels and with the pixels; its transforms
        # of pixels grow with the channels' sum, and that of the kernel comes once a call.
        worth = inputs * outputs >= 48 * (inputs + outputs) and min(x.shape[1:3]) > 7
        if (kh, kw) == (3, 3) and worth and x.dtype.itemsize > 2:
            return _winograd(x, kernel, pads)
    return _plain(x, kernel, pads, 1)


def _winograd(x, kernel, pads):
    """Convolve with windows of 3 x 3 by Winograd's F(2 x 2, 3 x 3): 16 products for 36.

    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (CVPR 2016), section 4.1. The
    rounding error is 2 to 4 times that of the plain sum.
    """

    def spread(g):
        return g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]

    def to_tile(d):
        return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]

    def from_tile(m):
        return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

    batch, (inputs, outputs) = len(x), kernel.shape[2:]
    out = [n + sum(pad) - 2 for n, pad in zip(x.shape[1:3], pads, strict=True)]
    tiles = [-(-n // 2) for n in out]
    sides = [(lo, hi + 2 * t - n) for (lo, hi), t, n in zip(pads, tiles, out, strict=True)]
    edges = [(0, 0, 0), *((lo, hi, 0) for lo, hi in sides), (0, 0, 0)]  # negative: cut
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    rows = to_tile([strided(x, 1, i, tiles[0], 2) for i in range(4)])
    x = [to_tile([strided(row, 2, j, tiles[1], 2) for j in range(4)]) for row in rows]
    x = jnp.stack([entry.reshape(-1, inputs) for row in x for entry in row])
    kernel = jnp.stack([entry for row in spread(kernel) for entry in spread(row)])
    y = (x @ kernel).reshape(4, 4, batch, *tiles, outputs)
    y = jnp.stack([jnp.stack(from_tile(row), 3) for row in from_tile(y)], 2)
    y = y.reshape(batch, 2 * tiles[0], 2 * tiles[1], outputs)
    return y[:, : out[0], : out[1]]


def _squares_at_once(x, kernel, pads, side=2):
    """Convolve with a kernel that gives squares of side x side pixels of the output as channels.

    Few output channels, such as an image's in the input gradient of the first layer, leave most of
    a vector register empty (benchmarks/forms.py).
    """
    kh, kw, inputs, outputs = kernel.shape
    out = [n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[1:3], pads, (kh, kw), strict=True)]
    squares = [-(-n // side) for n in out]
    shifts = itertools.product(range(side), repeat=2)
    placed = [
        jnp.pad(kernel, ((i, side - 1 - i), (j, side - 1 - j), (0, 0), (0, 0))) for i, j in shifts
    ]
    kernel = jnp.stack(placed, 3).reshape(kh + side - 1, kw + side - 1, inputs, -1)
    sides = [(lo, hi + n * side - m) for (lo, hi), n, m in zip(pads, squares, out, strict=True)]
    y = _plain(x, kernel, sides, side).reshape(len(x), *squares, side, side, outputs)
    y = y.swapaxes(2, 3).reshape(len(x), squares[0] * side, squares[1] * side, outputs)
    return y[:, : out[0], : out[1]]


def _unit_stride_forward(x, kernel, pads):
    return _unit_stride_value(x, kernel, pads), (x, kernel)


def _unit_stride_backward(pads, saved, ct):
    """Return the input gradient as a forward-like convolution whose kernel is turned first.

    Autodiff leaves the turned kernel's axes as HWOI to the convolution. XLA's CPU compiler brings
    that to its fast kernel at the top of a program, but not in a loop's body, which is where the
    engine has it: there it took 5 ms where this takes .06 (16 x 16 x 32, window 5).
    """
    x, kernel = saved
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    sides = tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(kernel.shape, pads, strict=False))
    _, pull = jax.vjp(lambda kernel: _plain(x, kernel, pads, 1), kernel)
    return _unit_stride(ct, turned, sides), *pull(ct)


_unit_stride: Any = jax.custom_vjp(_unit_stride_value, nondiff_argnums=(2,))
_unit_stride.defvjp(_unit_stride_forward, _unit_stride_backward)


def _space_to_depth_convolution(x, kernel, stride, pads):
    """Convolve with stride 1 on blocks of stride x stride pixels that are laid into channels.

    Strided, its input gradient is a convolution over an input dilated with zeros, and its few input
    channels fill no vector register: 90 ms against 26 for both directions of CaffeNet's conv1.
    """
    k, _, c, o = kernel.shape
    blocks = -(-k // stride)  # of the kernel, per side
    out = [(n + sum(pad) - k) // stride + 1 for n, pad in zip(x.shape[1:3], pads, strict=True)]
    size = [(n - 1 + blocks) * stride for n in out]
    x = lax.pad(  # negative: pixels that no window reaches
        x,
        jnp.zeros((), x.dtype),
        [
            (0, 0, 0),
            *((lo, s - n - lo, 0) for s, n, (lo, _) in zip(size, x.shape[1:3], pads, strict=True)),
            (0, 0, 0),
        ],
    )
    b, h, w, s = x.shape[0], size[0] // stride, size[1] // stride, stride
    x = x.reshape(b, h, s, w, s * c).transpose(0, 1, 3, 2, 4).reshape(b, h, w, s * s * c)
    kernel = jnp.pad(kernel, ((0, blocks * s - k),) * 2 + ((0, 0),) * 2)
    kernel = kernel.reshape(blocks, s, blocks, s * c, o).transpose(0, 2, 1, 3, 4)
    kernel = kernel.reshape(blocks, blocks, s * s * c, o)
    # Unpadded, XLA's CPU convolution here is 3 times slower than the full one, cut.
    full = blocks - 1 if jax.default_backend() == "cpu" else 0
    y = _unit_stride(x, kernel, ((full, full),) * 2)
    return y[:, full : full + out[0], full : full + out[1]]


GROUPS = 64  # of which the convolutions are written one after the other


def general_convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    dilations: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Float[Array, "b p q o"]:
    """Compute a cross-correlation in the fastest form that is known here.

    Args:
        x: Input.
        kernel: As in `convolution`.
        strides: Step down and across.
        padding: Zeros around the input, ((top, bottom), (left, right)).
        dilations: Step between the kernel's entries, down and across.
        groups: As in `convolution`; as many as channels: each channel with its own filter.

    Example:
        >>> x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 4))
        >>> general_convolution(x, kernel, strides=(2, 1)).shape
        (1, 2, 3, 4)
    """
    plain = strides[0] != strides[1] or dilations != (1, 1)
    if groups == x.shape[-1] == kernel.shape[-1] > 1 and not plain:
        return _depthwise(x, kernel, strides[0], padding)
    if groups <= GROUPS and not plain:
        return convolution(x, kernel, stride=strides[0], padding=padding, groups=groups)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilations,
        dimension_numbers=_NHWC,
        feature_group_count=groups,
    )


def depthwise_convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    *,
    stride: int = 1,
    padding: Padding = 0,
) -> Float[Array, "b p q c"]:
    """Convolve every channel with its own filter, as a sum of shifted products.

    Equal to `convolution` with as many groups as channels, for which XLA's CPU kernel is naive.

    Example:
        >>> depthwise_convolution(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 1, 2))).shape
        (1, 3, 3, 2)
    """
    return _depthwise(x, kernel, stride, _pairs(padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, stride, pads):
    # The barrier keeps XLA from computing what made x anew for each of the taps.
    return _products(jnp.pad(lax.optimization_barrier(x), ((0, 0), *pads, (0, 0))), kernel, stride)


def _products(x, kernel, stride):
    """Return the sum of the shifted products, x being padded already."""
    taps = _taps(x, kernel.shape[:2], stride)
    return reduce(jnp.add, (tap * kernel[i, j, 0][None, None, None] for (i, j), tap in taps))


def _taps(x, window, stride):
    """Yield, for each entry (i, j) of the window, the values of x under it."""
    rows, columns = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], window, strict=True))
    for i, j in itertools.product(*map(range, window)):
        yield (i, j), strided(strided(x, 1, i, rows, stride), 2, j, columns, stride)


def _depthwise_forward(x, kernel, stride, pads):
    return _depthwise(x, kernel, stride, pads), (x, kernel)


def _depthwise_backward(stride, pads, saved, ct):
    """Return both gradients by shifted products; autodiff would pad each tap to full size."""
    x, kernel = saved
    ct = lax.optimization_barrier(ct)
    sides = [
        (k - 1 - lo, n + lo - ((o - 1) * stride + 1), stride - 1)
        for k, n, o, (lo, _) in zip(
            kernel.shape[:2], x.shape[1:3], ct.shape[1:3], pads, strict=True
        )
    ]
    spread = lax.pad(ct, jnp.zeros((), ct.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    dx = _products(spread, kernel[::-1, ::-1], 1)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    taps = _taps(x, kernel.shape[:2], stride)
    dkernel = jnp.stack([jnp.sum(ct * tap, (0, 1, 2)) for _, tap in taps])
    return dx, dkernel.reshape(kernel.shape)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def strided(x, axis, offset, count, stride):
    """Return `count` entries x[offset], x[offset + stride], ... along `axis`."""
    return lax.slice_in_dim(x, offset, offset + (count - 1) * stride + 1, stride, axis)
