"""BVLC GoogLeNet (Szegedy et al. 2015): nine inception modules; no auxiliary heads."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing
from advjax.networks.architecture import Architecture
from advjax.networks.layers import (
    Conv,
    Generator,
    InnerProduct,
    average_pool,
    lrn_across_channels,
    max_pool,
)

relu = jax.nn.relu

# Channels of each module: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection (table 1).
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNet(nnx.Module):
    """Every blob of the deploy network by its name."""

    def __init__(self, rng: Generator):
        conv = functools.partial(Conv, bias=0.2, rng=rng)
        layers: dict[str, nnx.Module] = {
            "conv1/7x7_s2": conv(3, 64, 7, stride=2, padding=3),
            "conv2/3x3_reduce": conv(64, 64, 1),
            "conv2/3x3": conv(64, 192, 3, padding=1),
        }
        channels = 192
        for module, (one, reduce3, three, reduce5, five, project) in INCEPTIONS.items():
            prefix = f"inception_{module}"
            layers |= {
                f"{prefix}/1x1": conv(channels, one, 1),
                f"{prefix}/3x3_reduce": conv(channels, reduce3, 1),
                f"{prefix}/3x3": conv(reduce3, three, 3, padding=1),
                f"{prefix}/5x5_reduce": conv(channels, reduce5, 1),
                f"{prefix}/5x5": conv(reduce5, five, 5, padding=2),
                f"{prefix}/pool_proj": conv(channels, project, 1),
            }
            channels = one + three + five + project
        layers["loss3/classifier"] = InnerProduct((channels,), 1000, rng=rng)
        self.layers = nnx.Dict(layers)

    def __call__(self, x: Float[Array, "b 224 224 3"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}

        def conv(name, x):
            x = out[name] = relu(layers[name](x))
            return x

        def inception(module, x):
            name = f"inception_{module}"
            one = conv(f"{name}/1x1", x)
            three = conv(f"{name}/3x3", conv(f"{name}/3x3_reduce", x))
            five = conv(f"{name}/5x5", conv(f"{name}/5x5_reduce", x))
            pool = out[f"{name}/pool"] = max_pool(x, 3, 1, 1)
            project = conv(f"{name}/pool_proj", pool)
            x = out[f"{name}/output"] = jnp.concatenate([one, three, five, project], -1)
            return x

        x = conv("conv1/7x7_s2", x)
        x = out["pool1/3x3_s2"] = max_pool(x, 3, 2)
        x = out["pool1/norm1"] = lrn_across_channels(x)
        x = conv("conv2/3x3", conv("conv2/3x3_reduce", x))
        x = out["conv2/norm2"] = lrn_across_channels(x)
        x = out["pool2/3x3_s2"] = max_pool(x, 3, 2)
        for module in ("3a", "3b"):
            x = inception(module, x)
        x = out["pool3/3x3_s2"] = max_pool(x, 3, 2)
        for module in ("4a", "4b", "4c", "4d", "4e"):
            x = inception(module, x)
        x = out["pool4/3x3_s2"] = max_pool(x, 3, 2)
        for module in ("5a", "5b"):
            x = inception(module, x)
        x = out["pool5/7x7_s1"] = average_pool(x, 7, 1)
        x = out["loss3/classifier"] = layers["loss3/classifier"](x)
        out["prob"] = jax.nn.softmax(x)
        return out


ARCHITECTURES = {
    "googlenet": Architecture(
        build=GoogLeNet,
        input_shape=(224, 224, 3),
        layer="pool5/7x7_s1",
        classes=1000,
        mean=(104.0, 117.0, 123.0),
        preprocessing=Preprocessing(resize="warp", resize_to=256, crop=224),
    )
}
