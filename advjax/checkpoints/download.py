"""The download of one file: resumed where it stopped, bounded in tries and size."""

import http.client
import json
import os
import ssl
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import Any

from advjax import files
from advjax.display import progress_bar
from advjax.errors import AdvjaxError

_PIECE = 1 << 20
_LIMIT = 1 << 32  # bytes; the largest network of the paper is 0.25 GB
_LONGEST_PAUSE = 30.0  # seconds
_REMEDY = "try again (it goes on where it stopped), or download it yourself and give the path"


class _Interrupted(Exception):
    """A failure that may pass; its text is the reason."""


def download(
    address: str,
    part: Path,
    *,
    resume_unmarked: bool = False,
    progress: bool | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    pause: float = 1.0,
) -> None:
    """Download `address` into `part`, going on where an earlier call was interrupted.

    A part is only gone on with when the server vouches that the file is the same (ETag or
    Last-Modified, sent back as If-Range, RFC 9110 section 13.1.5); these are kept beside it in
    `<part>.json`. A server that ignores the range, or whose file has changed, sends all of it.

    Args:
        address: http://, https:// or file://.
        part: The file for the bytes. A failure leaves it, so that the next call can go on.
        resume_unmarked: Go on without the server's word, where a sum of the whole is checked later.
        progress: Show a progress bar; None: on a terminal and in a notebook.
        timeout: Seconds without a byte until the connection is given up.
        retries: The number of further tries after a failure that may pass.
        pause: Seconds before the first of these; doubled each time, at most 30.

    Raises:
        AdvjaxError: It could not be downloaded: one line with the address, the reason, the remedy.
    """
    if urllib.parse.urlsplit(address).scheme not in ("http", "https", "file"):
        raise AdvjaxError(f"cannot download {address!r}: give an http, https or file address")
    for attempt in range(retries + 1):
        try:
            _attempt(address, part, resume_unmarked, progress, timeout)
            _marker(part).unlink(missing_ok=True)
            return
        except _Interrupted as error:
            reason = " ".join(str(error).split())
            if attempt == retries:
                raise AdvjaxError(f"cannot download {address}: {reason}; {_REMEDY}") from error
        except OSError as error:  # of the disk; those of the network are _Interrupted
            reason = error.strerror or str(error)
            raise AdvjaxError(
                f"cannot write {str(part)!r}: {reason}; make room or set ADVJAX_CACHE elsewhere"
            ) from error
        time.sleep(min(pause * 2**attempt, _LONGEST_PAUSE))


def _attempt(
    address: str, part: Path, unmarked: bool, progress: bool | None, timeout: float
) -> None:
    have = part.stat().st_size if part.exists() else 0
    mark = _read_marker(part, address)
    headers = {"User-Agent": "advjax", "Accept-Encoding": "identity"}
    if have and (mark or unmarked):
        headers["Range"] = f"bytes={have}-"
        if mark:
            headers["If-Range"] = mark
    response = _open(urllib.request.Request(address, headers=headers), part, have, timeout)
    if response is None:
        return
    with response:
        start = _range_start(response) if response.status == 206 else 0
        if start not in (0, have):
            part.unlink(missing_ok=True)
            raise _Interrupted("the server sent another range than the one asked for")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if (total or 0) > _LIMIT:
            raise AdvjaxError(f"cannot download {address}: {total} bytes is more than weights have")
        _write_marker(part, address, response.headers)
        _copy(response, part, start, total, progress)
    got = part.stat().st_size
    if total is not None and got != total:
        raise _Interrupted(f"the connection was closed after {got} of {total} bytes")


def _open(request: urllib.request.Request, part: Path, have: int, timeout: float) -> Any:
    """Return the server's answer, or None when the part of `have` bytes is the whole file."""
    # Only these: no ftp:, no data:, and a redirect cannot lead to a file.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.FileHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    address = request.full_url
    try:
        return opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return None
            part.unlink(missing_ok=True)
            raise _Interrupted("the server refused the range; starting anew") from error
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from error
        raise AdvjaxError(
            f"cannot download {address}: the server answered {error.code} {error.reason}; look for"
            " the file elsewhere, or download it yourself and give the path"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        text = " ".join(str(reason).split()) or type(reason).__name__
        if isinstance(reason, ssl.SSLCertVerificationError) or address.startswith("file:"):
            raise AdvjaxError(
                f"cannot download {address}: {text}; download it yourself and give the path"
            ) from error
        raise _Interrupted(text) from error


def _copy(response: Any, part: Path, start: int, total: int | None, progress: bool | None) -> None:
    with (
        open(part, "ab" if start else "wb") as file,
        progress_bar(
            progress,
            desc=part.name.removesuffix(".part"),
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
        ) as bar,
    ):
        done = start
        while total is None or done < total:
            try:
                # read1 hands over what has come, so that a cut connection loses nothing.
                read = getattr(response, "read1", response.read)
                piece = read(_PIECE)
            except (OSError, http.client.HTTPException) as error:
                raise _Interrupted(str(error) or type(error).__name__) from error
            if not piece:
                break
            done += len(piece)
            if done > _LIMIT:
                raise AdvjaxError(
                    f"{part.name}: more than {_LIMIT} bytes came; no weights are so large"
                )
            file.write(piece)
            bar.update(len(piece))


def _range_start(response: Any) -> int:
    """Return the start of a partial answer by its Content-Range ("bytes 1-9/20"); -1 if unclear."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else -1


def _marker(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write_marker(part: Path, address: str, headers: Any) -> None:
    etag = headers.get("ETag", "")
    # A weak ETag does not vouch for equal bytes and is not allowed in If-Range.
    mark = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    files.write_text(_marker(part), json.dumps({"address": address, "mark": mark}))


def _read_marker(part: Path, address: str) -> str:
    try:
        kept = json.loads(_marker(part).read_text())
        return kept["mark"] if kept["address"] == address else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def extract_member(archive: Path, member: str, target: Path) -> None:
    """Write one file of a .tar.gz to `target`; names and links inside the archive decide nothing.

    Args:
        archive: The archive.
        member: The file's name without its folders.
        target: The file for its content.

    Raises:
        AdvjaxError: The archive is damaged, has no such regular file, or it is larger than 4 GiB.
    """
    seen = []
    try:
        with tarfile.open(archive, "r|gz") as opened:
            for info in opened:
                seen.append(info.name)
                if not info.isfile() or os.path.basename(info.name) != member:
                    continue
                if info.size > _LIMIT:
                    raise AdvjaxError(f"{archive.name}: {member} claims {info.size} bytes; damaged")
                source = opened.extractfile(info)
                assert source is not None  # it is a regular file
                with open(target, "wb") as file:
                    while piece := source.read(_PIECE):
                        file.write(piece)
                if target.stat().st_size != info.size:
                    raise EOFError
                return
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise AdvjaxError(
            f"cannot unpack {member} from {archive.name}: it is truncated or damaged; fetch again"
        ) from error
    raise AdvjaxError(f"{archive.name} has no {member} (it has {', '.join(seen[:6]) or 'nothing'})")
