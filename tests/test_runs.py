import contextlib
import dataclasses
import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import kill_run
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import advjax
from advjax import cli, engine, files
from advjax.data import decode_image
from advjax.errors import AdvjaxError, UnknownName
from advjax.metrics import psnr, ssim
from advjax.report import write_report
from advjax.runs import directory as directories
from advjax.runs import lock
from advjax.runs.directory import RunError, open_directory, verify
from advjax.runs.driver import about, run, run_share
from advjax.runs.dry_run import dry_run
from advjax.runs.pair_list import PairList, make_pair_list
from advjax.runs.pipeline import Job, Tally, Task, attack_blocks
from advjax.runs.progress import Display

SHAPE = (12, 12, 3)
RNG = np.random.default_rng(0)
WEIGHTS = {
    "hidden": RNG.normal(size=(432, 40)).astype(np.float32) / 20,
    "top": RNG.normal(size=(40, 5)).astype(np.float32),
}


def network(params, x):
    flat = x.reshape(len(x), -1) - 128
    hidden = jnp.tanh(flat @ params["hidden"] / 10)
    return {"hidden": hidden, "top": hidden @ params["top"]}


@pytest.fixture(scope="module")
def net():
    return advjax.Network(
        network,
        SHAPE,
        WEIGHTS,
        name="tiny",
        layer="hidden",
        output="top",
        classes=tuple("abcde"),
        preprocessing=advjax.Preprocessing(crop=12),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images, a list of 21 pairs of them, and a folder by class."""
    at = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, SHAPE, np.uint8)).save(at / f"{i}.png")
    rows = [f"{s}.png,{g}.png" for s, g in itertools.permutations(range(6), 2)][:21]
    (at / "pairs.csv").write_text("\n".join(["source,guide", *rows]) + "\n")
    return at


@pytest.fixture
def pairs(folder):
    return make_pair_list(str(folder / "pairs.csv"))


def job_of(net, **options):
    options = {"batch_size": 4, "shard_size": 4} | options
    return Job(net, solver=advjax.SignMomentum(max_evaluations=12), **options)  # compiles fastest


def files_of(out):
    # A record of each session is kept as well, which no two runs have in common.
    every = (p for p in out.rglob("*") if p.is_file() and p.parent.name != "history")
    return {p.name: p.read_bytes() for p in every}


def quiet(job, pairs, out, **options):
    return run(job, pairs, out, progress=False, **options)


def test_rows_are_the_engines_results(net, folder, pairs, tmp_path):
    job = job_of(net, trace=True, keep_float32=True)
    outcome = quiet(job, pairs, tmp_path / "run")
    assert outcome == (21, 21, 0, 21, True)
    data = advjax.open_run(tmp_path / "run")
    path = str(tmp_path / "run")
    assert repr(data) == f"RunData({path!r}: 21 pairs, feature-opt on tiny)"
    rows = data.table([*data.table().column_names, "adversarial_png"]).to_pylist()
    assert [row["index"] for row in rows] == list(range(21))
    table = pairs.table.to_pylist()
    images = [(net.read(folder / r["source"]), net.read(folder / r["guide"])) for r in table]
    expected = list(job.stream((advjax.Pair(*pair) for pair in images), "hidden"))
    expected.sort(key=lambda result: result.index)
    for row, result, (source, _), entry in zip(rows, expected, images, table, strict=True):
        assert (row["id"], row["source"], row["guide"]) == tuple(
            entry[n] for n in ("id", "source", "guide")
        )
        assert row["status"] == result.status.name
        assert row["error"] is None
        for name in ("evaluations", "distance", "initial_distance", "ratio", "distance_uint8"):
            assert row[name] == getattr(result, name)
        assert row["source_label"] == result.source_label
        assert row["adversarial_uint8_label"] == result.label_uint8
        np.testing.assert_array_equal(row["trace"], np.sqrt(result.trace))
        np.testing.assert_array_equal(
            decode_image(row["adversarial_png"], "row"), result.adversarial_uint8
        )
        index = row["index"]
        np.testing.assert_array_equal(data.image(index), result.adversarial_uint8)
        np.testing.assert_array_equal(data.image_float32(index), result.adversarial)
        exact, rounded = result.adversarial[None], result.adversarial_uint8[None]
        assert row["max_change"] == np.abs(exact[0] - source).max() <= 10
        assert row["psnr_uint8"] == pytest.approx(float(psnr(source[None], rounded)[0]), rel=1e-6)
        assert row["ssim"] == pytest.approx(float(ssim(source[None], exact)[0]), rel=1e-5)


def test_a_finished_run_says_so_and_changes_nothing(net, pairs, tmp_path):
    quiet(job_of(net), pairs, tmp_path / "run")
    before = files_of(tmp_path / "run")
    assert quiet(job_of(net), pairs, tmp_path / "run") == (21, 21, 0, 0, True)
    assert files_of(tmp_path / "run") == before
    assert sorted(before) == sorted(
        [".lock", "manifest.json", "pairs.parquet"]
        + [name for name in before if name.startswith("part-")]
    )


@pytest.mark.parametrize("when", kill_run.ENDS)
@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("share", [False, True])
def test_a_run_that_fails_at_one_of_its_first_renames_goes_on(
    net, pairs, tmp_path, monkeypatch, number, when, share
):
    seen, replace = [], os.replace

    def failing(source, target):
        seen.append(target)
        if len(seen) == number and when == "before":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)
        if len(seen) == number and when == "after":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work(job):
        if share:
            return run_share(job, pairs, tmp_path / "run", 0, 1, progress=False)
        return quiet(job, pairs, tmp_path / "run")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with contextlib.suppress(AdvjaxError):  # a note of the progress may fail
            work(job_of(net))
    assert len(seen) >= number
    assert work(job_of(net)).whole
    assert verify(open_directory(tmp_path / "run")) == ([], 21, 0)


def test_a_run_that_has_not_begun_is_begun_with_other_settings(net, pairs, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(directories.pq, "write_table", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quiet(job_of(net), pairs, out)
    assert [p.name for p in sorted(out.iterdir())] == [".lock", "manifest.json", "shards"]
    assert quiet(job_of(net, delta=5.0), pairs, out).whole


@pytest.mark.parametrize("name", ["pairs.parquet", "shards/mine.txt", "mine.txt"])
def test_files_of_the_users_own_are_never_taken_for_a_run(net, pairs, tmp_path, name):
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        quiet(job_of(net), pairs, tmp_path / "run")
    assert file.read_text() == "mine"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of the compiled programs of all processes that are started here."""
    return tmp_path_factory.mktemp("processes") / "cache"


@pytest.mark.parametrize("kind", ["run", "share", "bank"])
def test_killed_at_a_first_rename_the_same_command_goes_on(kind, tmp_path, cache):
    """`kill_run.py` does it for each of the first renames."""
    few, out = kill_run.make_pairs(tmp_path / "few", 6), tmp_path / "out"
    words = kill_run.first_commands(few, out)[kind]
    killed, status, said = kill_run.kill_at_rename(words, out, cache, 1, "after")
    assert killed
    assert status == (0 if kind == "bank" else 1), said


@pytest.mark.parametrize("share", [False, True])
def test_a_longer_list_that_begins_with_the_old_extends_the_run(net, folder, tmp_path, share):
    rows = (folder / "pairs.csv").read_text().splitlines()
    out, job = tmp_path / "run", job_of(net)
    (folder / "long.csv").write_text("\n".join(rows) + "\n")

    def work(count):
        (folder / "part.csv").write_text("\n".join(rows[: count + 1]) + "\n")
        pairs = make_pair_list(str(folder / "part.csv"))
        if share:
            return run_share(job, pairs, out, 0, 1, progress=False)
        return quiet(job, pairs, out)

    assert work(6) == (6, 6, 0, 6, True)
    first = files_of(out)
    assert work(7) == (7, 7, 0, 1, True)
    assert work(21) == (21, 21, 0, 14, True)
    assert work(21) == (21, 21, 0, 0, True)
    assert verify(open_directory(out)) == ([], 21, 0)
    assert {n: c for n, c in files_of(out).items() if n in first and "part-" in n} == {
        n: c for n, c in first.items() if "part-" in n
    }
    quiet(job, make_pair_list(str(folder / "long.csv")), tmp_path / "whole")
    found, whole = (
        advjax.open_run(path).table(["id", "ratio"]) for path in (out, tmp_path / "whole")
    )
    assert found["id"] == whole["id"]
    np.testing.assert_allclose(found["ratio"], whole["ratio"], rtol=1e-5)
    with pytest.raises(RunError, match="the list has 20 pairs, the run 21"):
        work(20)
    rows[3] = "5.png,5.png"
    with pytest.raises(RunError, match="pair 2 of the list has source '5"):
        work(21)


@pytest.mark.parametrize("number", [1, 2])
def test_an_extension_that_is_interrupted_goes_on(
    net, folder, pairs, tmp_path, monkeypatch, number
):
    few = PairList(pairs.table.slice(0, 6), pairs.root)
    quiet(job_of(net), few, tmp_path / "run")
    replace, seen = os.replace, []

    def failing(source, target):
        seen.append(target)
        if len(seen) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(AdvjaxError, match="disk is full"):
            quiet(job_of(net), pairs, tmp_path / "run")
    assert quiet(job_of(net), pairs, tmp_path / "run").whole
    assert verify(open_directory(tmp_path / "run")) == ([], 21, 0)


def test_a_run_whose_images_have_been_moved_goes_on_and_is_read_there(net, folder, pairs, tmp_path):
    shutil.copytree(folder, tmp_path / "photos")
    quiet(job_of(net), make_pair_list(str(tmp_path / "photos" / "pairs.csv")), tmp_path / "run")
    os.rename(tmp_path / "photos", tmp_path / "moved")
    moved = make_pair_list(str(tmp_path / "moved" / "pairs.csv"))
    assert quiet(job_of(net), moved, tmp_path / "run") == (21, 21, 0, 0, True)
    reader = advjax.open_run(tmp_path / "run").reader(net)
    np.testing.assert_array_equal(reader("0.png"), net.read(folder / "0.png"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"delta": 5.0}, "(delta 10.0 there, 5.0 here)"),
        (
            {"solver": advjax.SignMomentum(max_evaluations=13)},
            "(max_evaluations 12 there, 13 here)",
        ),
        (
            {"solver": advjax.ProjectedLBFGS()},
            "(solver 'SignMomentum' there, 'ProjectedLBFGS' here)",
        ),
        ({"net": {"params": {**WEIGHTS, "top": WEIGHTS["top"] + 1}}}, "(the network's weights, or"),
        ({"smoothing": None}, "(smoothing {"),
    ],
)
def test_what_differs_is_said_in_words(net, pairs, tmp_path, changes, says):
    job = job_of(net)
    directories.create(tmp_path / "run", job.settings(pairs), about(job, pairs), pairs)
    changes = {
        name: dataclasses.replace(net, **value) if name == "net" else value
        for name, value in changes.items()
    }
    with pytest.raises(RunError) as error:
        quiet(dataclasses.replace(job, **changes), pairs, tmp_path / "run")
    assert says in str(error.value)
    assert re.search("[0-9a-f]{32}", str(error.value)) is None
    assert "batch_size" not in str(error.value)


