"""The published Caffe networks, written down by hand: an account that owes nothing to advjax.

Each network is a list of layers as in its deploy prototxt (the files of BVLC Caffe's `models` and
`examples`, of the Places and VGG pages and of SqueezeNet's repository); dropout is left out, since
it does nothing there. From it come the prototxt text for OpenCV, the sizes of all blobs by Caffe's
rules, and weights to fill the network with.
"""

import math
from typing import Any, NamedTuple

import numpy as np


class Layer(NamedTuple):
    name: str
    type: str
    bottoms: tuple[str, ...]
    top: str
    values: dict[str, Any] = {}  # noqa: RUF012


class Deploy(NamedTuple):
    shape: tuple[int, int, int]  # channels, height, width
    layers: list[Layer]


def conv(name, bottom, outputs, window, **rest):
    values = {"num_output": outputs, "kernel_size": window} | rest
    return Layer(name, "Convolution", (bottom,), name, values)


def relu(top, name=None):
    return Layer(name or f"{top}/relu", "ReLU", (top,), top)


def pool(name, bottom, kind, window=None, stride=1, **rest):
    size = {"global_pooling": "true"} if window is None else {"kernel_size": window}
    values = {"pool": kind} | size | {"stride": stride} | rest
    return Layer(name, "Pooling", (bottom,), name, values)


def lrn(name, bottom, size=5, alpha=1e-4, **rest):
    values = {"local_size": size, "alpha": alpha, "beta": 0.75} | rest
    return Layer(name, "LRN", (bottom,), name, values)


def inner(name, bottom, outputs):
    return Layer(name, "InnerProduct", (bottom,), name, {"num_output": outputs})


def concat(name, *bottoms):
    return Layer(name, "Concat", bottoms, name)


def softmax(bottom):
    return Layer("prob", "Softmax", (bottom,), "prob")


def _caffenet_tail(last, classes):
    return [
        conv("conv3", "norm2", 384, 3, pad=1),
        relu("conv3", "relu3"),
        conv("conv4", "conv3", 384, 3, pad=1, group=2),
        relu("conv4", "relu4"),
        conv("conv5", "conv4", 256, 3, pad=1, group=2),
        relu("conv5", "relu5"),
        pool("pool5", "conv5", "MAX", 3, 2),
        inner("fc6", "pool5", 4096),
        relu("fc6", "relu6"),
        inner("fc7", "fc6", 4096),
        relu("fc7", "relu7"),
        inner(last, "fc7", classes),
        softmax(last),
    ]


def caffenet(classes=1000, last="fc8"):
    return Deploy(
        (3, 227, 227),
        [
            conv("conv1", "data", 96, 11, stride=4),
            relu("conv1", "relu1"),
            pool("pool1", "conv1", "MAX", 3, 2),
            lrn("norm1", "pool1"),
            conv("conv2", "norm1", 256, 5, pad=2, group=2),
            relu("conv2", "relu2"),
            pool("pool2", "conv2", "MAX", 3, 2),
            lrn("norm2", "pool2"),
            *_caffenet_tail(last, classes),
        ],
    )


def alexnet():
    head = [
        conv("conv1", "data", 96, 11, stride=4),
        relu("conv1", "relu1"),
        lrn("norm1", "conv1"),
        pool("pool1", "norm1", "MAX", 3, 2),
        conv("conv2", "pool1", 256, 5, pad=2, group=2),
        relu("conv2", "relu2"),
        lrn("norm2", "conv2"),
        pool("pool2", "norm2", "MAX", 3, 2),
    ]
    third, *tail = _caffenet_tail("fc8", 1000)
    return Deploy((3, 227, 227), [*head, third._replace(bottoms=("pool2",)), *tail])


