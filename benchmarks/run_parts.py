"""What one pair of a run costs the host beside the engine: reading, measuring, encoding, writing.

python benchmarks/run_parts.py [--network squeezenet]
"""

import argparse
import tempfile
import time
from pathlib import Path

import common
import numpy as np

import advjax
from advjax.data import list_images
from advjax.runs.directory import create
from advjax.runs.pair_list import COLUMNS, PairList
from advjax.runs.rows import encode_png, image_figures, table_of


def timed(function, items):
    """Milliseconds an item, and what came of each."""
    function(items[0])
    begin = time.perf_counter()
    found = [function(item) for item in items]
    return 1000 * (time.perf_counter() - begin) / len(items), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="squeezenet")
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    net = advjax.load(options.network, "random")
    paths = list_images(common.DATA / "imagenet-1000")[: options.images]
    rng = np.random.default_rng(0)
    read, sources = timed(net.read, paths)
    # A change that compresses no better than an attack's: most pixels at a bound.
    changes = [rng.choice([-10, 10, 3], s.shape, p=[0.4, 0.4, 0.2]) for s in sources]
    images = [
        np.clip(source + change, 0, 255).astype(np.uint8)
        for source, change in zip(sources, changes, strict=True)
    ]
    encode, pngs = timed(encode_png, images)
    both = [(s, i.astype(np.float32), i) for s, i in zip(sources, images, strict=True)]
    measure, _ = timed(lambda three: image_figures(*three), both)
    rows = [{"index": i, "adversarial_png": png} for i, png in enumerate(pngs)]
    with tempfile.TemporaryDirectory() as folder:
        directory = create(Path(folder, "run"), {}, {}, PairList(COLUMNS.empty_table(), Path()))
        write, _ = timed(lambda number: directory.finish(number, table_of(rows)), list(range(8)))
    row = {
        "network": options.network,
        "read ms": read,
        "measure ms": measure,
        "encode ms": encode,
        "write ms": write / len(rows),
        "kB in, an image": float(np.mean([path.stat().st_size for path in paths])) / 1000,
        "kB out, a pair": float(np.mean([len(png) for png in pngs])) / 1000,
    }
    common.save("run-parts", [row])


if __name__ == "__main__":
    main()
