"""The same networks in PyTorch, with the same weights: what a PyTorch user would write."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

import advjax
from advjax.networks import conversion, zoo
from advjax.networks.efficientnet_lite import STAGES, same_padding


def _blobs(net: advjax.Network) -> dict[str, list[torch.Tensor]]:
    module = nnx.eval_shape(lambda: zoo.architecture(net.name).build(None))
    graph, _ = nnx.split(module)
    model = conversion.to_caffe(nnx.merge(graph, net.params["module"]), net.name)
    return {
        layer.name: [torch.tensor(np.ascontiguousarray(b)) for b in layer.blobs]
        for layer in model.layers
    }


def _pixels(net: advjax.Network, images: torch.Tensor) -> torch.Tensor:
    """NHWC RGB pixels to the centred NCHW input of the network."""
    row = zoo.architecture(net.name)
    x = images.permute(0, 3, 1, 2)
    if row.order == "BGR":
        x = x.flip(1)
    return (x - torch.tensor(row.mean).reshape(1, -1, 1, 1)) * row.scale


def caffenet(net: advjax.Network) -> Any:
    """To fc7."""
    b = _blobs(net)

    def forward(images: torch.Tensor) -> torch.Tensor:
        x = _pixels(net, images)
        for n, (stride, padding, groups) in enumerate(
            [(4, 0, 1), (1, 2, 2), (1, 1, 1), (1, 1, 2), (1, 1, 2)], 1
        ):
            x = F.relu(F.conv2d(x, *b[f"conv{n}"], stride, padding, groups=groups))
            if n in (1, 2, 5):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            if n in (1, 2):
                x = F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)
        x = x.flatten(1)
        for n in (6, 7):
            x = F.relu(F.linear(x, *b[f"fc{n}"]))
        return x

    return forward


def squeezenet(net: advjax.Network) -> Any:
    """To pool10."""
    b = _blobs(net)

    def forward(images: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.conv2d(_pixels(net, images), *b["conv1"], 2))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for n in range(2, 10):
            x = F.relu(F.conv2d(x, *b[f"fire{n}/squeeze1x1"]))
            one = F.relu(F.conv2d(x, *b[f"fire{n}/expand1x1"]))
            three = F.relu(F.conv2d(x, *b[f"fire{n}/expand3x3"], padding=1))
            x = torch.cat([one, three], 1)
            if n in (4, 8):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return F.relu(F.conv2d(x, *b["conv10"], padding=1)).mean((2, 3))

    return forward


def efficientnet_lite0(net: advjax.Network) -> Any:
    """To pool; batch normalisation folded, as in ours."""
    arrays = conversion.parameters(net.params["module"])
    kernels = {
        name: torch.tensor(np.asarray(a).transpose(3, 2, 0, 1).copy())
        for name, a in arrays.items()
        if a.ndim == 4
    }

    def conv(x, name, stride=1, groups=1, size=None):
        kernel = kernels[f"{name}.kernel"]
        if size is not None:
            (top, bottom), (left, right) = same_padding(size, kernel.shape[-1], stride)
            x = F.pad(x, (left, right, top, bottom))
        bias = torch.tensor(np.asarray(arrays[f"{name}.bias"]))
        return F.conv2d(x, kernel, bias, stride, groups=groups)

    def forward(images: torch.Tensor) -> torch.Tensor:
        x = F.relu6(conv(_pixels(net, images), "stem", 2, size=224))
        size, block = 112, 0
        for stage in STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                entry = x
                if stage.expansion > 1:
                    x = F.relu6(conv(x, f"block{block}/expand"))
                name = f"block{block}/depthwise"
                x = F.relu6(conv(x, name, stride, x.shape[1], size))
                x = conv(x, f"block{block}/project")
                if repeat:
                    x = x + entry
                size, block = -(-size // stride), block + 1
        return F.relu6(conv(x, "head")).mean((2, 3))

    return forward
