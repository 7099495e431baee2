"""Many processes: JAX's runtime and Ray, on this machine."""

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import kill_run
import pyarrow.parquet as pq
import pytest

import advjax
from advjax.errors import AdvjaxError
from advjax.runs.directory import open_directory, verify
from advjax.runs.driver import run
from advjax.runs.pair_list import make_pair_list
from advjax.runs.pipeline import Job

PAIRS = 80


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A list of pairs, the run that one process makes of it, and a cache of programs."""
    at = tmp_path_factory.mktemp("cluster")
    pairs = kill_run.make_pairs(at, PAIRS)
    kill_run.kill_at_random(pairs, at / "one", at / "cache", 0, None)
    return at


def shards(out):
    return {path.name: path.read_bytes() for path in (out / "shards").iterdir()}


def test_two_processes_of_jaxs_runtime_make_the_same_rows(digits, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    joined = f"--distributed --coordinator localhost:{port} --processes 2 --process".split()
    processes = [
        subprocess.Popen(
            kill_run.command(digits / "pairs.csv", tmp_path / "two", *joined, str(index)),
            env=kill_run.environment(digits / "cache"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    # Each share has pairs, and the two that cannot be attacked are in one or the other.
    assert max(process.returncode for process in processes) == 1, said
    counts = [int(out.split(" pairs in ")[0]) for out, _ in said]
    assert sum(counts) == PAIRS
    assert min(counts) > 0
    assert shards(tmp_path / "two") == shards(digits / "one")
    assert verify(open_directory(tmp_path / "two")) == ([], PAIRS, 2)
    assert sorted(os.listdir(tmp_path / "two")) == [
        *(".lock", "history", "manifest.json", "pairs.parquet", "shards")
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_with_a_worker_killed_in_mid_run_makes_the_same_rows(digits, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from advjax.runs.cluster import run_on_ray

    for name, value in kill_run.environment(digits / "cache").items():
        monkeypatch.setenv(name, value)
    net = advjax.load("lenet", "orthonormal")
    pairs = make_pair_list(str(digits / "pairs.csv"))
    options = {"solver": advjax.SignMomentum(30), "batch_size": 8, "shard_size": 16}
    job, out = Job(net, **options), tmp_path / "ray"
    killed = []

    def kill():
        """The process of the first worker, once it has done something."""
        while not list(out.glob("shards/*.parquet")):
            time.sleep(0.02)
        for entry in os.scandir("/proc"):
            try:
                words = Path(entry.path, "cmdline").read_text()
            except OSError:
                continue
            if words.startswith("ray::Worker") and not killed:
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        outcome = run_on_ray(job, pairs, out, workers=2, progress=False)
    finally:
        ray.shutdown()
    assert killed
    assert outcome == (PAIRS, PAIRS, 2, PAIRS, True)
    assert verify(open_directory(out)) == ([], PAIRS, 2)
    rows = [pq.read_table(folder / "shards").sort_by("index") for folder in (out, digits / "one")]
    columns = [n for n in rows[0].column_names if n != "adversarial_png"]
    assert rows[0].select(columns).equals(rows[1].select(columns))
    assert shards(out) == shards(digits / "one")
    # The same directory, too: one process finds nothing left to do.
    assert run(job, pairs, out, progress=False).new == 0


def test_processes_that_cannot_be_joined(digits, tmp_path):
    words = kill_run.command(digits / "pairs.csv", tmp_path / "none", "--distributed")
    done = subprocess.run(
        words, env=kill_run.environment(digits / "cache"), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("advjax: the processes cannot be joined")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_ray_is_asked_for_where_it_is_not(digits, tmp_path, monkeypatch):
    from advjax.runs.cluster import run_on_ray

    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    job = Job(advjax.load("lenet", "orthonormal"))
    with pytest.raises(AdvjaxError, match=r"advjax\[ray\]"):
        run_on_ray(job, make_pair_list(str(digits / "pairs.csv")), tmp_path / "none")
