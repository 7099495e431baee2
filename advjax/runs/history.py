"""Where the rows of a run come from: a record of each session, beside the manifest.

A session is the work of one process on a run, from its start to its end. Its record is a file of
its own in `DIR/history`, so that processes which share a run never write the same one. Rows and
manifest do not depend on it: however often a run was resumed, its shards are the same bytes.
"""

import contextlib
import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advjax import files
from advjax.display import versions
from advjax.errors import AdvjaxError

HISTORY = "history"
PACKAGES = ("advjax", "jax", "jaxlib", "flax", "numpy", "pyarrow", "pillow")


@contextlib.contextmanager
def session(
    folder: Path, named: Mapping[str, Any] | None, devices: str, share: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, Any]]:
    """Record a session in a run's folder: at its start, and again at its end.

    The record of a killed process has no `end`.

    Args:
        folder: The run's directory.
        named: Names of the files behind the hashes of the manifest: pairs, weights, ...
        devices: The devices of this process.
        share: The process's number and how many share the run.

    Yields:
        The record, to which the caller adds `pairs` and `failed`, those of this session.
    """
    begin = datetime.now(UTC)
    record: dict[str, Any] = {
        "command": command(),
        "folder": os.getcwd(),
        "start": _shown(begin),
        "end": None,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "system": platform.platform(),
        "devices": devices,
        "versions": versions(PACKAGES),
        "files": {name: str(value) for name, value in (named or {}).items() if value is not None},
    }
    if share[1] > 1:
        record["share"] = f"{share[0]}/{share[1]}"
    path = folder / HISTORY / f"{begin:%Y%m%dT%H%M%S.%f}-{os.getpid()}.json"
    try:
        _write(path, record)
        yield record
    finally:
        record["end"] = _shown(datetime.now(UTC))
        _write(path, record)


def sessions(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's sessions, the first one first; unreadable ones are left out."""
    found = []
    for path in sorted((folder / HISTORY).glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict) and {"command", "start", "end"} <= set(record):
                found.append(record)
    return found


def command() -> str:
    """Return the command line of this process, as a shell takes it."""
    program, *words = sys.argv or [""]
    path = Path(program)
    # python -m advjax has the path of its file there.
    name = path.parent.name if path.name == "__main__.py" else path.name
    return shlex.join([name, *words])


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _write(path: Path, record: Mapping[str, Any]) -> None:
    # A run is not stopped by what its rows do not need; a full disk stops it at the next shard.
    with contextlib.suppress(AdvjaxError):
        files.write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
