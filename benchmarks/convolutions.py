"""ResNet-50 as users have it, in Flax, Keras and PyTorch: alone, in a loop, and in PyTorch itself.

By CPU time, which other work on the machine changes little; on one core:

taskset -c 0 python benchmarks/convolutions.py [--batch 2] [--rounds 5] [--stack] [NAME ...]

It needs what benchmarks/from_torch.py needs, and Keras. Weights are random, 224 x 224 pixels, value
and input gradient of the squared distance of the pooled features. The modules of Flax and PyTorch
have the same shapes; Keras' has its strides in the 1x1 convolutions. With --stack: eight plain
convolutions, channels last and first.
"""

import argparse
import functools
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
from advjax.networks.convolutions import with_fast_convolutions

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


def stack(batch: int, rounds: int) -> list[dict[str, Any]]:
    """The input gradient through eight convolutions, of a plain function in two layouts."""
    rng = np.random.default_rng(0)
    layers = [(7, 3, 32, 2), (3, 32, 64, 2), *3 * [(3, 64, 64, 1)], (1, 64, 128, 1)]
    layers += [(3, 128, 128, 1), (3, 128, 256, 2)]  # window, inputs, outputs, stride
    kernels = [
        rng.normal(size=(k, k, i, o), scale=(k * k * i) ** -0.5).astype(np.float32)
        for k, i, o, _ in layers
    ]
    x = rng.normal(size=(batch, 112, 112, 3)).astype(np.float32)

    def network(layout: str, kernels: Any, x: jax.Array) -> jax.Array:
        first = layout == "NCHW"
        numbers = (layout, "OIHW" if first else "HWIO", layout)
        x = x.transpose(0, 3, 1, 2) if first else x
        for kernel, (*_, stride) in zip(kernels, layers, strict=True):
            kernel = kernel.transpose(3, 2, 0, 1) if first else kernel
            y = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "SAME", dimension_numbers=numbers
            )
            x = jax.nn.relu(y)
        return x.mean((2, 3) if first else (1, 2))

    def run(function: Callable[..., jax.Array], steps: int) -> Callable[[], Any]:
        slope = jax.grad(lambda x, kernels: (function(kernels, x) ** 2).sum())

        @jax.jit
        def descend(x, kernels):
            if steps == 1:
                return slope(x, kernels)
            return jax.lax.fori_loop(0, steps, lambda _, x: x - 1e-9 * slope(x, kernels), x)

        return lambda: jax.block_until_ready(descend(x, kernels))

    rows = []
    for layout in ("NHWC", "NCHW"):
        written = functools.partial(network, layout)
        runs = {}
        for name, function in (
            ("as written", written),
            ("rewritten", with_fast_convolutions(written)),
        ):
            runs[f"{name}, alone"] = run(function, 1)
            runs[f"{name}, in a loop"] = run(function, from_torch.STEPS)
        seconds = from_torch.cpu_seconds(runs, rounds)
        medians = {key: 1e3 * float(np.median(v)) / batch for key, v in seconds.items()}
        steps = {key: from_torch.STEPS if "loop" in key else 1 for key in medians}
        rows.append({"layout": layout} | {key: v / steps[key] for key, v in medians.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SOURCES))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stack", action="store_true")
    options = parser.parse_args()
    if options.stack:
        rows = stack(options.batch, options.rounds)
        common.save("convolutions-stack-cpu", rows, clock="CPU time")
        return
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