def test_columns_of_the_users_own_are_in_the_rows(net, folder, tmp_path):
    rows = (folder / "pairs.csv").read_text().splitlines()
    lines = [f"{row},{i:03}" for i, row in enumerate(rows[1:6])]
    lines[2] = "none.png,0.png,002"
    (folder / "noted.csv").write_text("\n".join(["source,guide,note", *lines]) + "\n")
    quiet(job_of(net), make_pair_list(str(folder / "noted.csv")), tmp_path / "run")
    data = advjax.open_run(tmp_path / "run")
    assert data.table(["note"])["note"].to_pylist() == ["000", "001", "002", "003", "004"]
    assert "note" in data.table().column_names
    assert sorted(row["note"] for row in data.rows(["note"])) == sorted(
        pq.read_table(tmp_path / "run" / "shards")["note"].to_pylist()
    )
    assert verify(open_directory(tmp_path / "run")) == ([], 5, 1)


def test_what_a_folders_name_says_is_no_column(net, pairs, tmp_path):
    """Readers of Parquet take `delta=5` for a column of all files below."""
    out = tmp_path / "delta=5" / "layer=none" / "run"
    quiet(job_of(net), pairs, out)
    assert quiet(job_of(net), pairs, out) == (21, 21, 0, 0, True)
    data = advjax.open_run(out)
    assert set(data.table(["delta"])["delta"].to_pylist()) == {10.0}
    assert {row["layer"] for row in data.rows()} == {"hidden"}
    assert verify(data.directory) == ([], 21, 0)


