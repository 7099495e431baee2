"""Three CLIP towers attacked together, with crops: a step of advjax against the loop in PyTorch.

M-Attack's step (cosine to the guide's embedding, the mean of the towers, K crops of the image, sign
steps with momentum), with random weights, by CPU time on one core:

    taskset -c 0 python benchmarks/towers.py [--batches 1 8] [--crops 4]

The time of a step is the difference of two runs over the difference of their steps, so that what
comes before the first step and compilation are not in it. It needs
`pip install torch open_clip_torch`.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch
from from_torch import allow_torchvision, scaled

import advjax
from advjax import transforms

SIZE = (224, 224, 3)
TOWERS = ("ViT-S-32", "ViT-M-32", "ViT-B-32")
STEPS = (1, 3)


def cropped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A window of half the area or more of each image, resized."""
    windows = []
    for image in images:
        side = int(224 * float(torch.empty(1).uniform_(0.5, 1, generator=generator)) ** 0.5)
        top, left = torch.randint(0, 225 - side, (2,), generator=generator).tolist()
        window = image[None, :, top : top + side, left : left + side]
        windows.append(
            torch.nn.functional.interpolate(
                window, (224, 224), mode="bilinear", align_corners=False, antialias=True
            )
        )
    return torch.cat(windows)


def with_torch(modules: Any, sources: Any, guides: Any, crops: int, steps: int) -> None:
    """The loop as the released code has it: one backward pass for each draw."""
    generator = torch.Generator().manual_seed(0)
    source, guide = (torch.tensor(x).permute(0, 3, 1, 2).float() for x in (sources, guides))
    with torch.no_grad():
        goals = [torch.nn.functional.normalize(module(scaled(guide))) for module in modules]
    change, velocity = torch.zeros_like(source), torch.zeros_like(source)
    for _ in range(steps):
        change.requires_grad_()
        gradient = torch.zeros_like(source)
        for _ in range(crops):
            seen = scaled(cropped(source + change, generator))
            loss = sum(
                (torch.nn.functional.normalize(module(seen)) * goal).sum()
                for module, goal in zip(modules, goals, strict=True)
            )
            gradient += torch.autograd.grad(loss, change)[0]
        velocity = 0.9 * velocity + gradient
        change = (change.detach() + velocity.sign()).clamp(-16, 16)
        change = (source + change).clamp(0, 255) - source


def seconds_of(run: Callable[[int], Any]) -> float:
    """CPU seconds of a step."""
    spent = []
    for steps in STEPS:
        run(steps)  # compiles
        begin = time.process_time()
        run(steps)
        spent.append(time.process_time() - begin)
    return (spent[1] - spent[0]) / (STEPS[1] - STEPS[0])


def measure(modules: Any, net: advjax.Network, batch: int, crops: int) -> dict[str, Any]:
    sources, guides = np.random.default_rng(0).integers(0, 256, (2, batch, *SIZE), np.uint8)

    def ours(steps: int) -> None:
        advjax.attack(
            net,
            sources,
            guides,
            attack=advjax.FeatureOpt(metric="cosine"),
            delta=16.0,
            solver="m-attack",
            max_evaluations=steps,
            batch_size=batch,
            transforms=advjax.Transforms(transforms.Crop(0.5, ratio=1.0), draws=crops),
            progress=False,
        )

    peer = seconds_of(lambda steps: with_torch(modules, sources, guides, crops, steps))
    mine = seconds_of(ours)
    return {
        "batch": batch,
        "crops": crops,
        "torch ms/image": 1e3 * peer / batch,
        "advjax ms/image": 1e3 * mine / batch,
        "ratio": mine / peer,
    }


def main() -> None:
    import open_clip

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--crops", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    modules = [open_clip.create_model(name, pretrained=None).visual.eval() for name in TOWERS]
    for module in modules:
        module.requires_grad_(False)
    towers = {
        name: advjax.Network.from_torch(module, SIZE, transform=scaled, layers=("output",))
        for name, module in zip(TOWERS, modules, strict=True)
    }
    net = advjax.ensemble(towers)
    rows = [measure(modules, net, batch, options.crops) for batch in options.batches]
    common.save("towers-cpu", rows, towers=TOWERS, clock="CPU time")


if __name__ == "__main__":
    allow_torchvision()
    main()
