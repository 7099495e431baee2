"""What durability costs: `advjax run` against the bare engine on the same files, and its memory.

Both take turns on the first pairs of the list, compiled before; then the run goes through all of
them, and its memory is noted.

    python benchmarks/large_runs.py [--network lenet] [--pairs 20000]
"""

import argparse
import itertools
import shutil
import tempfile
import threading
import time
from pathlib import Path

import common

import advjax
from advjax import Pair, bench
from advjax.runs.driver import run
from advjax.runs.pair_list import PairList, make_pair_list
from advjax.runs.pipeline import Job

CAFFEMODELS = {
    "lenet": ("lenet_iter_10000.caffemodel", "mnist-test"),
    "squeezenet": ("squeezenet_v1.0.caffemodel", "imagenet-1000"),
}


def resident() -> float:
    """MB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def bare(job: Job, pairs: PairList) -> None:
    """The engine on the same files; results are dropped."""
    rows = pairs.table.select(["source", "guide"]).to_pylist()
    stream = (Pair(row["source"], row["guide"]) for row in rows)  # type: ignore[arg-type]
    for _ in job.stream(stream, job.layer):
        pass


def durable(job: Job, pairs: PairList) -> None:
    """The run in a new directory."""
    with tempfile.TemporaryDirectory() as folder:
        run(job, pairs, Path(folder, "run"), progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="lenet", choices=CAFFEMODELS)
    parser.add_argument("--pairs", type=int, default=20000)
    parser.add_argument("--compared", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-evaluations", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    weights, folder = CAFFEMODELS[options.network]
    net = advjax.load(options.network, common.DATA / "caffemodels" / weights)
    solver = advjax.ProjectedLBFGS(max_evaluations=options.max_evaluations)
    job = Job(net, solver=solver, batch_size=options.batch_size)
    pairs = make_pair_list(str(common.DATA / folder), pairing="random", count=options.pairs)
    row: dict = {"network": options.network, "budget": options.max_evaluations}
    if options.rounds:
        few = PairList(pairs.table.slice(0, options.compared), pairs.root)
        contenders = {"bare": lambda: bare(job, few), "run": lambda: durable(job, few)}
        seconds = bench.in_turn(contenders, options.rounds)
        for name, times in seconds.items():
            row[f"{name} pairs/s"] = options.compared / sorted(times)[len(times) // 2]
        row["run / bare, time"] = common.ratio(seconds, "run", "bare")
        common.table([row])
    if options.pairs > options.compared:
        memory, done = [], threading.Event()

        def sample():
            for second in itertools.count():
                memory.append((second * 5, round(resident(), 1)))
                if done.wait(5):
                    return

        threading.Thread(target=sample, daemon=True).start()
        out = options.out or Path(tempfile.mkdtemp())
        begin = time.perf_counter()
        outcome = run(job, pairs, out, progress=None)
        took = time.perf_counter() - begin
        done.set()
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        half = [mb for _, mb in memory[len(memory) // 4 :]]
        row |= {
            "pairs": outcome.new,
            "failed": outcome.failed,
            "seconds": took,
            "pairs/s": outcome.new / took,
            "kB out/pair": size / 1000 / outcome.pairs,
            "MB after a quarter": half[0],
            "MB at the end": half[-1],
            "MB at most": max(half),
        }
        if options.out is None:
            shutil.rmtree(out)
        every = max(1, len(memory) // 40)
        common.save(f"large-runs-{options.network}", [row], memory_MB=memory[::every])


if __name__ == "__main__":
    main()
