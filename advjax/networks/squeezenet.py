"""SqueezeNet v1.0 (Iandola et al. 2016): eight fire modules and no inner product."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing
from advjax.networks.architecture import Architecture
from advjax.networks.layers import Conv, Generator, average_pool, max_pool

relu = jax.nn.relu

# Channels of each fire module: squeeze, and each of the two expansions (table 1).
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128)} | {
    6: (48, 192),
    7: (48, 192),
    8: (64, 256),
    9: (64, 256),
}


class SqueezeNet(nnx.Module):
    """Every blob of the deploy network by its name."""

    def __init__(self, rng: Generator):
        conv = functools.partial(Conv, rng=rng)
        layers = {"conv1": conv(3, 96, 7, stride=2)}
        channels = 96
        for n, (squeeze, expand) in FIRES.items():
            layers |= {
                f"fire{n}/squeeze1x1": conv(channels, squeeze, 1),
                f"fire{n}/expand1x1": conv(squeeze, expand, 1),
                f"fire{n}/expand3x3": conv(squeeze, expand, 3, padding=1),
            }
            channels = 2 * expand
        # The original pads this 1x1 convolution; its border is the bias alone.
        layers["conv10"] = conv(channels, 1000, 1, padding=1, std=0.01)
        self.layers = nnx.Dict(layers)

    def __call__(self, x: Float[Array, "b 227 227 3"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}

        def conv(name, x):
            x = out[name] = relu(layers[name](x))
            return x

        def fire(n, x):
            squeezed = conv(f"fire{n}/squeeze1x1", x)
            expanded = [conv(f"fire{n}/expand{k}", squeezed) for k in ("1x1", "3x3")]
            x = out[f"fire{n}/concat"] = jnp.concatenate(expanded, -1)
            return x

        x = conv("conv1", x)
        x = out["pool1"] = max_pool(x, 3, 2)
        for n in (2, 3, 4):
            x = fire(n, x)
        x = out["pool4"] = max_pool(x, 3, 2)
        for n in (5, 6, 7, 8):
            x = fire(n, x)
        x = out["pool8"] = max_pool(x, 3, 2)
        x = fire(9, x)
        x = conv("conv10", x)
        x = average_pool(x, x.shape[1], 1)
        x = out["pool10"] = x.reshape(x.shape[0], x.shape[-1])
        out["prob"] = jax.nn.softmax(x)
        return out


def _file_name(name: str) -> str:
    """Return the layer's name in the usual trained file, which differs for some layers."""
    if name == "conv10":
        return "conv_final"
    return (
        name.replace("squeeze1x1", "conv1x1_1")
        .replace("expand1x1", "conv1x1_2")
        .replace("expand3x3", "conv3x3_2")
    )


ARCHITECTURES = {
    "squeezenet": Architecture(
        build=SqueezeNet,
        input_shape=(227, 227, 3),
        layer="pool10",
        classes=1000,
        mean=(104.0, 117.0, 123.0),
        preprocessing=Preprocessing(resize="warp", resize_to=256, crop=227),
        file_name=_file_name,
    )
}
