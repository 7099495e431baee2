import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advjax import files
from advjax.errors import AdvjaxError
from advjax.runs import directory as directories
from advjax.runs import lock
from advjax.runs.directory import RunError, count_rows, cut, open_directory, verify
from advjax.runs.pair_list import COLUMNS, PairList
from advjax.runs.reading import RunData
from advjax.runs.rows import table_of
from advjax.runs.schema import ERROR, SCHEMA

SETTINGS = {"network": "n", "layer": "fc7", "delta": 10.0, "shard_size": 4}
INFO = {"root": "/", "classes": None}


def work(count=10, layers=None):
    rows = [
        {"id": f"{i:04d}", "source": "s.png", "guide": f"{i}.png", "layer": layers and layers[i]}
        for i in range(count)
    ]
    return PairList(pa.Table.from_pylist(rows, COLUMNS), None)


def row(place, status="MAX_EVALUATIONS", **more):
    return {
        "index": place,
        "id": f"{place:04d}",
        "source": "s.png",
        "guide": f"{place}.png",
        "layer": "fc7",
        "status": status,
        "ratio": 0.1 + place,
        "trace": np.arange(3, dtype=np.float32) / (1 + place),
        "adversarial_png": bytes([place]) * 50,
        **more,
    }


@pytest.fixture
def directory(tmp_path):
    pairs = work()
    out = tmp_path / "run"
    return directories.create(out, SETTINGS | {"pairs": pairs.sha256()}, INFO, pairs)


@pytest.fixture
def whole(directory):
    for block in directory.blocks(directory.pairs()):
        directory.finish(block.number, table_of([row(int(place)) for place in block.indices]))
    return directory


def listing(directory):
    return sorted(path.name for path in (directory.path / "shards").iterdir())


def test_blocks_hold_each_pair_once_and_one_layer():
    layers = np.array(["a", "b", "a", "a", "b", "a", "a"], object)
    blocks = cut(layers, 2)
    assert [(b.number, b.layer, b.indices.tolist()) for b in blocks] == [
        (0, "a", [0, 2]),
        (1, "a", [3, 5]),
        (2, "a", [6]),
        (3, "b", [1, 4]),
    ]


@pytest.mark.parametrize("unfinished", [False, True])
def test_rows_of_another_version_are_read_by_name(directory, monkeypatch, unfinished):
    """An older version had no trace; a newer one has a column that is not known here."""
    write = directory.keep if unfinished else directory.finish
    (block, *_) = directory.blocks(directory.pairs())
    indices = [int(place) for place in block.indices][: 3 if unfinished else 4]
    rows = table_of([row(place) for place in indices[:-1]] + [row(indices[-1], ERROR)])
    older = rows.drop_columns(["trace"]).append_column("hue", pa.array([0.5] * len(indices)))
    write(block.number, older)
    wrong, count, failed = verify(directory)
    assert (wrong, count, failed) == ([], len(indices), 1)
    kept = directory.known(block.number, failed=False)
    assert kept is not None
    assert kept.schema.equals(SCHEMA)
    assert kept["index"].to_pylist() == indices[:-1]
    assert kept["trace"].null_count == len(kept)
    # Retried and written again, the block has one schema.
    directory.finish(block.number, pa.concat_tables([kept, table_of([row(indices[-1])])]))
    data = RunData(directory)
    assert [r["trace"] is None for r in data.rows(["trace"])] == [True] * (len(indices) - 1) + [
        False
    ]
    assert data.table(["ratio", "trace"]).num_rows == len(indices)


def test_a_newer_format_is_refused(directory):
    path = directory.path / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format": 2}
    del manifest["sha256"]
    manifest["sha256"] = directories._digest(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="has format 2; this version reads 1 and older"):
        open_directory(directory.path)


def test_what_is_written_is_what_is_read(directory):
    rows = [row(i) for i in range(3)] + [row(3, ERROR, error="no such file", ratio=None)]
    directory.finish(0, table_of(rows))
    found = pq.read_table(directory.path / "shards" / listing(directory)[0])
    assert found.schema.equals(SCHEMA)
    for there, given in zip(found.to_pylist(), rows, strict=True):
        for name, value in there.items():
            expected = given.get(name)
            if name == "trace":
                expected = expected.tolist()
            assert value == expected, name


