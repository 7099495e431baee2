"""The kinds of weights files, recognised by their content, and their checksums."""

import hashlib
import io
import os
from typing import Literal

from advjax.errors import WeightsError

# Tags that can open a NetParameter: name, layers (V1), input, input_dim, force_backward, state,
# debug_info, input_shape, and the two bytes of layer (V2, field 100).
_CAFFE_TAGS = (b"\x0a", b"\x12", b"\x1a", b"\x20", b"\x22", b"\x28", b"\x32", b"\x38", b"\x42")
_CAFFE_TAG_V2 = b"\xa2\x06"


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a weights file for reading.

    Args:
        path: The file.

    Returns:
        The open file, at its beginning, with at least one byte in it.

    Raises:
        WeightsError: It is missing, a directory, not readable or empty.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise WeightsError(f"weights {path!r} is a directory; give a file inside it")
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise WeightsError(f"weights {path!r} is not a regular file; give the path of a file")
    try:
        file = open(path, "rb")  # noqa: SIM115
        size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WeightsError(
            f"cannot read weights {path!r}: {reason}; give the path of a weights file"
        ) from error
    if size == 0:
        file.close()
        raise WeightsError(f"weights {path!r} is empty (0 bytes); fetch or copy it again")
    return file


def describe_foreign(head: bytes) -> str | None:
    """Return the kind of a file that holds no weights for advjax, by its first bytes.

    Args:
        head: The first 512 bytes of the file, or all of it when it is shorter.

    Returns:
        A phrase that follows the file's name ("is a gzip file; unpack it first"), or None.

    Example:
        >>> describe_foreign(b"PK" + bytes([3, 4]) + b"archive/data.pkl")
        'is a zip archive (PyTorch .pt/.pth or .npz); advjax does not unpickle'
    """
    if head.startswith(b"PK\x03\x04"):
        return "is a zip archive (PyTorch .pt/.pth or .npz); advjax does not unpickle"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "is a PyTorch or Python pickle; advjax does not unpickle"
    if head.startswith(b"\x1f\x8b"):
        return "is a gzip file; unpack it first"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it first"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file; save the network as a binary .caffemodel or .safetensors"
    if head.startswith(b"\x93NUMPY"):
        return "is a NumPy array, not a weights file"
    if not all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return None
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run 'git lfs pull' or fetch the file"
    if text.startswith(b"<"):
        return "is a web page (HTML or XML), not weights; the download went wrong, fetch it again"
    if b":" in text or b"{" in text:
        return "is text (perhaps a .prototxt); give the binary .caffemodel beside it"
    return "is text, not weights; give a .caffemodel or .safetensors file"


def refuse_foreign(path: str | os.PathLike[str], head: bytes) -> None:
    """Raise WeightsError when `head`, the file's first bytes, are of a known foreign kind."""
    if foreign := describe_foreign(head):
        raise WeightsError(f"weights {os.fspath(path)!r} {foreign}")


def sniff(path: str | os.PathLike[str]) -> Literal["safetensors", "caffemodel"]:
    """Return the format of a weights file, by its content; its name plays no part.

    Args:
        path: The file.

    Returns:
        "safetensors" or "caffemodel", by its first bytes; the rest is not checked.

    Raises:
        WeightsError: Missing, a directory, empty, or something else (a pickle, gzip, HTML, text,
            a Git LFS pointer, ...), which the message names.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "weights"
        >>> _ = path.write_bytes(bytes([10, 5]) + b"LeNet" + bytes([18, 2, 34, 0]))
        >>> sniff(path)
        'caffemodel'
    """
    with open_file(path) as file:
        head = file.read(512)
        size = os.fstat(file.fileno()).st_size
    # A safetensors file opens with the length of its JSON header, in 8 bytes.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    refuse_foreign(path, head)
    if head.startswith(_CAFFE_TAGS) or head.startswith(_CAFFE_TAG_V2):
        return "caffemodel"
    if head[8:9] == b"{":
        raise WeightsError(
            f"weights {os.fspath(path)!r} is a truncated or damaged safetensors file; copy it again"
        )
    raise WeightsError(
        f"weights {os.fspath(path)!r} is neither a .caffemodel nor a .safetensors file"
        f" (it begins with {head[:8].hex(' ')})"
    )


def is_gzip(path: str | os.PathLike[str]) -> bool:
    """Return True for a file that begins as gzip files do.

    Raises:
        WeightsError: The file cannot be read or is empty.
    """
    with open_file(path) as file:
        return file.read(2) == b"\x1f\x8b"


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, read in pieces.

    Raises:
        WeightsError: The file cannot be read or is empty.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha1_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-1 of a file as 40 hexadecimal digits, as Caffe's zoo publishes it.

    Raises:
        WeightsError: The file cannot be read or is empty.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
