"""A face descriptor: dlib's residual network (King 2017) in the quantised weights of face-api.

128 numbers for an aligned photograph of one face, 150 x 150. Two photographs are taken for the same
person when their descriptors are nearer than .6 in the Euclidean distance. The layers are those of
face-api's `FaceRecognitionNet`, by its names. Inference only: each convolution's scale layer is
folded into it when the weights are read, which changes nothing but rounding.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing
from advjax.errors import WeightsError
from advjax.networks.architecture import Architecture
from advjax.networks.layers import Conv, Generator, InnerProduct, average_pool, max_pool

relu = jax.nn.relu

# Channels of each residual block; one that ends in _down or _down_out halves the sides.
BLOCKS = (
    {f"conv32_{n}": 32 for n in (1, 2, 3)}
    | {"conv64_down": 64, "conv64_1": 64, "conv64_2": 64, "conv64_3": 64}
    | {"conv128_down": 128, "conv128_1": 128, "conv128_2": 128}
    | {"conv256_down": 256, "conv256_1": 256, "conv256_2": 256, "conv256_down_out": 256}
)


class FaceDescriptor(nnx.Module):
    """Activations: conv32_down, pool, each block after its sum, mean, descriptor."""

    def __init__(self, rng: Generator):
        conv = functools.partial(Conv, rng=rng)
        layers = {"conv32_down": conv(3, 32, 7, stride=2)}
        channels = 32
        for name, wide in BLOCKS.items():
            down = "_down" in name
            layers[f"{name}/conv1"] = (
                conv(channels, wide, 3, stride=2) if down else conv(channels, wide, 3, padding=1)
            )
            layers[f"{name}/conv2"] = conv(wide, wide, 3, padding=1)
            channels = wide
        self.layers = nnx.Dict(layers)
        self.layers["descriptor"] = InnerProduct((channels,), 128, rng=rng)

    def __call__(self, x: Float[Array, "b 150 150 3"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}
        x = out["conv32_down"] = relu(layers["conv32_down"](x))
        x = out["pool"] = max_pool(x, 3, 2, ceil=False)
        for name in BLOCKS:
            y = layers[f"{name}/conv2"](relu(layers[f"{name}/conv1"](x)))
            if "_down" in name:
                x = average_pool(x, 2, 2, ceil=False)
            x = out[name] = relu(_filled(x, y.shape) + _filled(y, x.shape))
        x = out["mean"] = x.mean((1, 2))
        out["descriptor"] = layers["descriptor"](x)
        return out


def _filled(x: Array, shape: tuple[int, ...]) -> Array:
    """Add zeros behind each axis of x that is shorter than the one of `shape`."""
    return jnp.pad(x, [(0, max(n - m, 0)) for m, n in zip(x.shape, shape, strict=True)])


def fold(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters of this module with the scale layers folded in.

    Args:
        state: Arrays by face-api's names ("conv32_1/conv1/conv/filters", ".../scale/weights",
            "fc"), kernels as (height, width, in, out).

    Raises:
        WeightsError: A tensor is missing.
    """
    inner = [f"{name}/conv{n}" for name in BLOCKS for n in (1, 2)]
    arrays = {}
    try:
        for name in ("conv32_down", *inner):
            gain = state[f"{name}/scale/weights"].astype(np.float64)
            arrays[f"{name}.kernel"] = state[f"{name}/conv/filters"] * gain
            arrays[f"{name}.bias"] = state[f"{name}/conv/bias"] * gain
            arrays[f"{name}.bias"] += state[f"{name}/scale/biases"]
        arrays["descriptor.kernel"] = state["fc"]
    except KeyError as error:
        raise WeightsError(
            f"the face descriptor's weights have no tensor {error}; give the archive of the npm "
            "package @vladmandic/face-api"
        ) from error
    arrays["descriptor.bias"] = np.zeros(arrays["descriptor.kernel"].shape[-1])  # it has none
    return {name: array.astype(np.float32) for name, array in arrays.items()}


ARCHITECTURES = {
    "face_descriptor": Architecture(
        build=FaceDescriptor,
        input_shape=(150, 150, 3),
        layer="descriptor",
        classes=None,
        output=None,
        vocabulary=None,
        order="RGB",
        mean=(122.782, 117.001, 104.298),
        scale=1 / 255,
        preprocessing=Preprocessing(
            resize="short_side", resize_to=150, crop=150, interpolation="bilinear_antialias"
        ),
    )
}