def test_a_shards_bytes_do_not_depend_on_the_order_of_its_rows(directory, tmp_path):
    rows = [row(i) for i in range(4)]
    directory.finish(0, table_of(rows))
    other = directories.create(
        tmp_path / "other", directory.manifest["settings"], INFO, directory.pairs()
    )
    other.finish(0, pa.concat_tables([table_of(rows[3:]), table_of(rows[:3][::-1])]))
    assert listing(directory) == listing(other)
    # By way of an unfinished block, too.
    other.keep(1, table_of([row(6)]))
    kept = other.known(1).replace_schema_metadata(None)
    other.finish(1, pa.concat_tables([kept, table_of([row(7), row(4), row(5)])]))
    directory.finish(1, table_of([row(i) for i in range(4, 8)]))
    assert listing(directory) == listing(other)
    assert not list((other.path / "unfinished").iterdir())


def test_readable_as_they_are(whole, tmp_path):
    import duckdb
    import pandas

    folder = tmp_path / "delta=5" / "run" / "shards"  # looks like a partition to DuckDB
    shutil.copytree(whole.path / "shards", folder)
    rows = pandas.read_parquet(whole.path / "shards")
    assert rows["index"].tolist() == list(range(10))
    shards = f"read_parquet('{folder}/*.parquet', hive_partitioning = false)"
    query = f"select count(*), avg(ratio), any_value(delta) from {shards}"
    ((count, mean, delta),) = duckdb.sql(query).fetchall()
    assert (count, mean) == (10, pytest.approx(4.6))
    assert delta is None  # as in the rows; the path would say 5


def test_replacing_a_shard_leaves_one(whole):
    before = listing(whole)
    whole.finish(1, table_of([row(i, ratio=7.0) for i in range(4, 8)]))
    after = listing(whole)
    assert len(after) == len(before)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert verify(whole) == ([], 10, 0)


@pytest.mark.parametrize("moment", ["old removed", "new written"])
def test_a_replacement_cut_short_loses_and_doubles_nothing(whole, moment, monkeypatch):
    """A process that dies between any two steps."""
    real, killed = directories._write, RuntimeError("killed")

    def write(path, content):
        if path.parent.name == "shards" and moment == "old removed":
            raise killed
        real(path, content)
        if path.parent.name == "shards":
            raise killed

    with monkeypatch.context() as patch:
        patch.setattr(directories, "_write", write)
        with pytest.raises(RuntimeError):
            whole.finish(1, table_of([row(i, ratio=7.0) for i in range(4, 8)]))
    wrong, rows, _ = verify(whole)
    assert (wrong, rows) == ([], 10)
    assert whole.known(1)["ratio"].to_pylist() == [7.0] * 4
    whole.finish(1, whole.known(1))
    assert (len(listing(whole)), verify(whole)) == (3, ([], 10, 0))


def test_truncated(whole):
    path = whole.path / "shards" / listing(whole)[1]
    path.write_bytes(path.read_bytes()[:-20])
    (line,), rows, _ = verify(whole)
    assert path.name in line
    assert "delete it" in line
    assert rows == 6
    with pytest.raises(RunError, match=path.name):
        count_rows(whole)


def test_every_flipped_bit_is_found(whole):
    path = whole.path / "shards" / listing(whole)[1]
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 40):
        changed = bytearray(content)
        changed[place] ^= 1 << int(place) % 8
        path.write_bytes(changed)
        (line,), _, _ = verify(whole)
        assert path.name in line


def test_shards_that_do_not_belong(whole, tmp_path):
    pairs = whole.pairs()
    other = directories.create(
        tmp_path / "other", whole.manifest["settings"] | {"delta": 5.0}, INFO, pairs
    )
    other.finish(1, table_of([row(i) for i in range(4, 8)]))
    (name,) = listing(other)
    foreign = (other.path / "shards" / name).read_bytes()
    (whole.path / "shards" / name).write_bytes(foreign)
    wrong, _, _ = verify(whole)
    assert any("another run" in line for line in wrong)
    os.unlink(whole.path / "shards" / name)
    moved = listing(whole)[0].replace("part-00000", "part-00001")
    os.rename(whole.path / "shards" / listing(whole)[1], tmp_path / "away")
    os.rename(whole.path / "shards" / listing(whole)[0], whole.path / "shards" / moved)
    wrong, _, _ = verify(whole)
    assert any("does not hold the pairs of its block" in line for line in wrong)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["settings"].update(delta=5.0),
        lambda m: m.update(pairs=9),
        lambda m: m.pop("sha256"),
        lambda m: m.update(settings_sha256="0" * 64),
    ],
)
def test_an_edited_manifest_is_refused(directory, edit):
    path = directory.path / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest, indent=2))
    with pytest.raises(RunError, match=r"manifest\.json"):
        open_directory(directory.path)


