"""Files that a reader never sees half written, and locks on them."""

import contextlib
import errno
import functools
import hashlib
import os
import secrets
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advjax.errors import AdvjaxError, AdvjaxWarning

# What file systems of clusters and of other machines answer to what they do not have.
_UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_NO_LOCKS = _UNKNOWN | {errno.ENOLCK}
OLD = 3600.0  # seconds after which a temporary file of another machine is given up
_HOST = hashlib.sha256(socket.gethostname().encode(errors="replace")).hexdigest()[:8]


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise an AdvjaxError that names `path` when the system refuses to write there."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        reason = error.strerror or str(error)
        raise AdvjaxError(
            f"cannot write {os.fspath(path)!r}: {reason}; choose another place or make room"
        ) from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; on success its content is synced and takes the name `path`.

    On any exception the temporary file is removed and `path` is as it was.

    Args:
        path: The file to write; its directory is made when it is missing.

    Yields:
        A path in the same directory, to be written by the caller.

    Raises:
        AdvjaxError: The directory cannot be made or written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    # The suffix is kept: writers such as Pillow choose the format by it.
    # The stem is not: with it, names near the system's limit could not be written.
    temporary = _temporary(path.parent, path.suffix[:16])
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as written:
                sync(written.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it may never have been made
            temporary.unlink()


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], busy: AdvjaxError | None = None) -> Iterator[None]:
    """Hold a lock on the file `path`, which ends with the process, however that ends.

    A system without such locks (Windows) keeps nobody out.

    Args:
        path: The file; made when it is missing, with its directory.
        busy: Raised when another process holds the lock. None: wait for that process.

    Raises:
        AdvjaxError: The directory or the file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with writing(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(path, "a"))
        if not flock(lock, path, wait=busy is None):
            assert busy is not None
            raise busy
        yield


def flock(file: Any, path: str | os.PathLike[str], *, shared: bool = False, wait: bool) -> bool:
    """Lock an open file until it is closed; return False if another process keeps us out.

    A system without such locks (Windows) keeps nobody out; neither does a file system without them
    (some of Lustre and NFS), of which an `AdvjaxWarning` is given.

    Args:
        file: The open file.
        path: Its path, for the warning.
        shared: Let others share the lock.
        wait: Wait for the process that has it.
    """
    try:
        import fcntl
    except ImportError:
        return True
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, how | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn_of_no_locks(os.fspath(path), error.strerror)
    return True


@functools.cache  # once
def _warn_of_no_locks(path: str, reason: str) -> None:
    warnings.warn(
        f"the file system of {path!r} has no locks ({reason}): nobody else is kept out; start no "
        "second process with the same directory, or share, yourself",
        AdvjaxWarning,
        stacklevel=4,
    )


def sync(descriptor: int) -> None:
    """Bring what was written to the disk, on file systems that can be asked to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Bring the names in a folder to the disk, on file systems that can be asked to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, or a folder that may be written and not read
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(folder: Path, suffix: str = "") -> Path:
    """Return a new name that says which process of which machine writes there."""
    return folder / f".{_HOST}-{os.getpid()}-{secrets.token_hex(8)}.part{suffix}"


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder.

    No lock may be relied upon: there are file systems without, and those whose locks hold on one
    machine alone. What a process of this machine writes that is alive, and what one of another
    machine has written within an hour, by the folder's own clock, stays.
    """
    with contextlib.suppress(OSError):
        probe = _temporary(folder)
        probe.touch()
        now = probe.stat().st_mtime
        for path in folder.glob(".*.part*"):
            host, _, rest = path.name[1:].partition("-")
            process = rest.partition("-")[0]
            dead = host == _HOST and process.isdecimal() and not _other_is_alive(int(process))
            with contextlib.suppress(OSError):  # another process may be faster
                if dead or now - path.stat().st_mtime > OLD:
                    path.unlink()


def _other_is_alive(process: int) -> bool:
    """Return True if there is another process with this number on this machine."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def check_writable(out: Path) -> None:
    """Raise AdvjaxError, before the work, if the folder `out` cannot be written; create nothing."""
    try:
        folder = out
        for folder in (out, *out.parents):
            with contextlib.suppress(FileNotFoundError):
                folder.lstat()
                break
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AdvjaxError(
            f"out {str(out)!r} cannot be written ({reason}); choose another folder"
        ) from error


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically (see `atomic_path`)."""
    write_bytes(path, text.encode())