def test_clocks_that_differ_make_no_negative_age(net, pairs, tmp_path, capsys):
    job = job_of(net)
    directory = directories.create(tmp_path / "run", job.settings(pairs), about(job, pairs), pairs)
    display = Display(directory.path / "note", 21, 0, 0, job.budget, False)
    note = display.figures(Tally(0, 0, 0, 0.0)) | {"time": time.time() + 500}
    files.write_text(directory.path / "unfinished" / "progress-0.json", json.dumps(note))
    with lock.locked(directory.path):
        assert cli.main(["run", "status", str(directory.path)]) == 0
    assert ", 0 s ago: " in capsys.readouterr().out


@pytest.mark.parametrize("start", ["source", "random"])
def test_stopped_again_and_again_it_leaves_the_files_of_one_that_was_not(
    net, pairs, tmp_path, start, monkeypatch
):
    """Each resumed run stops at its second look, which may leave blocks unfinished.

    A record of each session is kept beside the rows.
    """
    monkeypatch.setattr("sys.argv", ["/usr/bin/advjax", "run", "my pairs.csv", "--out", "run"])
    named = {"pairs": "my pairs.csv", "weights": "w.safetensors", "mean": None}
    job = job_of(net, start=start, seed=3)
    quiet(job, pairs, tmp_path / "whole")

    class Second(threading.Event):
        """An event that is set when it is asked for the second time; the first look is a step."""

        def is_set(self):
            before = super().is_set()
            self.set()
            return before

    outcomes = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "advjax.runs.driver.stop_requests",
            lambda: directories.contextlib.nullcontext(Second()),
        )
        while not outcomes or not outcomes[-1].whole:
            outcomes.append(quiet(job, pairs, tmp_path / "stopped", named=named))
            assert verify(open_directory(tmp_path / "stopped"))[0] == []
            assert len(outcomes) < 22
    assert len(outcomes) > 3
    assert sum(outcome.new for outcome in outcomes) == 21
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
    assert quiet(job, pairs, tmp_path / "stopped").new == 0  # nothing to do is no session
    history = advjax.open_run(tmp_path / "stopped").history
    assert [session["pairs"] for session in history] == [o.new for o in outcomes if o.new]
    for session in history:
        assert session["command"] == "advjax run 'my pairs.csv' --out run"
        assert session["files"] == {"pairs": "my pairs.csv", "weights": "w.safetensors"}
        assert session["start"] <= session["end"]
        assert session["versions"]["advjax"] == advjax.__version__
    page = write_report(tmp_path / "stopped").read_text()
    assert "my pairs.csv&#39; --out run" in page
    assert f"<dt>sessions</dt><dd>{len(history)}</dd>" in page


