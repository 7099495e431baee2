"""The locks of a run's directory; a lock ends with its process, however that ends."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from advjax import files
from advjax.runs.directory import LOCK, RunError, open_directory


def busy(path: Path) -> RunError:
    """Return the error for the second process in a directory."""
    return RunError(
        f"another process is at work in {str(path)!r}; wait for it, or see how far it is with "
        f"'advjax run status {path}'"
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make the directory and hold its lock, which ends with the process, however that ends.

    Raises:
        RunError: Another process holds it.
        AdvjaxError: The directory cannot be written.
    """
    with files.locked(path / LOCK, busy(path)):
        yield


@contextlib.contextmanager
def locked_share(
    path: Path, index: int, count: int, prepare: Callable[[], None], wait: float = 60.0
) -> Iterator[None]:
    """Hold the lock of one of `count` processes that work in the directory together.

    Args:
        path: The directory.
        index: The number of this process, from 0; each has a lock of its own, too.
        count: The number of processes.
        prepare: Called by a process that comes while no other is at work; the others wait for it.
        wait: Maximum seconds to wait for `prepare` of another process.

    Raises:
        RunError: This share, another number of shares, or an undivided run is at work.
    """

    def take(file: Any, *, shared: bool = False) -> bool:
        return files.flock(file, path, shared=shared, wait=False)

    with contextlib.ExitStack() as stack:
        with files.writing(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(path / LOCK, "a"))
            own = stack.enter_context(open(path / f"{LOCK}-{index}-of-{count}", "a"))
        if not take(own):
            raise busy(path)
        for other in path.glob(f"{LOCK}-*-of-*"):
            if not other.name.endswith(f"-of-{count}"):
                with open(other) as file:
                    if not take(file, shared=True):
                        raise busy(path)
        if take(lock):
            prepare()
        until = time.monotonic() + wait
        while not take(lock, shared=True):
            if time.monotonic() > until:
                raise busy(path)
            time.sleep(0.05)
        yield
        if take(lock):  # the last one to leave
            for file in path.glob(f"{LOCK}-*-of-*"):
                file.unlink(missing_ok=True)
            directory = open_directory(path)
            if directory is not None:
                directory.tidy()


def is_locked(path: Path) -> bool:
    """Return True if a process is at work in a run's directory."""
    try:
        import fcntl

        # To be written where it may be: NFS gives exclusive locks of such files alone.
        with open(path / LOCK, "r+" if os.access(path / LOCK, os.W_OK) else "r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False
