"""PyTorch's convolutions, pooling and interpolation, on `advjax.networks.layers` where it can."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from advjax.networks import layers
from advjax.networks.aten.tensors import (
    CHANNELS_LAST,
    KERNEL,
    Tensor,
    plain,
    squeeze,
    tensor,
    unsqueeze,
    wide,
)
from advjax.networks.convolution_forms import general_convolution


def _pair(value: Any) -> tuple[int, int]:
    """Return PyTorch's argument for both directions: a number, one in a list, or two."""
    first, *rest = [value] if isinstance(value, int) else value
    return int(first), int(rest[0] if rest else first)


def _sides(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return padding as ((top, bottom), (left, right)); also if it is so already."""

    def ends(n):
        return (int(n[0]), int(n[1])) if isinstance(n, tuple) else (int(n), int(n))

    first, *rest = [value] if isinstance(value, int) else value
    return ends(first), ends(rest[0] if rest else first)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve [b, c, h, w], or [b, c, w] as one row, with a kernel [o, i, h, w].

    Padding is that of PyTorch; or ((top, bottom), (left, right)), as tuples.
    """
    if len(x.axes) == 3:
        if not isinstance(padding, str):
            padding = ((0, 0), _sides(padding)[-1])
        stride, dilation = (1, _pair(stride)[-1]), (1, _pair(dilation)[-1])
        row = convolution(
            unsqueeze(x, 2), unsqueeze(weight, 2), bias, stride, padding, dilation, groups
        )
        return squeeze(row, 2)
    kernel = weight.laid(KERNEL)
    strides, dilations = _pair(stride), _pair(dilation)
    if padding == "same":
        down, across = (d * (k - 1) for d, k in zip(dilations, kernel.shape, strict=False))
        pads = (down // 2, down - down // 2), (across // 2, across - across // 2)
    else:
        pads = _sides(0 if padding == "valid" else padding)
    y = general_convolution(
        x.laid(CHANNELS_LAST),
        kernel,
        strides=strides,
        padding=pads,
        dilations=dilations,
        groups=groups,
    )
    return tensor(y if bias is None else y + bias.plain.reshape(1, 1, 1, -1), CHANNELS_LAST)


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


def resample(x: Tensor, matrices: Sequence[np.ndarray | None]) -> Tensor:
    """Multiply the last dimensions by matrices [outputs, inputs], one for each; None keeps one."""
    for matrix, dim in zip(matrices, range(len(x.axes) - len(matrices), len(x.axes)), strict=True):
        if matrix is not None:
            data = wide(x.data)
            y = jnp.tensordot(data, jnp.asarray(matrix, data.dtype), ((x.axes[dim],), (1,)))
            x = Tensor(jnp.moveaxis(y, -1, x.axes[dim]), x.axes)
    return x


def _adaptive_average_pool(x: Tensor, output_size: Any) -> Tensor:
    sizes = [output_size] if isinstance(output_size, int) else list(output_size)
    return resample(
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
        return resample(x, [_interpolation(n, m, s, align, reach, kernel) for n, m, s in rows])

    return operation


def _interpolation(inputs, outputs, scale, align, reach, kernel) -> np.ndarray | None:
    """Return the matrix of PyTorch's interpolation along one side."""
    if inputs == outputs:
        return None
    at = np.arange(outputs)
    step = inputs / outputs if scale is None else 1 / scale
    if kernel is None:
        matrix = np.zeros((outputs, inputs))
        matrix[at, np.minimum((at * step).astype(int), inputs - 1)] = 1
        return matrix
    if align:
        places = at * ((inputs - 1) / max(outputs - 1, 1))
    else:
        places = (at + 0.5) * step - 0.5
        places = np.maximum(places, 0) if reach == 1 else places
    return interpolation_matrix(places, inputs, reach, kernel)


def interpolation_matrix(
    places: np.ndarray, inputs: int, reach: int, kernel: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the matrix [outputs, inputs] of values at places between the inputs."""
    matrix = np.zeros((len(places), inputs))
    low = np.floor(places).astype(int)
    for tap in range(1 - reach, reach + 1):
        column = np.clip(low + tap, 0, inputs - 1)
        np.add.at(matrix, (np.arange(len(places)), column), kernel(np.abs(places - low - tap)))
    return matrix


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distance, 0)


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    return np.where(d <= 1, near, ((d - 5) * d + 8) * d * a - 4 * a)


KERNELS: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "linear": (1, _linear),
    "cubic": (2, _cubic),
}
"""Of interpolation: how many entries a kernel reaches on each side, and its weight by distance."""


def _im2col(x, kernel_size, dilation, padding, stride):
    y = lax.conv_general_dilated_patches(
        x,
        _pair(kernel_size),
        _pair(stride),
        [(n, n) for n in _pair(padding)],
        rhs_dilation=_pair(dilation),
    )
    return y.reshape(*y.shape[:2], -1)


SPATIAL: dict[str, Callable[..., Any]] = {
    "im2col": plain(_im2col),
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
    "upsample_bilinear2d": _upsample(*KERNELS["linear"]),
    "upsample_bicubic2d": _upsample(*KERNELS["cubic"]),
}