def test_ctrl_c_ends_after_the_chunk_with_everything_finished_written(net, pairs, tmp_path):
    job = job_of(net)
    tally = []
    done: dict = {}
    kept: dict = {}

    def watch(at):
        tally.append(at)
        if len(tally) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return stop.is_set()

    from advjax.runs.driver import stop_requests

    directory = directories.create(
        tmp_path / "run", job.settings(pairs), {"root": "/", "classes": None}, pairs
    )
    tasks = [Task(block) for block in directory.blocks(pairs)]
    before = signal.getsignal(signal.SIGINT)
    with stop_requests() as stop:
        whole, last = attack_blocks(
            job, pairs, iter(tasks), finish=done.__setitem__, keep=kept.__setitem__, watch=watch
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert not whole
    rows = sum(len(rows) for rows in (done | kept).values())
    assert 0 < rows == last.rows < 21


def test_bad_pairs_are_rows_with_their_error(net, folder, tmp_path):
    for path in folder.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-60])
    (tmp_path / "small.png").write_bytes(b"")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "little.png")
    bad = ["nowhere.png,1.png", "1.png,cut.png", "small.png,2.png", "little.png,0.png", ".,0.png"]
    good = ["0.png,1.png", "1.png,2.png", "2.png,3.png"]
    lines = [line for pair in itertools.zip_longest(bad, good) for line in pair if line]
    (tmp_path / "list.csv").write_text("\n".join(["source,guide", *lines]) + "\n")
    pairs = make_pair_list(str(tmp_path / "list.csv"))
    outcome = quiet(job_of(net), pairs, tmp_path / "run")
    assert (outcome.done, outcome.failed, outcome.whole) == (8, 5, True)
    rows = advjax.open_run(tmp_path / "run").table().to_pylist()
    for row, line in zip(rows, lines, strict=True):
        assert (row["status"] == "ERROR") == (line in bad)
        assert (row["error"] is not None) == (line in bad)
        assert (row["distance"] is None) == (line in bad)
    errors = {f"{row['source']},{row['guide']}": row["error"] for row in rows}
    for line, says in zip(
        bad, ["check the path", "truncated", "empty", "crop", "directory"], strict=True
    ):
        assert says in errors[line]
    # The good ones do not mind, and the bad ones can be mended.
    expected = {row["id"]: row for row in rows if row["error"] is None}
    (tmp_path / "nowhere.png").write_bytes(whole)
    (tmp_path / "cut.png").write_bytes(whole)
    again = quiet(job_of(net), pairs, tmp_path / "run")
    assert (again.failed, again.new) == (5, 0)
    retried = quiet(job_of(net), pairs, tmp_path / "run", retry_failed=True)
    assert (retried.done, retried.failed, retried.new) == (8, 3, 5)
    rows = advjax.open_run(tmp_path / "run").table().to_pylist()
    assert [row["index"] for row in rows] == list(range(8))
    assert {row["id"]: row for row in rows if row["id"] in expected} == expected
    assert verify(open_directory(tmp_path / "run")) == ([], 8, 3)