def vgg_cnn_s():
    return Deploy(
        (3, 224, 224),
        [
            conv("conv1", "data", 96, 7, stride=2),
            relu("conv1", "relu1"),
            lrn("norm1", "conv1", alpha=5e-4, k=2),
            pool("pool1", "norm1", "MAX", 3, 3),
            conv("conv2", "pool1", 256, 5),
            relu("conv2", "relu2"),
            pool("pool2", "conv2", "MAX", 2, 2),
            conv("conv3", "pool2", 512, 3, pad=1),
            relu("conv3", "relu3"),
            conv("conv4", "conv3", 512, 3, pad=1),
            relu("conv4", "relu4"),
            conv("conv5", "conv4", 512, 3, pad=1),
            relu("conv5", "relu5"),
            pool("pool5", "conv5", "MAX", 3, 3),
            inner("fc6", "pool5", 4096),
            relu("fc6", "relu6"),
            inner("fc7", "fc6", 4096),
            relu("fc7", "relu7"),
            inner("fc8", "fc7", 1000),
            softmax("fc8"),
        ],
    )


def googlenet():
    def inception(name, bottom, one, reduce3, three, reduce5, five, project):
        n = f"inception_{name}"
        return [
            conv(f"{n}/1x1", bottom, one, 1),
            relu(f"{n}/1x1", f"{n}/relu_1x1"),
            conv(f"{n}/3x3_reduce", bottom, reduce3, 1),
            relu(f"{n}/3x3_reduce", f"{n}/relu_3x3_reduce"),
            conv(f"{n}/3x3", f"{n}/3x3_reduce", three, 3, pad=1),
            relu(f"{n}/3x3", f"{n}/relu_3x3"),
            conv(f"{n}/5x5_reduce", bottom, reduce5, 1),
            relu(f"{n}/5x5_reduce", f"{n}/relu_5x5_reduce"),
            conv(f"{n}/5x5", f"{n}/5x5_reduce", five, 5, pad=2),
            relu(f"{n}/5x5", f"{n}/relu_5x5"),
            pool(f"{n}/pool", bottom, "MAX", 3, 1, pad=1),
            conv(f"{n}/pool_proj", f"{n}/pool", project, 1),
            relu(f"{n}/pool_proj", f"{n}/relu_pool_proj"),
            concat(f"{n}/output", f"{n}/1x1", f"{n}/3x3", f"{n}/5x5", f"{n}/pool_proj"),
        ]

    return Deploy(
        (3, 224, 224),
        [
            conv("conv1/7x7_s2", "data", 64, 7, stride=2, pad=3),
            relu("conv1/7x7_s2", "conv1/relu_7x7"),
            pool("pool1/3x3_s2", "conv1/7x7_s2", "MAX", 3, 2),
            lrn("pool1/norm1", "pool1/3x3_s2"),
            conv("conv2/3x3_reduce", "pool1/norm1", 64, 1),
            relu("conv2/3x3_reduce", "conv2/relu_3x3_reduce"),
            conv("conv2/3x3", "conv2/3x3_reduce", 192, 3, pad=1),
            relu("conv2/3x3", "conv2/relu_3x3"),
            lrn("conv2/norm2", "conv2/3x3"),
            pool("pool2/3x3_s2", "conv2/norm2", "MAX", 3, 2),
            *inception("3a", "pool2/3x3_s2", 64, 96, 128, 16, 32, 32),
            *inception("3b", "inception_3a/output", 128, 128, 192, 32, 96, 64),
            pool("pool3/3x3_s2", "inception_3b/output", "MAX", 3, 2),
            *inception("4a", "pool3/3x3_s2", 192, 96, 208, 16, 48, 64),
            *inception("4b", "inception_4a/output", 160, 112, 224, 24, 64, 64),
            *inception("4c", "inception_4b/output", 128, 128, 256, 24, 64, 64),
            *inception("4d", "inception_4c/output", 112, 144, 288, 32, 64, 64),
            *inception("4e", "inception_4d/output", 256, 160, 320, 32, 128, 128),
            pool("pool4/3x3_s2", "inception_4e/output", "MAX", 3, 2),
            *inception("5a", "pool4/3x3_s2", 256, 160, 320, 32, 128, 128),
            *inception("5b", "inception_5a/output", 384, 192, 384, 48, 128, 128),
            pool("pool5/7x7_s1", "inception_5b/output", "AVE", 7, 1),
            inner("loss3/classifier", "pool5/7x7_s1", 1000),
            softmax("loss3/classifier"),
        ],
    )


