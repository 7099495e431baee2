"""File systems that lack what others have, played by a `sitecustomize` in real processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kill_run
import pyarrow.parquet as pq
import pytest

from advjax.runs.directory import open_directory, verify

SHIM = """
import errno, fcntl, os, stat

def refuse(name, number):
    raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

lock, sync = os.environ.get("FLOCK"), os.environ.get("FSYNC")
if lock:
    fcntl.flock = lambda *_: refuse("flock", lock)
if sync:
    fsync = os.fsync

    def shim(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if folder or os.environ["FSYNC_OF"] == "all":
            refuse("fsync", sync)
        fsync(descriptor)

    os.fsync = shim
"""


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    at = tmp_path_factory.mktemp("file-systems")
    (at / "shim").mkdir()
    (at / "shim" / "sitecustomize.py").write_text(SHIM)
    return kill_run.make_pairs(at / "few", 6)


def start(few, words, **shim):
    at = few.parents[1]
    path = f"{at / 'shim'}{os.pathsep}{kill_run.ROOT}"
    environment = kill_run.environment(at / "cache") | shim | {"PYTHONPATH": path}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("kind", "number"), [("run", "ENOSYS"), ("share", "ENOLCK"), ("bank", "ENOSYS")]
)
def test_without_locks_work_goes_on_with_a_warning(few, tmp_path, kind, number):
    out = tmp_path / "out"
    done = start(few, kill_run.first_commands(few, out)[kind], FLOCK=number)
    _, said = done.communicate(timeout=300)
    assert done.returncode == (0 if kind == "bank" else 1), said
    assert "has no locks" in said
    assert "Traceback" not in said
    if kind != "bank":
        assert len([line for line in said.splitlines() if "has no locks" in line]) == 1
        assert verify(open_directory(out)) == ([], 6, 2)


def test_without_locks_shares_that_start_together_do_not_disturb_each_other(few, tmp_path):
    out = tmp_path / "out"
    words = [kill_run.command(few, out, "--share", f"{i}/2") for i in range(2)]
    words = [[*each, "--shard-size", "3"] for each in words]
    started = [start(few, each, FLOCK="ENOSYS") for each in words]
    said = [each.communicate(timeout=300)[1] for each in started]
    assert all(each.returncode in (0, 1) for each in started), said
    assert verify(open_directory(out)) == ([], 6, 2)


@pytest.mark.parametrize(
    ("number", "of", "goes_on"),
    [
        ("EINVAL", "folders", True),
        ("ENOTSUP", "all", True),
        ("EIO", "folders", False),
        ("ENOSPC", "all", False),
    ],
)
def test_a_file_system_that_syncs_no_folders(few, tmp_path, number, of, goes_on):
    """That it cannot be asked is no error; that it was asked and failed is one."""
    out = tmp_path / "out"
    done = start(few, kill_run.command(few, out), FSYNC=number, FSYNC_OF=of)
    _, said = done.communicate(timeout=300)
    assert "Traceback" not in said
    if goes_on:
        assert done.returncode == 1, said
        assert verify(open_directory(out)) == ([], 6, 2)
    else:
        assert done.returncode == 2, said
        assert len(said.splitlines()) == 1
        assert "cannot write" in said


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_in_any_bytes_and_any_locale(few, tmp_path, locale):
    """A run of a folder, its page and the figures of one pair: the same names in every locale."""
    folder = os.fsencode(tmp_path / "photos")
    names = ["été/ü.png".encode(), b"caf\xe9/caf\xe9.png", b"plain/a.png"]
    for name in names:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy(few.parent / f"{names.index(name)}.png", path)
    environment = kill_run.environment(few.parents[1] / "cache") | {
        "LC_ALL": locale,
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    out = tmp_path / "out"

    def advjax(*words):
        words = [sys.executable, "-m", "advjax", *words]
        done = subprocess.run(words, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done

    words = kill_run.command(Path(os.fsdecode(folder)), out)[3:]
    advjax(*words)
    advjax("report", str(out))
    rows = pq.read_table(out / "shards")["source"].to_pylist()
    assert set(rows) == {"été/ü.png", "bytes:caf%E9/caf%E9.png", "plain/a.png"}
    assert "ü.png" in (out / "report.html").read_text(encoding="utf-8")
    pair = [os.path.join(folder, name) for name in names[:2]]
    lenet = ["--network", "lenet", "--weights", "random", "--max-evaluations", "2", "--out"]
    advjax("attack", *pair, *lenet, os.path.join(os.fsencode(tmp_path), b"\xe9"))
