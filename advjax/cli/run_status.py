"""The commands `advjax run status` and `advjax run verify`."""

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from advjax.cli.parser import Command
from advjax.errors import AdvjaxError


def _directory(path: Path) -> Any:
    from advjax.runs.directory import open_directory

    directory = open_directory(path)
    if directory is None:
        raise AdvjaxError(f"{str(path)!r} holds no run; give the directory that --out named")
    return directory


@dataclasses.dataclass(frozen=True)
class Verify(Command):
    """Check the files of a run.

    Attributes:
        folder: The run's directory.
    """

    arguments: ClassVar = {"folder": "DIR"}
    examples: ClassVar = ("advjax run verify run",)
    folder: Path

    def run(self) -> int:
        """Run the command; the exit status is 2 when something is wrong."""
        return _verify(self.folder)


@dataclasses.dataclass(frozen=True)
class Status(Command):
    """Say how far a run is.

    Attributes:
        folder: The run's directory.
        json: Print JSON.
    """

    arguments: ClassVar = {"folder": "DIR"}
    groups: ClassVar = {"output": ("json",)}
    examples: ClassVar = ("advjax run status run", "advjax run status run --json")
    folder: Path
    json: bool = False

    def run(self) -> int:
        """Run the command."""
        return _status(self.folder, self.json)


def _verify(path: Path) -> int:
    from advjax.runs.directory import verify

    directory = _directory(path)
    wrong, rows, failed = verify(directory)
    for line in wrong:
        print(f"advjax: {line}", file=sys.stderr)
    pairs = directory.manifest["pairs"]
    state = "whole" if rows == pairs else "unfinished"
    if wrong:
        state = f"{len(wrong)} things are wrong" if len(wrong) > 1 else "1 thing is wrong"
    print(f"{path}: {state}; {rows:,} of {pairs:,} pairs have a row, {failed:,} of them failed")
    return 2 if wrong else 0


def _status(path: Path, as_json: bool) -> int:
    from advjax.runs.directory import UNFINISHED, count_rows
    from advjax.runs.lock import is_locked
    from advjax.runs.progress import described

    directory = _directory(path)
    shards, rests = count_rows(directory)
    counts = [*shards.values(), *rests.values()]
    rows, failed = sum(c.rows for c in counts), sum(c.failed for c in counts)
    total = directory.manifest["pairs"]
    state = "finished" if rows == total else "at work" if is_locked(path) else "stopped"
    notes = []
    for file in sorted((path / UNFINISHED).glob("progress-*.json")) if state == "at work" else ():
        with contextlib.suppress(OSError, ValueError):
            notes.append(json.loads(file.read_text()))
    if as_json:
        figures = {"state": state, "pairs": total, "done": rows, "failed": failed}
        print(json.dumps(figures | {"processes": notes}))
        return 0
    print(f"{path}: {state}; {rows:,} of {total:,} pairs on disk, {failed:,} failed")
    for at in notes:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            ago = max(0.0, time.time() - at["time"])  # clocks differ
            print(f"{at['host']} {at['process']}, {ago:.0f} s ago: {described(at)}")
    return 0