def squeezenet():
    def fire(n, bottom, squeeze, expand):
        n = f"fire{n}"
        return [
            conv(f"{n}/squeeze1x1", bottom, squeeze, 1),
            relu(f"{n}/squeeze1x1", f"{n}/relu_squeeze1x1"),
            conv(f"{n}/expand1x1", f"{n}/squeeze1x1", expand, 1),
            relu(f"{n}/expand1x1", f"{n}/relu_expand1x1"),
            conv(f"{n}/expand3x3", f"{n}/squeeze1x1", expand, 3, pad=1),
            relu(f"{n}/expand3x3", f"{n}/relu_expand3x3"),
            concat(f"{n}/concat", f"{n}/expand1x1", f"{n}/expand3x3"),
        ]

    return Deploy(
        (3, 227, 227),
        [
            conv("conv1", "data", 96, 7, stride=2),
            relu("conv1", "relu_conv1"),
            pool("pool1", "conv1", "MAX", 3, 2),
            *fire(2, "pool1", 16, 64),
            *fire(3, "fire2/concat", 16, 64),
            *fire(4, "fire3/concat", 32, 128),
            pool("pool4", "fire4/concat", "MAX", 3, 2),
            *fire(5, "pool4", 32, 128),
            *fire(6, "fire5/concat", 48, 192),
            *fire(7, "fire6/concat", 48, 192),
            *fire(8, "fire7/concat", 64, 256),
            pool("pool8", "fire8/concat", "MAX", 3, 2),
            *fire(9, "pool8", 64, 256),
            conv("conv10", "fire9/concat", 1000, 1, pad=1),
            relu("conv10", "relu_conv10"),
            pool("pool10", "conv10", "AVE"),
            softmax("pool10"),
        ],
    )


def lenet():
    return Deploy(
        (1, 28, 28),
        [
            conv("conv1", "data", 20, 5),
            pool("pool1", "conv1", "MAX", 2, 2),
            conv("conv2", "pool1", 50, 5),
            pool("pool2", "conv2", "MAX", 2, 2),
            inner("ip1", "pool2", 500),
            relu("ip1", "relu1"),
            inner("ip2", "ip1", 10),
            softmax("ip2"),
        ],
    )


def cifar10_full():
    region = {"size": 3, "alpha": 5e-5, "norm_region": "WITHIN_CHANNEL"}
    return Deploy(
        (3, 32, 32),
        [
            conv("conv1", "data", 32, 5, pad=2),
            pool("pool1", "conv1", "MAX", 3, 2),
            relu("pool1", "relu1"),
            lrn("norm1", "pool1", **region),
            conv("conv2", "norm1", 32, 5, pad=2),
            relu("conv2", "relu2"),
            pool("pool2", "conv2", "AVE", 3, 2),
            lrn("norm2", "pool2", **region),
            conv("conv3", "norm2", 64, 5, pad=2),
            relu("conv3", "relu3"),
            pool("pool3", "conv3", "AVE", 3, 2),
            inner("ip1", "pool3", 10),
            softmax("ip1"),
        ],
    )


def cifar10_quick():
    return Deploy(
        (3, 32, 32),
        [
            conv("conv1", "data", 32, 5, pad=2),
            pool("pool1", "conv1", "MAX", 3, 2),
            relu("pool1", "relu1"),
            conv("conv2", "pool1", 32, 5, pad=2),
            relu("conv2", "relu2"),
            pool("pool2", "conv2", "AVE", 3, 2),
            conv("conv3", "pool2", 64, 5, pad=2),
            relu("conv3", "relu3"),
            pool("pool3", "conv3", "AVE", 3, 2),
            inner("ip1", "pool3", 64),
            inner("ip2", "ip1", 10),
            softmax("ip2"),
        ],
    )


NETWORKS = {
    "caffenet": caffenet(),
    "alexnet": alexnet(),
    "places205_alexnet": caffenet(205),
    "places_hybrid": caffenet(1183),
    "flickr_style": caffenet(20, "fc8_flickr"),
    "vgg_cnn_s": vgg_cnn_s(),
    "googlenet": googlenet(),
    "squeezenet": squeezenet(),
    "lenet": lenet(),
    "cifar10_full": cifar10_full(),
    "cifar10_quick": cifar10_quick(),
}

_SECTIONS = {
    "Convolution": "convolution_param",
    "Pooling": "pooling_param",
    "LRN": "lrn_param",
    "InnerProduct": "inner_product_param",
    "Power": "power_param",
}