def test_a_source_deleted_in_mid_run_costs_its_own_pairs_alone(net, folder, tmp_path):
    for path in folder.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = [f"{s}.png,{g}.png" for s, g in itertools.permutations(range(5), 2)] + ["5.png,0.png"]
    (tmp_path / "list.csv").write_text("\n".join(["source,guide", *rows]) + "\n")
    pairs, job, done = make_pair_list(str(tmp_path / "list.csv")), job_of(net), {}
    blocks = directories.cut(np.array(["hidden"] * len(pairs), object), 4)

    def tasks():
        for block in blocks:
            if block is blocks[-1]:
                (tmp_path / "5.png").unlink()
            yield Task(block)

    whole, last = attack_blocks(job, pairs, tasks(), finish=done.__setitem__)
    assert (whole, last.rows, last.failed) == (True, 21, 1)
    (row,) = done[blocks[-1].number].to_pylist()
    assert (row["source"], row["status"]) == ("5.png", "ERROR")
    assert "No such file" in row["error"]


def test_only_bad_pairs(net, tmp_path):
    (tmp_path / "list.csv").write_text("source,guide\na.png,b.png\nb.png,a.png\n")
    outcome = quiet(job_of(net), make_pair_list(str(tmp_path / "list.csv")), tmp_path / "run")
    assert outcome == (2, 2, 2, 2, True)


def test_layers_and_deltas_of_pairs(net, folder, tmp_path):
    names = [f"{i}.png" for i in range(6)]
    rows = [
        f"{folder}/{names[i % 6]},{folder}/{names[(i + 1) % 6]},{layer},{delta}"
        for i, (layer, delta) in enumerate([("top", ""), ("", 2), ("", ""), ("top", 5)] * 3)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["source,guide,layer,delta", *rows]) + "\n")
    pairs = make_pair_list(str(tmp_path / "list.csv"))
    assert quiet(job_of(net, delta=8.0), pairs, tmp_path / "run").whole
    for row in advjax.open_run(tmp_path / "run").table().to_pylist():
        layer, delta = [("top", 8), ("hidden", 2), ("hidden", 8), ("top", 5)][row["index"] % 4]
        assert (row["layer"], row["delta"]) == (layer, delta)
        assert row["max_change"] <= delta
        source, guide = net.read(row["source"]), net.read(row["guide"])
        a, b = (np.asarray(net(image[None], layer)[layer])[0] for image in (source, guide))
        assert row["initial_distance"] == pytest.approx(np.linalg.norm(a - b), rel=1e-5)
    (tmp_path / "list.csv").write_text("source,guide,layer\na,b,hiden\n")
    with pytest.raises(UnknownName, match="did you mean 'hidden'"):
        quiet(job_of(net), make_pair_list(str(tmp_path / "list.csv")), tmp_path / "other")
    assert not (tmp_path / "other" / "manifest.json").exists()


