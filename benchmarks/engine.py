"""The engine alone, on any device: no peer, no data, nothing but the repository and JAX.

    python benchmarks/engine.py [--only share scaling lanes memory heap compilation roofline
                                        predicted stream host]

On a GPU: `python benchmarks/engine.py --pairs 1000 --batches 1 8 64 256 1024 --stream-batch auto`.
Images are drawn from a seed with the spectrum of photographs, weights likewise.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

import advjax
from advjax import bench
from advjax.engine import programs

NETWORKS = {"caffenet": "fc7", "squeezenet": "pool10"}
# Operations a second by the dtype of matrix products, dense, and bytes a second: NVIDIA's data
# sheets of the H100 SXM and the H200 SXM.
DATA_SHEETS = {
    "H100": ({"float32": 67e12, "tensorfloat32": 494e12}, 3.35e12),
    "H200": ({"float32": 67e12, "tensorfloat32": 494e12}, 4.8e12),
}
COMPILE = """
import json, sys, time
import advjax
from advjax import bench
net = advjax.load(sys.argv[1], "random")
images = bench.photographs(2, net.input_shape)
begin = time.perf_counter()
advjax.attack(net, images[:1], images[1:], solver=advjax.ProjectedLBFGS(2), progress=False)
print(json.dumps(time.perf_counter() - begin))
"""
HEAP = """
import json, resource, sys, time
import advjax
from advjax import bench
if sys.argv[2] == "kept":
    advjax.keep_freed_memory()
net = advjax.load(sys.argv[1], None if sys.argv[1].startswith("efficientnet") else "random")
images = bench.photographs(16, net.input_shape)
for _ in range(2):
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    advjax.attack(net, images[:8], images[8:], max_evaluations=20, progress=False)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "wall ms": 1e3 * seconds / 160,
    "user ms": 1e3 * (after.ru_utime - before.ru_utime) / 160,
    "system ms": 1e3 * (after.ru_stime - before.ru_stime) / 160,
    "page faults": (after.ru_minflt - before.ru_minflt) / 160,
}))
"""


def share(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The solver's part of a step."""
    rows = []
    for name in NETWORKS:
        net = advjax.load(name, "random")
        for solver in (
            advjax.ProjectedLBFGS(),
            advjax.ProjectedLBFGS(history_dtype="bfloat16"),
            advjax.SignMomentum(),
        ):
            times = bench.step_times(net, solver, options.batch, rounds=options.rounds)
            rows.append(
                {
                    "network": name,
                    "solver": type(solver).__name__,
                    "history": getattr(solver, "history_dtype", "-"),
                    "batch": options.batch,
                    "evaluation ms/image": 1e3 * times.evaluation / options.batch,
                    "step ms/image": 1e3 * times.step / options.batch,
                    "solver's share": times.solver_fraction,
                }
            )
    return rows


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A step's time by batch size."""
    net = advjax.load(options.network, "random")
    rows = []
    for batch in options.batches:
        times = bench.step_times(
            net, advjax.ProjectedLBFGS(), batch, precision=options.precision, rounds=options.rounds
        )
        rows.append(
            {
                "network": options.network,
                "batch": batch,
                "step ms/image": 1e3 * times.step / batch,
                "steps/s x batch": batch / times.step,
                "solver's share": times.solver_fraction,
                "compilation s": times.compilation,
            }
        )
    return rows


