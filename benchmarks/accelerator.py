"""All that is to be known of a GPU or TPU: tests, benchmarks, a trace of ten steps, in one JSON.

It needs the repository, JAX for the device and the test extra; weights are drawn from a seed.

    python benchmarks/accelerator.py [--pairs 1000] [--batches 32 256 1024] [--out DIR]

What it writes: DIR/accelerator.json, and DIR/trace for TensorBoard or Perfetto. On a CPU it runs,
too, with small numbers (`--pairs 8 --batches 2 --network lenet`), which says only that it runs.
"""

import argparse
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import common
import engine
import jax

import advjax
from advjax import bench, files

ROOT = Path(__file__).parents[1]
NETWORKS = ("caffenet", "squeezenet", "lenet")


def tests(out: Path) -> dict[str, Any]:
    """Run the tests that are marked for devices; return their numbers and what failed."""
    report = out / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "device", f"--junitxml={report}"]
    optimised = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    ended = subprocess.run(command, cwd=ROOT, env=optimised, capture_output=True, text=True)
    if not report.is_file():
        return {"status": ended.returncode, "output": (ended.stdout + ended.stderr)[-2000:]}
    suite = next(ElementTree.parse(report).iter("testsuite"))
    failed = [
        case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None
    ]
    return {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")} | {
        "failed": failed
    }


def precisions(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Speed and final distance at each precision of matrix products while solving."""
    net = advjax.load(options.network, "random")
    rows = []
    for precision in ("highest", "tensorfloat32", "bfloat16"):
        found = bench.throughput(
            net,
            options.pairs,
            max(options.batches),
            solver=advjax.SignMomentum(options.evaluations),
            precision=precision,
        )
        rows.append({"precision": precision, **found._asdict()})
    return rows


def trace(options: argparse.Namespace, out: Path) -> str:
    """Record ten steps of all lanes with JAX's profiler; return the folder."""
    net = advjax.load(options.network, "random")
    batch = max(options.batches)
    images = bench.photographs(2 * batch, net.input_shape)
    pairs = list(zip(images[:batch], images[batch:], strict=True))
    settings = {"solver": advjax.SignMomentum(10), "batch_size": batch, "progress": False}
    list(advjax.attack_stream(net, iter(pairs), **settings))  # compiles
    with jax.profiler.trace(str(out / "trace")):
        list(advjax.attack_stream(net, iter(pairs), **settings))
    return str(out / "trace")


def main() -> None:
    """Run everything, and keep what is done after each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="caffenet")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 256, 1024])
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("accelerator"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.batch, options.precision = max(options.batches), "highest"
    options.stream_batch = str(max(options.batches))
    parts = {
        "tests": lambda: tests(options.out),
        "scaling": lambda: engine.scaling(options),
        "stream": lambda: engine.stream(options),
        "precisions": lambda: precisions(options),
        "host": lambda: engine.host(options),
        "trace": lambda: trace(options, options.out),
    }
    record: dict[str, Any] = {
        "machine": common.machine(),
        "devices": [device.device_kind for device in jax.local_devices()],
    }
    for name, part in parts.items():
        print(f"{name} ...", flush=True)
        record[name] = part()
        files.write_text(options.out / "accelerator.json", json.dumps(record, indent=1) + "\n")
    print(f"written: {options.out / 'accelerator.json'}")


if __name__ == "__main__":
    main()
