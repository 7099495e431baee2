"""The forms of convolutions and pooling that a CPU gets, against the plain ones.

    taskset -c 1 python benchmarks/forms.py [--rounds 7]

Each is evaluated in a compiled loop, where the engine has it: CPU time of one image in a batch of
8, minima over rounds. The last rows are a network's value and input gradient, with and without
Winograd's convolutions.
"""

import argparse
import time
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import advjax
from advjax.networks import convolution_forms as conv
from advjax.networks import layers
from advjax.networks.network import activations

BATCH, TURNS = 8, 3
CONVOLUTIONS = {  # side, window, inputs, outputs
    "squares": [(111, 4, 96, 12), (112, 4, 64, 12), (111, 3, 64, 3)],
    "winograd": [(13, 3, 256, 384), (13, 3, 192, 128), (27, 3, 64, 256), (55, 3, 32, 128)],
}
FORMS = {"squares": conv._squares_at_once, "winograd": conv._winograd}
POOLS = [(111, 96), (55, 256), (27, 512)]


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def milliseconds(function: Any, *arrays: Any, rounds: int) -> float:
    """CPU time of one image, the function being in the body of a loop."""

    @jax.jit
    def loop(x, *rest):
        def again(_, sums):
            return sums + 1e-9 * jnp.sum(function(x * sums, *rest))

        return jax.lax.fori_loop(0, TURNS, again, jnp.float32(1))

    seconds = []
    for turn in range(rounds + 1):
        begin = time.process_time()
        jax.block_until_ready(loop(*arrays))
        if turn:  # the first one compiles
            seconds.append(time.process_time() - begin)
    return 1e3 * min(seconds) / BATCH / TURNS


def forms(rounds: int) -> list[dict[str, Any]]:
    """Convolutions of one form against the plain one."""
    rows = []
    for name, shapes in CONVOLUTIONS.items():
        for side, k, inputs, outputs in shapes:
            x, kernel = drawn(BATCH, side, side, inputs), drawn(k, k, inputs, outputs)
            edge = k - 1 if name == "squares" else k // 2  # as in a gradient; as in a layer
            pads = ((edge, edge),) * 2
            functions = {
                "plain": lambda x, kernel, pads=pads: conv._plain(x, kernel, pads, 1),
                "form": lambda x, kernel, pads=pads, name=name: FORMS[name](x, kernel, pads),
            }
            ms = {n: milliseconds(f, x, kernel, rounds=rounds) for n, f in functions.items()}
            rows.append({"what": name, "shape": f"{side}, {k}, {inputs} to {outputs}", **ms})
    return rows


def pools(rounds: int) -> list[dict[str, Any]]:
    """The gradient of maximum pooling, window 3, step 2, against autodiff's."""
    rows, rule = [], layers._windows
    for side, channels in POOLS:
        x = drawn(BATCH, side, side, channels)
        ms = {}
        for name, windows in (("plain", rule.fun), ("form", rule)):
            layers._windows = windows
            gradient = jax.grad(lambda x: jnp.sum(layers.max_pool(x, 3, 2) ** 2))
            ms[name] = milliseconds(gradient, x, rounds=rounds)
        layers._windows = rule
        rows.append({"what": "pooling's gradient", "shape": f"{side}, {channels}", **ms})
    return rows


def networks(rounds: int) -> list[dict[str, Any]]:
    """Value and input gradient with Winograd's convolutions and without."""
    rows, form = [], conv._winograd
    for name in ("caffenet", "squeezenet"):
        net = advjax.load(name, "random")
        ms = {}
        for kind in ("plain", "form"):
            if kind == "plain":
                conv._winograd = lambda x, kernel, pads: conv._plain(x, kernel, pads, 1)

            def loss(x, params, net=net):
                found = activations(net.function, True, params, x, (net.layer,))[net.layer]
                return jnp.sum(found**2)

            images = 50 * drawn(BATCH, *net.input_shape)
            ms[kind] = milliseconds(jax.grad(loss), images, net.params, rounds=rounds)
            conv._winograd = form
        rows.append({"what": "winograd", "shape": name, **ms})
    return rows


def main() -> None:
    """Measure all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    advjax.keep_freed_memory()
    rows = [row for part in (forms, pools, networks) for row in part(options.rounds)]
    common.save("forms-cpu", rows)


if __name__ == "__main__":
    main()