@pytest.mark.parametrize("attack", ["label-opt", "feature-fgrad"])
def test_other_attacks(net, pairs, tmp_path, attack):
    few = PairList(pairs.table.slice(0, 3), pairs.root)
    job = Job(net, attack=attack, batch_size=4) if "fgrad" in attack else job_of(net, attack=attack)
    assert quiet(job, few, tmp_path / "run") == (3, 3, 0, 3, True)


def test_other_settings_are_refused(net, pairs, folder, tmp_path):
    quiet(job_of(net), pairs, tmp_path / "run")
    before = files_of(tmp_path / "run")
    few = PairList(pairs.table.slice(1), pairs.root)
    other = advjax.Network(network, SHAPE, {k: v + 1 for k, v in WEIGHTS.items()}, name="tiny")
    for job, list_, says in (
        (job_of(net, delta=5.0), pairs, "delta 10.0 there, 5.0 here"),
        (job_of(net, batch_size=8), pairs, "batch_size 4 there, 8 here"),
        (job_of(net), few, "(pair 0 of the list has id '0001', of the run '0000')"),
        (job_of(other), pairs, "the network's weights, or its mean, are others"),
        (Job(net, batch_size=4, shard_size=4), pairs, "(max_evaluations 12 there, 500 here;"),
    ):
        with pytest.raises(RunError) as error:
            quiet(job, list_, tmp_path / "run")
        assert says in str(error.value)
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": "auto"}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"shard_size": 0}, "shard_size"),
        ({"attack": "feature"}, "attack 'feature' is not known"),
        ({"layer": "hide"}, "hide"),
    ],
)
def test_jobs_that_cannot_be(net, options, says):
    with pytest.raises(AdvjaxError, match=says):
        job_of(net, **options)


def test_shares_together_are_the_run(net, pairs, tmp_path):
    quiet(job_of(net), pairs, tmp_path / "one")
    for index in (1, 0, 2):
        outcome = run_share(job_of(net), pairs, tmp_path / "three", index, 3, progress=False)
        assert outcome.whole
    assert files_of(tmp_path / "three") == files_of(tmp_path / "one")
    with pytest.raises(AdvjaxError, match="share is 3 of 3"):
        run_share(job_of(net), pairs, tmp_path / "three", 3, 3)


def test_shares_lock_each_other_out_only_where_they_must(tmp_path):
    def share(index, count):
        return lock.locked_share(tmp_path, index, count, lambda: None, wait=0.1)

    with share(0, 2), share(1, 2):
        for refused in (share(0, 2), share(0, 3), lock.locked(tmp_path)):
            with pytest.raises(RunError, match="another process"), refused:
                pass
    with lock.locked(tmp_path), pytest.raises(RunError, match="another process"), share(0, 2):
        pass
    with share(0, 3):
        pass
    assert os.listdir(tmp_path) == [".lock"]


def test_a_full_disk_ends_the_run_with_what_it_has(net, pairs, tmp_path, monkeypatch):
    """The third shard finds no room: an error, no half file, and the run goes on later."""
    real, written = directories.files.write_bytes, []

    def write(path, content):
        if Path(path).parent.name in ("shards", "unfinished"):
            if len(written) >= 2:
                raise AdvjaxError(f"cannot write {str(path)!r}: No space left on device")
            written.append(path)
        real(path, content)

    quiet(job_of(net), pairs, tmp_path / "whole")
    directories.create(tmp_path / "run", *_created(tmp_path / "whole"), pairs)
    with monkeypatch.context() as patch:
        patch.setattr(directories.files, "write_bytes", write)
        patch.setattr("advjax.runs.progress.NOTED", 1e9)
        with pytest.raises(AdvjaxError, match="No space left"):
            quiet(job_of(net), pairs, tmp_path / "run")
    wrong, rows, _ = verify(open_directory(tmp_path / "run"))
    assert (wrong, rows) == ([], 8)
    assert quiet(job_of(net), pairs, tmp_path / "run").new == 13
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


def _created(out):
    """What `create` was given."""
    manifest = json.loads((out / "manifest.json").read_text())
    info = {n: manifest[n] for n in ("root", "classes", "versions", "devices")}
    return manifest["settings"], info


def test_a_damaged_shard_ends_a_resumed_run(net, pairs, tmp_path):
    quiet(job_of(net), pairs, tmp_path / "run")
    whole = files_of(tmp_path / "run")
    path = sorted((tmp_path / "run" / "shards").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RunError, match=path.name):
        quiet(job_of(net), pairs, tmp_path / "run")
    path.unlink()
    assert quiet(job_of(net), pairs, tmp_path / "run").new == 4
    assert files_of(tmp_path / "run") == whole


