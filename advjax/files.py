"""Files that a reader never sees half written, and locks on them."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from advjax.errors import AdvjaxError


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
    temporary = path.parent / f".{secrets.token_hex(8)}.part{path.suffix[:16]}"
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
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
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                raise busy or error from error
        yield


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically (see `atomic_path`)."""
    write_bytes(path, text.encode())