def prototxt(deploy: Deploy) -> str:
    """The text that Caffe, and OpenCV's reader of it, take."""
    dims = " ".join(f"input_dim: {n}" for n in (1, *deploy.shape))
    lines = [f'input: "data" {dims}']
    for layer in deploy.layers:
        bottoms = " ".join(f'bottom: "{bottom}"' for bottom in layer.bottoms)
        values = " ".join(f"{key}: {value}" for key, value in layer.values.items())
        section = f"{_SECTIONS[layer.type]} {{ {values} }}" if values else ""
        lines.append(
            f'layer {{ name: "{layer.name}" type: "{layer.type}" {bottoms} '
            f'top: "{layer.top}" {section} }}'
        )
    return "\n".join(lines)


def for_opencv(deploy: Deploy) -> Deploy:
    """The same network in layers that OpenCV computes as Caffe does.

    Its LRN takes k for 1; but (k + a s)^-b is k^-b (1 + a/k s)^-b, and k^-b fits a Power layer.
    """
    layers = []
    for layer in deploy.layers:
        k = layer.values.get("k", 1)
        if k != 1:
            values = {key: value for key, value in layer.values.items() if key != "k"}
            values["alpha"] /= k
            layer = layer._replace(values=values)
        layers.append(layer)
        if k != 1:
            scale = {"scale": repr(k ** -values["beta"])}
            layers.append(Layer(f"{layer.name}/k", "Power", (layer.top,), layer.top, scale))
    return Deploy(deploy.shape, layers)


def last_writers(deploy: Deploy) -> dict[str, str]:
    """For each blob the layer that writes it last: its in-place ReLU, where it has one."""
    return {layer.top: layer.name for layer in deploy.layers}


def blob_shapes(deploy: Deploy) -> dict[str, tuple[int, ...]]:
    """(channels, height, width), or (units,), of every blob, in the order of computation."""
    shapes: dict[str, tuple[int, ...]] = {"data": deploy.shape}
    for _, type, bottoms, top, values in deploy.layers:
        shape = shapes[bottoms[0]]
        stride, pad = values.get("stride", 1), values.get("pad", 0)
        if type == "Convolution":
            sides = ((n + 2 * pad - values["kernel_size"]) // stride + 1 for n in shape[1:])
            shape = (values["num_output"], *sides)
        elif type == "Pooling":
            # None of these networks has a last window that starts in the padding.
            windows = [values.get("kernel_size", n) for n in shape[1:]]
            sides = (
                math.ceil((n + 2 * pad - window) / stride) + 1
                for n, window in zip(shape[1:], windows, strict=True)
            )
            shape = (shape[0], *sides)
        elif type == "InnerProduct":
            shape = (values["num_output"],)
        elif type == "Concat":
            shape = (sum(shapes[bottom][0] for bottom in bottoms), *shape[1:])
        shapes[top] = shape
    return shapes


def draw_weights(
    deploy: Deploy, level: float, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(kernel, bias) by layer in Caffe's axes, that neither quench nor inflate the activations.

    Kernels have He's standard deviation, biases a tenth of the input's. The last of them are scaled
    down to logits of order 1, so that the probabilities are not all 0 or 1.

    Args:
        deploy: The network.
        level: The input's root mean square.
        seed: Of the generator.
    """
    rng = np.random.default_rng(seed)
    shapes = blob_shapes(deploy)
    weighted = [layer for layer in deploy.layers if layer.type in ("Convolution", "InnerProduct")]
    weights = {}
    for name, type, bottoms, _, values in weighted:
        shape, outputs = shapes[bottoms[0]], values["num_output"]
        if type == "Convolution":
            inputs = shape[0] // values.get("group", 1)
            kernel_shape = (outputs, inputs, values["kernel_size"], values["kernel_size"])
        else:
            kernel_shape = (outputs, math.prod(shape))
        scale = 1 / level if name == weighted[-1].name else 1.0
        kernel = rng.standard_normal(kernel_shape, np.float32)
        kernel *= scale * math.sqrt(2 / math.prod(kernel_shape[1:]))
        bias = rng.standard_normal(outputs, np.float32) * np.float32(0.1 * level * scale)
        weights[name] = (kernel, bias)
    return weights
