"""ResNet-50 as users have it, in Flax, Keras and PyTorch: alone, in a loop, and in PyTorch itself.

By CPU time, which other work on the machine changes little; on one core:

taskset -c 0 python benchmarks/convolutions.py [--batch 2] [--rounds 5] [NAME ...]

It needs what benchmarks/from_torch.py needs, and Keras. Weights are random, 224 x 224 pixels, value
and input gradient of the squared distance of the pooled features. The modules of Flax and PyTorch
have the same shapes; Keras' has its strides in the 1x1 convolutions.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import common
import from_torch
import jax
import numpy as np
import torch
from flax import nnx

import advjax

SIZE = from_torch.SIZE


class Bottleneck(nnx.Module):
    """1x1, 3x3 with the stride, 1x1, each with its normalisation, and a shortcut."""

    def __init__(self, inputs: int, wide: int, stride: int, rngs: nnx.Rngs):
        def conv(i: int, o: int, window: int, stride: int = 1) -> nnx.Sequential:
            side = (window, window)
            return nnx.Sequential(
                nnx.Conv(i, o, side, stride, padding=window // 2, use_bias=False, rngs=rngs),
                nnx.BatchNorm(o, use_running_average=True, rngs=rngs),
            )

        self.convs = nnx.List(
            [conv(inputs, wide, 1), conv(wide, wide, 3, stride), conv(wide, 4 * wide, 1)]
        )
        self.shortcut = conv(inputs, 4 * wide, 1, stride) if inputs != 4 * wide else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block."""
        first, second, third = self.convs
        y = third(nnx.relu(second(nnx.relu(first(x)))))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet50(nnx.Module):
    """He et al. 2016, the stride in the 3x3 convolution, as torchvision and timm have it."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 64, (7, 7), 2, padding=3, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(64, use_running_average=True, rngs=rngs)
        blocks, channels = [], 64
        for wide, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for n in range(repeats):
                blocks.append(Bottleneck(channels, wide, stride if n == 0 else 1, rngs))
                channels = 4 * wide
        self.blocks = nnx.List(blocks)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the pooled features."""
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return x.mean((1, 2))


def of_flax() -> advjax.Network:
    return advjax.Network.from_nnx(ResNet50(nnx.Rngs(0)), SIZE, transform=from_torch.scaled)


def of_keras() -> advjax.Network:
    import keras

    model = keras.applications.ResNet50(
        weights=None, include_top=False, input_shape=SIZE, pooling="avg"
    )
    return advjax.Network.from_keras(model, transform=from_torch.scaled)


def of_torch() -> advjax.Network:
    return advjax.Network.from_torch(
        from_torch.build("timm", "resnet50"),
        SIZE,
        transform=from_torch.scaled,
        layers=("output",),
    )


SOURCES: dict[str, Callable[[], advjax.Network]] = {
    "Flax NNX": of_flax,
    "Keras": of_keras,
    "PyTorch": of_torch,
}


def measure(name: str, batch: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch, *SIZE)).astype(np.float32)
    target = rng.normal(size=(batch, 2048)).astype(np.float32)
    net = SOURCES[name]()
    written = from_torch.evaluations(net, images, target, as_written=True)
    runs = from_torch.evaluations(net, images, target)
    runs |= {f"{key}, as written": run for key, run in written.items()}
    runs["torch"] = from_torch.peer(from_torch.build("timm", "resnet50"), images, target)
    seconds = from_torch.cpu_seconds(runs, rounds)
    for key in ("loop", "loop, as written"):
        seconds[key] = [s / from_torch.STEPS for s in seconds[key]]
    medians = {key: 1e3 * float(np.median(v)) / batch for key, v in seconds.items()}
    return {
        "source": name,
        "batch": batch,
        "torch ms/image": medians["torch"],
        "as written, alone": medians["advjax, as written"],
        "as written, in a loop": medians["loop, as written"],
        "advjax": medians["advjax"],
        "in a loop": medians["loop"],
        "ratio as written, in a loop": common.ratio(seconds, "loop, as written", "torch"),
        "ratio in a loop": common.ratio(seconds, "loop", "torch"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SOURCES))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    from_torch.allow_torchvision()
    rows = [measure(name, options.batch, options.rounds) for name in options.names]
    if options.names == list(SOURCES):
        common.save("convolutions-cpu", rows, clock="CPU time")
    else:
        common.table(rows)


if __name__ == "__main__":
    main()
