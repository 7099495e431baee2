"""The cost of a run, estimated from a short measurement."""

import itertools
import math
import time
from typing import Any

import jax
import numpy as np

from advjax.engine import Pair, Progress
from advjax.errors import AdvjaxError
from advjax.runs.image_reader import Reader
from advjax.runs.pair_list import PairList
from advjax.runs.pipeline import Job
from advjax.runs.progress import duration
from advjax.runs.rows import encode_png

MEASURED = 10.0  # seconds, after compilation
LOOKED_AT = 200  # images whose files' size is looked up


def dry_run(job: Job, pairs: PairList) -> dict[str, Any]:
    """Attack for some seconds, write nothing, and estimate the time and space of the whole run.

    Args:
        job: The settings of the attacks.
        pairs: The pair list.

    Returns:
        `pairs`, `batches`, `images` (different ones), `bytes_in`, `bytes_out`, `rate` (evaluations
        a second) and `seconds`: the maximum, as no pair takes more evaluations than its budget.

    Raises:
        AdvjaxError: No pair that can be read.
    """
    reader = Reader(job.net, pairs.root)
    names = set(pairs.table["source"].to_pylist()) | set(pairs.table["guide"].to_pylist())
    looked = list(itertools.islice(names, LOOKED_AT))
    each = sum(map(reader.size, looked)) / len(looked)
    layers = pairs.table["layer"].fill_null(job.layer).to_pylist()
    (layer, _), *_ = [max(((n, layers.count(n)) for n in set(layers)), key=lambda x: x[1])]
    spread = np.random.default_rng(0).permutation(len(pairs))
    indices = [int(index) for index in spread if layers[index] == layer]
    begun: list[tuple[float, int]] = []
    budget = job.budget

    def feed():
        failures, good = 0, 0
        for index in itertools.cycle(indices):
            (entry,) = pairs.table.slice(index, 1).to_pylist()
            try:
                images = reader(entry["source"]), reader(entry["guide"])
            except AdvjaxError:
                failures += 1
                if not good and failures == min(len(indices), 100):
                    raise
                continue
            good += 1
            yield Pair(*images, entry["delta"], index=index)

    def look(at: Progress) -> bool:
        # The first look comes after compilation.
        begun.append((time.perf_counter(), at.finished * budget + at.running))
        return begun[-1][0] - begun[0][0] > MEASURED and len(begun) > 2

    sizes = [
        len(encode_png(result.adversarial_uint8))
        for result in job.stream(feed(), layer, count=len(pairs), progress=look)
    ]
    if not sizes:  # no pair came to its end: the sources stand for the adversarials
        sizes = [len(encode_png(image)) for image in reader.latest(8)]
    (first, before), (last, after) = begun[0], begun[-1]
    rate = (after - before) / (last - first)
    pixels = 4 * int(np.prod(job.net.input_shape)) if job.keep_float32 else 0
    lanes = min(job.batch_size, len(pairs))
    batches = math.ceil(len(pairs) / lanes)
    return {
        "pairs": len(pairs),
        "batches": batches,
        "images": len(names),
        "bytes_in": int(each * len(names)),
        "bytes_out": int((float(np.mean(sizes)) + pixels) * len(pairs)),
        "rate": rate,
        # The last batch takes as long as the others, however many of its lanes are empty.
        "seconds": batches * lanes * budget / rate,
    }


def describe(estimate: dict[str, Any], job: Job) -> str:
    """Describe an estimate of `dry_run` for people."""
    devices = jax.local_devices()
    what = f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"
    return "\n".join(
        [
            f"{estimate['pairs']:,} pairs of {estimate['images']:,} images, "
            f"{estimate['batches']:,} batches of {min(job.batch_size, estimate['pairs'])}",
            f"in: {_bytes(estimate['bytes_in'])} of image files; "
            f"out: about {_bytes(estimate['bytes_out'])}",
            f"time: at most {duration(estimate['seconds'])} on {what} here "
            f"({estimate['rate']:.4g} evaluations a second, {job.budget} a pair)",
        ]
    )


def _bytes(count: int) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
