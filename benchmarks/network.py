"""Value and input gradient of the squared feature distance: advjax against PyTorch.

python benchmarks/network.py [--batch 8] [--rounds 9]
"""

import argparse

import common
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_networks

import advjax
from advjax import bench
from advjax.networks.network import activations

NETWORKS = (("caffenet", "random"), ("squeezenet", "random"), ("efficientnet_lite0", None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    advjax.keep_freed_memory()  # for both
    rows = []
    for name, weights in NETWORKS:
        net = advjax.load(name, weights)
        shape = (options.batch, *net.input_shape)
        images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
        target = np.asarray(net(images)[net.layer]) * 0.9

        def loss(x, params, target, net=net):
            found = activations(net.function, True, params, x, (net.layer,))[net.layer]
            return jnp.sum((found - target) ** 2)

        ours = jax.jit(jax.value_and_grad(loss))
        theirs = getattr(torch_networks, name)(net)
        layouts = {
            "contiguous": torch.tensor(images),
            "channels_last": torch.tensor(images.transpose(0, 3, 1, 2).copy())
            .to(memory_format=torch.channels_last)
            .permute(0, 2, 3, 1),
        }
        goal = torch.tensor(target)

        def peer(x, theirs=theirs, goal=goal):
            x = x.detach().requires_grad_()
            value = ((theirs(x) - goal) ** 2).sum()
            return value, torch.autograd.grad(value, x)[0]

        _, gradient = ours(images, net.params, target)
        _, check = peer(layouts["contiguous"])
        # The same function: single entries may differ where a ReLU or a maximum is all but tied.
        error = np.linalg.norm(gradient - check.numpy()) / np.linalg.norm(check.numpy())
        assert error < 0.02, error

        def run(ours=ours, images=images, net=net, target=target):
            jax.block_until_ready(ours(images, net.params, target))

        seconds = bench.in_turn(
            {
                "advjax": run,
                **{k: (lambda x=x: peer(x)) for k, x in layouts.items()},
            },
            options.rounds,
        )
        medians = {k: 1e3 * float(np.median(v)) / options.batch for k, v in seconds.items()}
        rows.append(
            {
                "network": name,
                "layer": net.layer,
                "batch": options.batch,
                "gradient error": float(error),
                "advjax ms/image": medians["advjax"],
                "torch ms/image": medians["contiguous"],
                "torch channels_last": medians["channels_last"],
                "ratio": common.ratio(seconds, "advjax", "contiguous"),
                "ratio channels_last": common.ratio(seconds, "advjax", "channels_last"),
            }
        )
    common.save("network-cpu" if jax.default_backend() == "cpu" else "network-gpu", rows)


if __name__ == "__main__":
    main()