def test_reading_lazily(net, pairs, tmp_path):
    quiet(job_of(net, trace=True), pairs, tmp_path / "run")
    data = advjax.open_run(tmp_path / "run")
    assert (len(data), data.pairs, data.classes) == (21, 21, tuple("abcde"))
    assert data.settings["delta"] == 10.0
    assert "adversarial_png" not in data.table().column_names
    import pyarrow.dataset as ds

    some = data.table(["ratio", "id"], filter=ds.field("index") >= 19)
    assert some.column_names == ["ratio", "id"]
    assert some["id"].to_pylist() == ["0019", "0020"]
    assert [row["index"] for row in data.rows(["index"])] == list(range(21))
    pandas = pytest.importorskip("pandas")
    assert isinstance(data.to_pandas(["ratio"]), pandas.DataFrame)
    with pytest.raises(UnknownName, match="did you mean 'ratio'"):
        data.table(["ratoi"])
    with pytest.raises(RunError, match="has no row"):
        data.image(21)
    with pytest.raises(RunError, match="was not kept"):
        data.image_float32(0)
    with pytest.raises(RunError, match="holds no run"):
        advjax.open_run(tmp_path)


# The command line, with LeNet.

LENET = "--network lenet --weights orthonormal --max-evaluations 4 --batch-size 4 --shard-size 4"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    at = tmp_path_factory.mktemp("digits")
    kill_run.make_pairs(at, 9)
    return at


@pytest.fixture
def command(capsys):
    """(exit status, standard output, standard error)."""

    def command(*words):
        status = cli.main([str(word) for word in words])
        return status, *capsys.readouterr()

    return command