def test_a_manifest_that_is_no_json(directory):
    for text in ("{", "[]", "", '{"sha256": 1}', "[" * 100_000):
        (directory.path / "manifest.json").write_text(text)
        with pytest.raises(RunError, match=r"manifest\.json"):
            open_directory(directory.path)


def test_a_changed_pair_list_is_refused(directory):
    table = pq.read_table(directory.path / "pairs.parquet")
    pq.write_table(table.slice(1), directory.path / "pairs.parquet")
    with pytest.raises(RunError, match="changed since"):
        directory.pairs()
    assert "changed since" in verify(directory)[0][0]
    (directory.path / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="cannot be read"):
        directory.pairs()


def test_other_settings_are_named(directory):
    with pytest.raises(RunError) as error:
        directories.check_same(
            directory, directory.manifest["settings"] | {"delta": 5.0, "network": "m"}
        )
    assert "delta 10.0 there, 5.0 here" in str(error.value)
    assert "network 'n' there, 'm' here" in str(error.value)
    assert "fc7" not in str(error.value)
    directories.check_same(directory, directory.manifest["settings"])


def test_a_folder_with_something_else(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="not empty"):
        directories.create(tmp_path, SETTINGS, INFO, work())
    assert os.listdir(tmp_path) == ["thesis.tex"]
    assert open_directory(tmp_path) is None


def test_clean_removes_what_a_killed_process_left(whole):
    kill = (
        "import os, pathlib, sys; from advjax import files\n"
        "with files.atomic_path(pathlib.Path(sys.argv[1])) as path:\n"
        "    path.write_bytes(b'PAR1'); os.kill(os.getpid(), 9)"
    )
    for folder in ("", "shards", "unfinished"):
        (whole.path / folder).mkdir(exist_ok=True)
        command = [sys.executable, "-c", kill, whole.path / folder / "part-00000.parquet"]
        assert subprocess.run(command).returncode == -9
    assert len(list(whole.path.rglob(".*.part.parquet"))) == 3
    before = listing(whole)
    whole.clean()
    whole.tidy()
    assert listing(whole) == [name for name in before if not name.startswith(".")]
    assert not (whole.path / "unfinished").exists()
    assert not list(whole.path.rglob("*.part*"))


def test_clean_leaves_what_others_are_writing(directory):
    """A process of this machine that is alive; one of another machine, within the hour."""
    there = directory.path / "shards"
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as alive:
        mine = there / f".{files._HOST}-{alive.pid}-0123456789abcdef.part.parquet"
        fresh, old = (there / f".abcdef01-{i}-0123456789abcdef.part.parquet" for i in (1, 2))
        for path in (mine, fresh, old):
            path.write_bytes(b"PAR1")
        os.utime(old, (old.stat().st_mtime - 2 * files.OLD,) * 2)
        directory.clean()
        assert sorted(there.iterdir()) == sorted([mine, fresh])
        alive.communicate(b"\n")
    directory.clean()
    assert list(there.iterdir()) == [fresh]


def test_what_is_not_whole_is_not_tidied_away(directory):
    (directory.path / "unfinished").mkdir()
    directory.tidy()
    assert (directory.path / "unfinished").exists()


def test_a_damaged_unfinished_block_is_done_again(directory):
    directory.keep(2, table_of([row(8)]))
    assert directory.known(2)["index"].to_pylist() == [8]
    (path,) = directory.unfinished().values()
    path.write_bytes(path.read_bytes()[:-9])
    assert directory.known(2) is None
    assert "done again" in verify(directory)[0][0]


def test_the_lock_is_one_processes_and_ends_with_it(directory):
    holder = (
        "import sys, pathlib; from advjax.runs import lock\n"
        "with lock.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(directory.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert lock.is_locked(directory.path)
    with (
        pytest.raises(RunError, match="another process is at work"),
        lock.locked(directory.path),
    ):
        pass
    process.kill()
    process.communicate()
    assert not lock.is_locked(directory.path)
    with lock.locked(directory.path):
        pass


def test_directories_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "below", "/proc/advjax"):
        with (
            pytest.raises(AdvjaxError, match="cannot write"),
            lock.locked(type(tmp_path)(path)),
        ):
            pass
