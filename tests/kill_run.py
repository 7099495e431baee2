"""Kills a run again and again at random moments, and compares what is left with a run that was not.

    python tests/kill_run.py --kills 30 --renames 5

Every resumed run must leave the very files of the undisturbed one. Before that, a run, a shared run
and a feature bank are killed before and after each of their first renames; the same command must go
on. Exit status 1 if one does not.
"""

import argparse
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).parents[1]
ENDS = ("before", "after")


def make_pairs(folder: Path, pairs: int) -> Path:
    """A list of pairs of random images; two of the pairs name files that cannot be read."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(20)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    chosen = rng.integers(0, 20, (pairs, 2))
    rows = [f"{names[s]},{names[g]}" for s, g in chosen]
    rows[pairs // 3], rows[pairs // 2] = "broken.png,0.png", "0.png,nowhere.png"
    path = folder / "pairs.csv"
    path.write_text("\n".join(["source,guide", *rows]) + "\n")
    return path


def command(pairs: Path, out: Path, *more: str) -> list[str]:
    options = "--network lenet --weights orthonormal --max-evaluations 30 --batch-size 8"
    options += f" --shard-size 16 --save-every 0.1 --out {out}"
    return [sys.executable, "-m", "advjax", "run", str(pairs), *options.split(), *more]


def environment(cache: Path) -> dict[str, str]:
    """Programs are compiled once, for all processes."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def content(out: Path) -> dict[str, bytes]:
    """Every file of a run, hidden ones too, but for the records of its sessions."""
    every = (p for p in out.rglob("*") if p.is_file() and p.parent.name != "history")
    return {str(p.relative_to(out)): p.read_bytes() for p in every}


def rows_on_disk(out: Path) -> list[int]:
    """The pairs that have a row in a shard, as any reader of Parquet sees them."""
    shards = sorted((out / "shards").glob("*.parquet"))
    return [i for shard in shards for i in pq.read_table(shard)["index"].to_pylist()]


def kill_at_random(pairs: Path, out: Path, cache: Path, kills: int, rng: random.Random) -> int:
    """Runs to the end, killed at most so many times; how many times it was."""
    done, count = 0, len(pairs.read_text().splitlines()) - 1
    while True:
        before = newest(out)
        process = subprocess.Popen(
            command(pairs, out),
            env=environment(cache),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        if done < kills:
            while process.poll() is None and newest(out) <= before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1.5))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                done += 1
                indices = rows_on_disk(out)
                assert len(indices) == len(set(indices)), "a pair has two rows"
                continue
        _, said = process.communicate()
        assert process.returncode == 1, (process.returncode, said)  # two pairs cannot be attacked
        table = pq.read_table(out / "shards", columns=["index", "status"])
        assert sorted(table["index"].to_pylist()) == list(range(count)), said
        assert table["status"].to_pylist().count("ERROR") == 2, said
        return done


KILLER = """
import os, signal

number, when = int(os.environ["KILL_AT"]), os.environ["KILL_WHEN"]
replace, seen = os.replace, []

def killing(source, target, **more):
    if os.fspath(target).startswith(os.environ["KILL_IN"]):
        seen.append(target)
    if len(seen) == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target, **more)
    if len(seen) == number and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = killing
"""

BANK = """
import sys
from pathlib import Path
import advjax
from advjax.bank import build_bank
net = advjax.load("lenet", "orthonormal")
paths = sorted(path for path in Path(sys.argv[1]).glob("*.png") if path.stem.isdecimal())
build_bank(net, paths, ["ip1", "pool2"], sys.argv[2], batch_size=8, progress=False)
"""


def first_commands(pairs: Path, out: Path) -> dict[str, list[str]]:
    """The commands that are killed at their first renames; all of them write to `out`."""
    return {
        "run": command(pairs, out),
        "share": command(pairs, out, "--share", "0/1"),
        "bank": [sys.executable, "-c", BANK, str(pairs.parent), str(out)],
    }


def kill_at_rename(
    words: list[str], out: Path, cache: Path, number: int, when: str
) -> tuple[bool, int, str]:
    """Kills a command at a rename, gives it again; whether it was killed, and how it ended then."""
    shim = cache.parent / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(KILLER)
    plain = environment(cache)
    killer = plain | {
        "PYTHONPATH": f"{shim}{os.pathsep}{ROOT}",
        "KILL_AT": str(number),
        "KILL_WHEN": when,
        "KILL_IN": str(out),
    }
    first = subprocess.run(words, env=killer, capture_output=True, text=True)
    killed = first.returncode == -signal.SIGKILL
    again = subprocess.run(words, env=plain, capture_output=True, text=True) if killed else first
    return killed, again.returncode, again.stderr


def newest(out: Path) -> float:
    """When something was written there last."""
    times = []
    for path in out.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a temporary file
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--renames", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pairs, cache = make_pairs(folder, options.pairs), folder / "cache"
        few = make_pairs(folder / "few", 20)
        for kind in first_commands(few, folder):
            killed = 0
            for number, when in itertools.product(range(1, options.renames + 1), ENDS):
                out = folder / f"{kind}-{number}-{when}"
                words = first_commands(few, out)[kind]
                was, status, said = kill_at_rename(words, out, cache, number, when)
                killed += was
                # Two pairs of a run cannot be attacked.
                if status != (0 if kind == "bank" else 1):
                    sys.exit(f"{kind}, killed {when} rename {number}: status {status}: {said}")
            print(
                f"{kind}: killed at {killed} of its first renames, and gone on each time",
                flush=True,
            )
        kill_at_random(pairs, folder / "whole", cache, 0, rng)
        whole, done, runs = content(folder / "whole"), 0, 0
        while done < options.kills:
            runs += 1
            out = folder / f"killed-{runs}"
            new = kill_at_random(pairs, out, cache, options.kills - done, rng)
            done += new
            found = content(out)
            same = found == whole
            print(
                f"run {runs}: killed {new} times, {len(rows_on_disk(out))} rows, same: {same}",
                flush=True,
            )
            if not same:
                differ = sorted(n for n in {*found, *whole} if found.get(n) != whole.get(n))
                sys.exit(f"differ: {', '.join(differ)}")
    print(f"{done} kills in {runs} runs of {options.pairs} pairs: all files as undisturbed")


if __name__ == "__main__":
    main()
