"""CaffeNet and the networks of its shape (Krizhevsky et al. 2012; Jia et al. 2014).

They differ in the order of normalisation and pooling, in the last layer, and in the biases that
they start from:

    network            order        last layer          bias at the start
    caffenet           pool, norm   fc8, 1000           1
    alexnet            norm, pool   fc8, 1000           0.1
    places205_alexnet  pool, norm   fc8, 205            1
    places_hybrid      pool, norm   fc8, 1183           1
    flickr_style       pool, norm   fc8_flickr, 20      1
"""

import functools

import jax
from flax import nnx
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing
from advjax.networks.architecture import Architecture
from advjax.networks.layers import Conv, Generator, InnerProduct, lrn_across_channels, max_pool

relu = jax.nn.relu


class CaffeNet(nnx.Module):
    """Five convolutions, three inner products; every blob of the deploy network by its name.

    Args:
        rng: Draws the weights as Caffe's fillers for this network do.
        classes: Outputs of the last layer.
        last: Its name.
        pool_first: CaffeNet pools, then normalises; AlexNet the other way round.
        bias: The initial biases of conv2, conv4, conv5, fc6 and fc7.
    """

    def __init__(
        self,
        rng: Generator,
        *,
        classes: int = 1000,
        last: str = "fc8",
        pool_first: bool = True,
        bias: float = 1.0,
    ):
        conv = functools.partial(Conv, std=0.01, rng=rng)
        inner = functools.partial(InnerProduct, rng=rng)
        self.layers = nnx.Dict(
            {
                "conv1": conv(3, 96, 11, stride=4),
                "conv2": conv(96, 256, 5, padding=2, groups=2, bias=bias),
                "conv3": conv(256, 384, 3, padding=1),
                "conv4": conv(384, 384, 3, padding=1, groups=2, bias=bias),
                "conv5": conv(384, 256, 3, padding=1, groups=2, bias=bias),
                "fc6": inner((6, 6, 256), 4096, std=0.005, bias=bias),
                "fc7": inner((4096,), 4096, std=0.005, bias=bias),
                last: inner((4096,), classes, std=0.01),
            }
        )
        self.last = last
        self.pool_first = pool_first

    def __call__(self, x: Float[Array, "b 227 227 3"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}

        def reduce(x, n):
            if self.pool_first:
                x = out[f"pool{n}"] = max_pool(x, 3, 2)
                x = out[f"norm{n}"] = lrn_across_channels(x)
            else:
                x = out[f"norm{n}"] = lrn_across_channels(x)
                x = out[f"pool{n}"] = max_pool(x, 3, 2)
            return x

        x = out["conv1"] = relu(layers["conv1"](x))
        x = reduce(x, 1)
        x = out["conv2"] = relu(layers["conv2"](x))
        x = reduce(x, 2)
        x = out["conv3"] = relu(layers["conv3"](x))
        x = out["conv4"] = relu(layers["conv4"](x))
        x = out["conv5"] = relu(layers["conv5"](x))
        x = out["pool5"] = max_pool(x, 3, 2)
        x = out["fc6"] = relu(layers["fc6"](x))
        x = out["fc7"] = relu(layers["fc7"](x))
        x = out[self.last] = layers[self.last](x)
        out["prob"] = jax.nn.softmax(x)
        return out


def _row(vocabulary: str | None = None, **differences) -> Architecture:
    return Architecture(
        build=functools.partial(CaffeNet, **differences),
        input_shape=(227, 227, 3),
        layer="fc7",
        classes=differences.get("classes", 1000),
        vocabulary=vocabulary,
        preprocessing=Preprocessing(resize="warp", resize_to=256, crop=227),
    )


ARCHITECTURES = {
    "caffenet": _row("imagenet"),
    "alexnet": _row("imagenet", pool_first=False, bias=0.1),
    "places205_alexnet": _row(classes=205),
    "places_hybrid": _row(classes=1183),
    "flickr_style": _row(classes=20, last="fc8_flickr"),
}
