"""VGG CNN-S (Chatfield et al. 2014, table 1): finer first stride, wider convolutions, no groups."""

import functools

import jax
from flax import nnx
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing
from advjax.networks.architecture import Architecture
from advjax.networks.layers import Conv, Generator, InnerProduct, lrn_across_channels, max_pool

relu = jax.nn.relu


class VGGCNNS(nnx.Module):
    """Every blob of the deploy network by its name; pooling windows that do not overlap."""

    def __init__(self, rng: Generator):
        conv = functools.partial(Conv, std=0.01, rng=rng)
        inner = functools.partial(InnerProduct, std=0.01, rng=rng)
        self.layers = nnx.Dict(
            {
                "conv1": conv(3, 96, 7, stride=2),
                "conv2": conv(96, 256, 5),
                "conv3": conv(256, 512, 3, padding=1),
                "conv4": conv(512, 512, 3, padding=1),
                "conv5": conv(512, 512, 3, padding=1),
                "fc6": inner((6, 6, 512), 4096),
                "fc7": inner((4096,), 4096),
                "fc8": inner((4096,), 1000),
            }
        )

    def __call__(self, x: Float[Array, "b 224 224 3"]) -> dict[str, Array]:
        """Return every activation of a batch of transformed images."""
        layers, out = self.layers, {"data": x}
        x = out["conv1"] = relu(layers["conv1"](x))
        x = out["norm1"] = lrn_across_channels(x, alpha=5e-4, k=2)
        x = out["pool1"] = max_pool(x, 3, 3)
        x = out["conv2"] = relu(layers["conv2"](x))
        x = out["pool2"] = max_pool(x, 2, 2)
        x = out["conv3"] = relu(layers["conv3"](x))
        x = out["conv4"] = relu(layers["conv4"](x))
        x = out["conv5"] = relu(layers["conv5"](x))
        x = out["pool5"] = max_pool(x, 3, 3)
        x = out["fc6"] = relu(layers["fc6"](x))
        x = out["fc7"] = relu(layers["fc7"](x))
        x = out["fc8"] = layers["fc8"](x)
        out["prob"] = jax.nn.softmax(x)
        return out


ARCHITECTURES = {
    "vgg_cnn_s": Architecture(
        build=VGGCNNS,
        input_shape=(224, 224, 3),
        layer="fc7",
        classes=1000,
        preprocessing=Preprocessing(resize="warp", resize_to=256, crop=224),
    )
}
