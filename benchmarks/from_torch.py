"""Value and input gradient of PyTorch modules: `Network.from_torch` against PyTorch itself.

By CPU time, which other work on the machine changes little; on one core. The share that PyTorch
spends in its own matrix products is a floor: below it nothing comes that does them no faster.

taskset -c 0 python benchmarks/from_torch.py [--batch 2] [--rounds 5] [NAME ...]

Weights are random. "in a loop" is an evaluation in the body of a compiled loop, where the engine
has it, and where XLA's CPU compiler makes other choices.
"""

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import advjax
from advjax.networks.convolutions import with_fast_convolutions
from advjax.networks.network import activations

SIZE = (224, 224, 3)
STEPS = 3
NETWORKS = {
    "ResNet-50": ("timm", "resnet50"),
    "ViT-S/16": ("timm", "vit_small_patch16_224"),
    "CLIP ViT-B/32": ("open_clip", "ViT-B-32"),
    "ConvNeXt-T": ("timm", "convnext_tiny"),
    "MobileNetV3-L": ("timm", "mobilenetv3_large_100"),
}
PRODUCTS = {
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
    torch.ops.aten.convolution,
    torch.ops.aten.convolution_backward,
}


def build(package: str, name: str) -> torch.nn.Module:
    library = importlib.import_module(package)
    if package == "timm":
        return library.create_model(name, pretrained=False, num_classes=0).eval()
    return library.create_model(name, pretrained=None).visual.eval()


def allow_torchvision() -> None:
    """What torchvision's import asks of PyTorch, also where their builds do not fit."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        library.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        globals()["_library"] = library  # it is undone when it is collected


def cpu_seconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each, in turn, after one run that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for n in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if n:
                seconds[name].append(time.process_time() - start)
    return seconds


def evaluations(
    net: advjax.Network, images: np.ndarray, target: np.ndarray, *, as_written: bool = False
) -> dict[str, Callable[[], Any]]:
    """Value and input gradient of the squared distance of "output": once, and STEPS in a loop.

    As in the engine, or with the convolutions as they are written.
    """
    function = net.function if as_written else with_fast_convolutions(net.function)

    def loss(x, params):
        found = activations(function, True, params, x, ("output",))["output"]
        return jnp.sum((found - target) ** 2)

    evaluate = jax.value_and_grad(loss)
    alone = jax.jit(evaluate)

    @jax.jit
    def loop(x, params):
        def step(_, carry):
            value, gradient = evaluate(carry[0], params)
            return carry[0] - 1e-9 * gradient, value

        return jax.lax.fori_loop(0, STEPS, step, (x, 0.0))

    return {
        "advjax": lambda: jax.block_until_ready(alone(images, net.params)),
        "loop": lambda: jax.block_until_ready(loop(images, net.params)),
    }


def peer(module: torch.nn.Module, images: np.ndarray, target: np.ndarray) -> Callable[[], Any]:
    """The same in PyTorch."""
    pixels = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    goal = torch.tensor(target)

    def evaluate():
        x = pixels.detach().requires_grad_()
        value = ((module(scaled(x)) - goal) ** 2).sum()
        return value, torch.autograd.grad(value, x)[0]

    return evaluate


class Products(TorchDispatchMode):
    """Count the CPU seconds of matrix products; with their copies, where PyTorch makes some."""

    seconds = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        start = time.process_time()
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in PRODUCTS:
            self.seconds += time.process_time() - start
        return result


def product_seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of the matrix products of a run."""
    with Products() as counted:
        run()
    return counted.seconds


def measure(name: str, batch: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    module = build(*NETWORKS[name])
    net = advjax.Network.from_torch(module, SIZE, transform=scaled, layers=("output",))
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch, *SIZE)).astype(np.float32)
    target = rng.normal(size=(batch, *net.layers["output"])).astype(np.float32)
    runs = evaluations(net, images, target) | {"torch": peer(module, images, target)}
    gradient = np.asarray(runs["advjax"]()[1])
    check = runs["torch"]()[1].permute(0, 2, 3, 1).numpy()
    error = np.linalg.norm(gradient - check) / np.linalg.norm(check)
    assert error < 1e-4, error
    seconds = cpu_seconds(runs, rounds)
    seconds["loop"] = [s / STEPS for s in seconds["loop"]]
    products = np.median([product_seconds(runs["torch"]) for _ in range(rounds)])
    medians = {key: 1e3 * float(np.median(v)) / batch for key, v in seconds.items()}
    return {
        "network": name,
        "batch": batch,
        "gradient error": float(error),
        "torch ms/image": medians["torch"],
        "advjax ms/image": medians["advjax"],
        "in a loop": medians["loop"],
        "ratio": common.ratio(seconds, "advjax", "torch"),
        "ratio in a loop": common.ratio(seconds, "loop", "torch"),
        "products": float(products / np.median(seconds["torch"])),
    }


def scaled(pixels: Any) -> Any:
    return (pixels - 120) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    allow_torchvision()
    rows = [measure(name, options.batch, options.rounds) for name in options.names]
    if options.names == list(NETWORKS):
        common.save("from-torch-cpu", rows, clock="CPU time")
    else:
        common.table(rows)


if __name__ == "__main__":
    main()
