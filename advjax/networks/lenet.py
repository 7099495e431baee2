"""Caffe's small examples: LeNet on MNIST, and the quick and the full network on CIFAR-10."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing
from advjax.networks.architecture import Architecture
from advjax.networks.layers import (
    Conv,
    Generator,
    InnerProduct,
    average_pool,
    lrn_within_channel,
    max_pool,
)

relu = jax.nn.relu


class LeNet(nnx.Module):
    """LeCun et al. 1998 as Caffe's example has it: one ReLU, after ip1."""

    def __init__(self, rng: Generator):
        self.layers = nnx.Dict(
            {
                "conv1": Conv(1, 20, 5, rng=rng),
                "conv2": Conv(20, 50, 5, rng=rng),
                "ip1": InnerProduct((4, 4, 50), 500, rng=rng),
                "ip2": InnerProduct((500,), 10, rng=rng),
            }
        )

    def __call__(self, x: Float[Array, "b 28 28 1"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}
        x = out["conv1"] = layers["conv1"](x)
        x = out["pool1"] = max_pool(x, 2, 2)
        x = out["conv2"] = layers["conv2"](x)
        x = out["pool2"] = max_pool(x, 2, 2)
        x = out["ip1"] = relu(layers["ip1"](x))
        x = out["ip2"] = layers["ip2"](x)
        out["prob"] = jax.nn.softmax(x)
        return out


class Cifar10Full(nnx.Module):
    """Three convolutions, LRN WITHIN_CHANNEL, one inner product."""

    def __init__(self, rng: Generator):
        self.layers = nnx.Dict(
            {
                "conv1": Conv(3, 32, 5, padding=2, std=1e-4, rng=rng),
                "conv2": Conv(32, 32, 5, padding=2, std=0.01, rng=rng),
                "conv3": Conv(32, 64, 5, padding=2, std=0.01, rng=rng),
                "ip1": InnerProduct((4, 4, 64), 10, std=0.01, rng=rng),
            }
        )

    def __call__(self, x: Float[Array, "b 32 32 3"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}
        x = out["conv1"] = layers["conv1"](x)
        x = out["pool1"] = relu(max_pool(x, 3, 2))
        x = out["norm1"] = lrn_within_channel(x, size=3, alpha=5e-5)
        x = out["conv2"] = relu(layers["conv2"](x))
        x = out["pool2"] = average_pool(x, 3, 2)
        x = out["norm2"] = lrn_within_channel(x, size=3, alpha=5e-5)
        x = out["conv3"] = relu(layers["conv3"](x))
        x = out["pool3"] = average_pool(x, 3, 2)
        x = out["ip1"] = layers["ip1"](x)
        out["prob"] = jax.nn.softmax(x)
        return out


class Cifar10Quick(nnx.Module):
    """Three convolutions and two inner products with no ReLU between them."""

    def __init__(self, rng: Generator):
        self.layers = nnx.Dict(
            {
                "conv1": Conv(3, 32, 5, padding=2, std=1e-4, rng=rng),
                "conv2": Conv(32, 32, 5, padding=2, std=0.01, rng=rng),
                "conv3": Conv(32, 64, 5, padding=2, std=0.01, rng=rng),
                "ip1": InnerProduct((4, 4, 64), 64, std=0.1, rng=rng),
                "ip2": InnerProduct((64,), 10, std=0.1, rng=rng),
            }
        )

    def __call__(self, x: Float[Array, "b 32 32 3"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}
        x = out["conv1"] = layers["conv1"](x)
        x = out["pool1"] = relu(max_pool(x, 3, 2))
        x = out["conv2"] = relu(layers["conv2"](x))
        x = out["pool2"] = average_pool(x, 3, 2)
        x = out["conv3"] = relu(layers["conv3"](x))
        x = out["pool3"] = average_pool(x, 3, 2)
        x = out["ip1"] = layers["ip1"](x)
        x = out["ip2"] = layers["ip2"](x)
        out["prob"] = jax.nn.softmax(x)
        return out


# The mean of CIFAR-10's 50,000 training images per channel; Caffe's example subtracts the mean
# image, which is not published with the weights.
_CIFAR10 = {
    "input_shape": (32, 32, 3),
    "layer": "ip1",
    "classes": 10,
    "vocabulary": "cifar10",
    "order": "RGB",
    "mean": (125.306918, 122.950394, 113.865383),
    "preprocessing": Preprocessing(resize="warp", resize_to=32, crop=32),
}

ARCHITECTURES = {
    "lenet": Architecture(
        build=LeNet,
        input_shape=(28, 28, 1),
        layer="ip1",
        classes=10,
        vocabulary="digits",
        order="grey",
        mean=(0.0,),
        scale=1 / 256,
        preprocessing=Preprocessing(resize="warp", resize_to=28, crop=28),
    ),
    "cifar10_full": Architecture(build=Cifar10Full, **_CIFAR10),
    "cifar10_quick": Architecture(build=Cifar10Quick, **_CIFAR10),
}