def test_the_command(command, digits, tmp_path):
    out = tmp_path / "run"
    words = ("run", digits / "pairs.csv", "--out", out, *LENET.split())
    status, said, err = command(*words)
    assert status == 1
    reasons = err.splitlines()  # each once, with its number
    assert all(line.startswith("advjax: 1 failed: image ") for line in reasons)
    assert len(reasons) == 2
    assert f"'advjax report {out}' makes a page of it" in said
    assert "9 pairs in" in said
    assert "2 failed" in said
    status, said, _ = command(*words)
    assert (status, said[:17]) == (1, "finished already:")
    assert command(*words, "--quiet") == (1, "", "")
    status, said, _ = command("run", "status", out, "--json")
    figures = {"state": "finished", "pairs": 9, "done": 9, "failed": 2, "processes": []}
    assert (status, json.loads(said)) == (0, figures)
    status, said, _ = command("run", "status", out)
    assert (status, said) == (0, f"{out}: finished; 9 of 9 pairs on disk, 2 failed\n")
    for check in (("run", "--verify", out), ("run", "verify", out)):
        status, said, _ = command(*check)
        assert status == 0
        assert "whole; 9 of 9" in said
    status, _, err = command(*words, "--delta", 5)
    assert status == 2
    assert "delta 10.0 there, 5.0 here" in err
    (path, *_) = sorted((out / "shards").iterdir())
    path.write_bytes(path.read_bytes() + b"x")
    status, said, err = command("run", "--verify", out)
    assert status == 2
    assert path.name in err
    assert "1 thing is wrong" in said
    (out / "manifest.json").write_text((out / "manifest.json").read_text().replace("10.0", "9.0"))
    for again in (("run", "--verify", out), ("run", "status", out), words):
        status, said, err = command(*again)
        assert (status, said, len(err.splitlines())) == (2, "", 1)
        assert "was edited" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pairs.csv",), "name the run's directory with --out"),
        (("a", "b", "--out", "x"), "give one list or folder"),
        (("nowhere", "--out", "x"), "'nowhere' is not a directory"),
        (("nowhere.csv", "--out", "x"), "cannot be read"),
        (("status", "nowhere"), "holds no run"),
        (("--verify", "nowhere"), "holds no run"),
        (("pairs.csv", "--out", "x", "--solver", "bfgs"), "did you mean 'lbfgs'?"),
        (("pairs.csv", "--out", "x", "--share", "1of2"), "give I/N"),
        (("pairs.csv", "--out", "x", "--share", "2/2"), "share is '2/2'; give 0/2 to 1/2"),
        (("pairs.csv", "--out", "pairs.csv"), "out 'pairs.csv"),
        (("pairs.csv", "--out", "/proc/advjax"), "out '/proc/advjax"),
        (("pairs.csv", "--out", "x", "--delta", "-1"), "delta is -1"),
        (("pairs.csv", "--out", "x", "--start", "end"), "start 'end' is not known"),
        (("pairs.csv", "--out", "x", "--pairing", "random"), "give a count"),
    ],
)
def test_mistakes_are_one_line(words, says, command, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text("source,guide\na.png,b.png\n")
    network = () if words[0] in ("status", "--verify") else LENET.split()
    status, out, err = command("run", *words, *network)
    assert (status, out) == (2, "")
    assert err.startswith("advjax: ")
    assert len(err.splitlines()) == 1
    assert says in err
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_dry_run_writes_nothing(command, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("advjax.runs.dry_run.MEASURED", 0.2)
    status, said, err = command("run", digits / "pairs.csv", "--dry-run", *LENET.split())
    assert (status, err) == (0, "")
    assert "9 pairs of " in said
    assert "3 batches of 4" in said
    assert "time: at most" in said
    assert list(tmp_path.iterdir()) == []


def test_no_more_lanes_than_pairs(command, digits, tmp_path, monkeypatch):
    """And the setting is the number that was given, so that more pairs may come."""
    lanes = []

    def stream(*args, batch_size, **options):
        lanes.append(batch_size)
        return engine.attack_stream(*args, batch_size=batch_size, **options)

    monkeypatch.setattr("advjax.runs.pipeline.attack_stream", stream)
    words = ("run", digits / "pairs.csv", "--out", tmp_path, *LENET.split(), "--batch-size", "32")
    for _ in range(2):  # resuming, it is the same again
        status, _, err = command(*words)
        assert (status, len(err.splitlines())) == (1, 2)  # two pairs fail, each for its reason
    assert advjax.open_run(tmp_path).settings["batch_size"] == 32
    assert set(lanes) == {32, 9}  # those of 32 are checks of the settings, without pairs


def test_a_dry_run_counts_the_lanes_that_stay_empty(net, pairs, monkeypatch):
    monkeypatch.setattr("advjax.runs.dry_run.MEASURED", 0.1)
    for batch_size, lanes in ((len(pairs) - 5, 2 * (len(pairs) - 5)), (99, len(pairs))):
        job = job_of(net, batch_size=batch_size)
        found = dry_run(job, pairs)
        assert found["seconds"] * found["rate"] == pytest.approx(lanes * job.budget)


def test_killed_at_random_moments(tmp_path, cache):
    """As `python tests/kill_run.py`, with fewer kills."""
    pairs = kill_run.make_pairs(tmp_path, 120)
    rng = random.Random(0)
    kill_run.kill_at_random(pairs, tmp_path / "whole", cache, 0, rng)
    kills = kill_run.kill_at_random(pairs, tmp_path / "killed", cache, 2, rng)
    assert kills > 0
    assert kill_run.content(tmp_path / "killed") == kill_run.content(tmp_path / "whole")


def test_ctrl_c_and_status_from_another_shell(tmp_path, command, cache):
    """A run of many pairs, watched, refused to a second process, and interrupted."""
    pairs, out = kill_run.make_pairs(tmp_path, 3000), tmp_path / "run"
    process = subprocess.Popen(
        kill_run.command(pairs, out),
        env=kill_run.environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not list(out.glob("shards/*.parquet")) and time.monotonic() < until:
        time.sleep(0.05)
    status, said, _ = command("run", "status", out)
    assert status == 0
    assert "at work" in said
    status, _, err = command(*kill_run.command(pairs, out)[3:])
    assert status == 2
    assert "another process is at work" in err
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped with" in err
    assert "Traceback" not in err
    _, said, _ = command("run", "status", out)
    assert "stopped; " in said
    wrong, rows, _ = verify(open_directory(out))
    assert wrong == []
    assert 0 < rows < 3000
    assert f"stopped with {rows:,} of 3,000" in err
    assert not list(out.rglob(".*.part*"))
    assert len(pq.read_table(out / "shards")) <= rows


def test_importing_advjax_imports_no_pyarrow():
    code = "import advjax, sys; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
