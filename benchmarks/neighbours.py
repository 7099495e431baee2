"""Exact neighbours in a bank too large for the device: memory and seconds.

python benchmarks/neighbours.py [--points 100000] [--units 4096] [--queries 32]
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import common
import numpy as np

from advjax.metrics import knn_blocks


def peak() -> float:
    """Of the process, in GB, with the pages of memory-mapped files that it has touched."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--units", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=32)
    options = parser.parse_args()
    n, d, q = options.points, options.units, options.queries
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        file = Path(folder, "points")
        with open(file, "wb") as stream:
            for start in range(0, n, 1000):
                block = rng.standard_normal((min(1000, n - start), d), np.float32)
                stream.write(np.maximum(block, 0).data)
        queries = np.maximum(rng.standard_normal((q, d), np.float32), 0)

        def blocks():  # read, not mapped: what is resident is ours
            with open(file, "rb") as stream:
                while len(block := np.fromfile(stream, np.float32, 4096 * d)):
                    yield block.reshape(-1, d)

        for metric in ("euclidean", "cosine"):
            knn_blocks(queries, next(blocks()), 50, metric=metric)  # compiles
            begin = time.perf_counter()
            knn_blocks(queries, blocks(), 50, metric=metric)
            seconds = time.perf_counter() - begin
            rows.append(
                {
                    "points": n,
                    "units": d,
                    "queries": q,
                    "k": 50,
                    "metric": metric,
                    "on disk GB": 4 * n * d / 1e9,
                    "peak GB": peak(),
                    "seconds": seconds,
                    "seconds at 1.28 million": seconds * 1.28e6 / n,
                }
            )
    common.save("neighbours", rows)


if __name__ == "__main__":
    main()