def lanes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """How much of the lanes' steps goes to pairs that are not done, when pairs end early."""
    net = advjax.load(options.network, "random")
    found = bench.throughput(
        net, options.lanes_pairs, 16, solver=advjax.ProjectedLBFGS(), target_ratio=options.target
    )
    return [
        {
            "network": options.network,
            "pairs": options.lanes_pairs,
            "batch": 16,
            "target_ratio": options.target,
            **found._asdict(),
        }
    ]


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Resident memory of this process in a stream on a small network."""
    net = advjax.load("lenet", "random")
    images = bench.photographs(64, net.input_shape)
    total, marks, rows = options.memory_pairs, {100, options.memory_pairs}, []
    rng = np.random.default_rng(0)
    pairs = ((images[i], images[j]) for i, j in rng.integers(0, 64, (total, 2)))
    begin = time.perf_counter()
    stream = advjax.attack_stream(net, pairs, solver=advjax.ProjectedLBFGS(20), ordered=False)
    for done, _ in enumerate(stream, 1):
        if done in marks:
            pages = Path("/proc/self/statm").read_text().split()[1]
            resident = int(pages) * resource.getpagesize()
            rows.append(
                {
                    "network": "lenet",
                    "pairs": done,
                    "resident MB": resident / 1e6,
                    "growth": resident / 1e6 / rows[0]["resident MB"] - 1 if rows else 0.0,
                    "pairs/s": done / (time.perf_counter() - begin),
                }
            )
    return rows


def heap(options: argparse.Namespace) -> list[dict[str, Any]]:
    """An evaluation of one image, 8 at a time, with freed memory returned or kept; medians."""
    rows = []
    for name in (*NETWORKS, "efficientnet_lite0"):
        runs: dict[str, list[dict[str, float]]] = {"returned": [], "kept": []}
        for _, (how, found) in itertools.product(range(options.rounds), runs.items()):
            command = [sys.executable, "-c", HEAP, name, how]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout))
        for how, found in runs.items():
            figures = {each: float(np.median([run[each] for run in found])) for each in found[0]}
            rows.append({"network": name, "freed memory": how, **figures})
    return rows


def compilation(options: argparse.Namespace) -> list[dict[str, Any]]:
    """From `attack` to its first result, in a new process, without and with JAX's own cache."""
    rows = []
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as cache:
            environment = {
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            command = [sys.executable, "-c", COMPILE, name]
            cold, warm = (
                json.loads(subprocess.check_output(command, env=environment)) for _ in range(2)
            )
        rows.append({"network": name, "cold s": cold, "with JAX's cache s": warm})
    return rows


def _compiled(name: str, options: argparse.Namespace) -> tuple[Any, tuple[Any, Any]]:
    """Value and gradient of a network on a batch, compiled, and what it takes."""
    net = advjax.load(name, "random")
    images = bench.photographs(options.batch, net.input_shape).astype(np.float32)

    def value(x, params):
        return (net.function(params, x)[NETWORKS[name]] ** 2).sum()

    with jax.default_matmul_precision(options.precision):
        compiled = jax.jit(jax.value_and_grad(value)).lower(images, net.params).compile()
    return compiled, (images, net.params)


def roofline(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the compiler counts in value and gradient, against ceilings measured in this run."""
    matrix, stream = bench.matrix_ceiling(precision=options.precision), bench.memory_ceiling()
    rows = []
    for name in NETWORKS:
        compiled, arguments = _compiled(name, options)
        account = compiled.cost_analysis()
        run = lambda c=compiled, a=arguments: jax.block_until_ready(c(*a))  # noqa: E731
        seconds = bench.in_turn({"it": run}, options.rounds)["it"]
        flops, moved, spent = account["flops"], account["bytes accessed"], float(np.median(seconds))
        rows.append(
            {
                "network": name,
                "batch": options.batch,
                "GFLOP/image": flops / options.batch / 1e9,
                "GB moved/image": moved / options.batch / 1e9,
                "matrix ceiling GFLOP/s": matrix / 1e9,
                "memory ceiling GB/s": stream / 1e9,
                "reached GFLOP/s": flops / spent / 1e9,
                "of the matrix ceiling": flops / spent / matrix,
            }
        )
    return rows


def predicted(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What a GPU's data sheet allows: an upper limit, from the counts of this machine's compiler.

    A GPU's compiler fuses otherwise and moves other bytes. The host's time is what is left beside
    the device for each pair at that rate.
    """
    rows = []
    for name, (gpu, (peaks, bandwidth)) in itertools.product(NETWORKS, DATA_SHEETS.items()):
        account = _compiled(name, options)[0].cost_analysis()
        flops, moved = (account[key] / options.batch for key in ("flops", "bytes accessed"))
        for precision, peak in peaks.items():
            compute, memory = flops / peak, moved / bandwidth
            rate = 1 / max(compute, memory) / options.evaluations
            rows.append(
                {
                    "network": name,
                    "GPU": gpu,
                    "products": precision,
                    "compute us/evaluation": 1e6 * compute,
                    "memory us/evaluation": 1e6 * memory,
                    "limit": "memory" if memory > compute else "compute",
                    "evaluations": options.evaluations,
                    "pairs/s at most": rate,
                    "host ms/pair": 1e3 / rate,
                }
            )
    return rows


def stream(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Pairs per second of a whole stream."""
    net = advjax.load(options.network, "random")
    batch = options.stream_batch if options.stream_batch == "auto" else int(options.stream_batch)
    rows = []
    for solver in (
        advjax.ProjectedLBFGS(options.evaluations),
        advjax.SignMomentum(options.evaluations),
    ):
        found = bench.throughput(
            net, options.pairs, batch, solver=solver, precision=options.precision
        )
        rows.append(
            {
                "network": options.network,
                "solver": type(solver).__name__,
                "pairs": options.pairs,
                "batch": batch,
                "precision": options.precision,
                **found._asdict(),
            }
        )
    return rows


def host(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the host adds to a pair, beside a simulated device that takes a set time for one.

    The network is a chain of multiplications on one core, the host has another: pin the process to
    two. The device's time is that of the same steps alone, so that the rest is the host's.
    """
    rows = []
    for device_ms, evaluations, batch in itertools.product((0.0, 7.0), (1, 8), (32, 256)):
        if device_ms and evaluations == 1:
            continue
        net = _simulated(1e-3 * device_ms / evaluations)
        solver = advjax.SignMomentum(evaluations)
        pairs = 512
        images = bench.photographs(8, net.input_shape)
        some = [(images[i % 8], images[(i + 1 + i // 8 % 7) % 8]) for i in range(pairs)]
        calls = Counter()
        with _counted(calls):
            list(advjax.attack_stream(net, some[:batch], solver=solver, batch_size=batch))
            calls.clear()
            walls = []
            for _ in range(options.rounds):
                steps = 0

                def count(at: Any) -> None:
                    nonlocal steps
                    steps = at.steps

                begin = time.perf_counter()
                for _ in advjax.attack_stream(
                    net, iter(some), solver=solver, batch_size=batch, progress=count, ordered=False
                ):
                    pass
                walls.append(time.perf_counter() - begin)
        step = bench.step_times(net, solver, batch, rounds=options.rounds, steps=evaluations).step
        busy, wall = steps / batch * step, min(walls)
        rows.append(
            {
                "evaluations": evaluations,
                "lanes": batch,
                "pairs": pairs,
                "device ms/pair": 1e3 * busy / pairs,
                "wall ms/pair": 1e3 * wall / pairs,
                "host ms/pair outside": 1e3 * (wall - busy) / pairs,
                "idle share": 1 - busy / wall,
                "calls/pair": calls["calls"] / options.rounds / pairs,
                "MB from host/pair": calls["bytes"] / options.rounds / pairs / 1e6,
            }
        )
    return rows


def _simulated(seconds: float) -> advjax.Network:
    """A network of photographs' size whose gradient takes this time for an image, on one core."""

    def spin(start, count):
        return jax.lax.fori_loop(0, count, lambda _, x: x * 0.999 + 0.001, start)

    count = 10**7
    each = bench.in_turn({"it": lambda: jax.block_until_ready(jax.jit(spin)(1.0, count))}, 3)
    turns = int(seconds * count / min(each["it"]))

    def pixels(images):
        return images[:, :8, :8, 0].reshape(len(images), -1)

    @jax.custom_vjp
    def wait(out):
        return out

    def backward(_, gradient):
        # Of a value that is not known before, and nothing is left of it.
        return (gradient + 1e-30 * spin(gradient[0, 0], turns * len(gradient)),)

    wait.defvjp(lambda out: (out, None), backward)

    def function(images):
        return {"out": wait(pixels(images))}

    return advjax.Network(function, (227, 227, 3), name="simulated")


@contextlib.contextmanager
def _counted(calls: Counter) -> Iterator[None]:
    """Count the engine's calls of compiled programs, and the bytes that they take from the host."""
    call = programs.Program.__call__

    def counting(self, *args):
        calls["calls"] += 1
        arrays = [leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, np.ndarray)]
        calls["bytes"] += sum(array.nbytes for array in arrays)
        return call(self, *args)

    programs.Program.__call__ = counting
    try:
        yield
    finally:
        programs.Program.__call__ = call


SECTIONS = (share, scaling, lanes, memory, heap, compilation, roofline, predicted, stream, host)


def main() -> None:
    """Runs the sections asked for; each writes its own JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [section.__name__ for section in SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--network", default="caffenet", choices=list(NETWORKS))
    parser.add_argument("--precision", default="highest")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--stream-batch", default="8")
    parser.add_argument("--lanes-pairs", type=int, default=200)
    parser.add_argument("--target", type=float, default=0.3)
    parser.add_argument("--memory-pairs", type=int, default=5000)
    options = parser.parse_args()
    device = jax.local_devices()[0].platform
    for section in SECTIONS:
        if section.__name__ in options.only:
            common.save(f"engine-{section.__name__}-{device}", section(options))


if __name__ == "__main__":
    main()
