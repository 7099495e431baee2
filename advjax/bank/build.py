"""The builder of feature banks: batch after batch, continued after an interruption."""

import contextlib
import hashlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from advjax import files
from advjax.bank.bank import (
    FORMAT,
    IMAGES,
    MANIFEST,
    PROGRESS,
    Bank,
    BankError,
    check_same,
    features_path,
    header,
    open_bank,
    read_json,
)
from advjax.data.images import list_images, name_of
from advjax.display import progress_bar
from advjax.errors import AdvjaxError, whole
from advjax.networks.identity import network_key
from advjax.networks.network import Network

NOTED = 20  # seconds between two notes of the progress
READERS = 4  # threads that decode image files
_NO_LABEL = -1
_LOCK = ".lock"


def build_bank(
    net: Network,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    layers: str | Sequence[str] | None,
    out: str | os.PathLike[str],
    *,
    labels: Sequence[str | None] | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Bank:
    """Compute the activations of image files and keep them; layers that are there already stay.

    The same call again returns the bank at once. After an interruption it goes on where the last
    one stopped. With further layers it computes these alone.

    Args:
        net: The network; its `preprocessing` reads the files.
        images: A folder (searched with its subfolders), or a list of files.
        layers: Names of layers; the network's `layer` when None.
        out: The bank's folder.
        labels: The name of each file's class. None takes, of a folder, the first folder under it
            that a file is in; files in no such folder, and lists, have no labels then.
        batch_size: Images in one call of the network.
        progress: Show a bar; None: on a terminal and in a notebook.

    Returns:
        The bank, opened; it may hold more layers than asked for.

    Raises:
        ImageError: No images, or the first that cannot be read; the work so far is kept.
        UnknownName: A layer that the network does not have.
        BankError: `out` holds something else, or another process builds a bank there.
        AdvjaxError: A wrong `batch_size` or `labels`, activations that are not finite, or a disk
            that is full.

    Example:
        >>> import tempfile
        >>> from advjax.data.images import Preprocessing, write_png
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_png(folder / "photos" / "cats" / "a.png", np.full((4, 4, 3), 8, np.uint8))
        >>> net = Network(lambda x: {"mean": x.mean((1, 2))}, (4, 4, 3),
        ...               preprocessing=Preprocessing(crop=4))
        >>> bank = build_bank(net, folder / "photos", "mean", folder / "bank", progress=False)
        >>> bank.ids, bank.classes, bank.features("mean")[0].tolist()
        (('cats/a.png',), ('cats',), [8.0, 8.0, 8.0])
    """
    if whole(batch_size, 1) is None:
        raise AdvjaxError(f"batch_size is {batch_size!r}; give a number of images, 1 or more")
    names = net.check_layers(layers)
    paths, ids, classes = _images(images, labels)
    key = _key_of(net, paths, ids, classes)
    out = Path(out)
    if not set(names) <= set(_kept_layers(out, key)):
        busy = BankError(f"another process is building the bank {str(out)!r}; wait for it")
        with files.locked(out / _LOCK, busy):
            kept = _kept_layers(out, key)
            wanted = [name for name in dict.fromkeys(names) if name not in kept]
            if not wanted:  # another process was faster
                return open_bank(out, net)
            _compute(net, paths, wanted, out, key, batch_size, progress)
            known = sorted({name for name in classes if name is not None})
            numbers = {name: number for number, name in enumerate(known)}
            rows = [_NO_LABEL if name is None else numbers[name] for name in classes]
            table = {"ids": ids, "labels": rows, "classes": known}
            files.write_text(out / IMAGES, json.dumps(table))
            shapes = kept | {name: list(net.layers[name]) for name in wanted}
            manifest = {"format": FORMAT, **key, "images": len(ids), "layers": shapes}
            files.write_text(out / MANIFEST, json.dumps(manifest, indent=1))
            (out / PROGRESS).unlink(missing_ok=True)
    return open_bank(out, net)


def bank_name(net: Network, images: str | os.PathLike[str]) -> str:
    """Return a folder's name for a bank; another network or other files give another name.

    Raises:
        ImageError: No images.

    Example:
        `cache_dir() / "banks" / bank_name(net, "imagenette/train")`
    """
    key = json.dumps(_key_of(net, *_images(images, None)), sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return f"{Path(images).resolve().name}-{net.name}-{digest}"


def _compute(
    net: Network,
    paths: list[Path],
    layers: list[str],
    out: Path,
    key: dict[str, Any],
    batch_size: int,
    progress: bool | None,
) -> None:
    """Write the rows of the layers' files one after the other, and note the progress."""
    count, shapes = len(paths), {name: net.layers[name] for name in layers}
    note = {"format": FORMAT, **key, "layers": {name: list(shapes[name]) for name in layers}}
    done = _done(out, note, count)
    files.write_text(out / PROGRESS, json.dumps(note | {"done": done}))
    with contextlib.ExitStack() as stack:
        opened = {}
        for name, shape in shapes.items():
            file, head = features_path(out, name), header(name, count, shape)
            with files.writing(file):
                file.parent.mkdir(exist_ok=True)
                # Not a memory map: on a full disk that would kill the process, this raises.
                opened[name] = stack.enter_context(open(file, "r+b" if done else "wb", 0))
                _write(opened[name], b"" if done else head)
                opened[name].truncate(len(head) + done * _row_bytes(shape))
                opened[name].seek(0, os.SEEK_END)

        def keep() -> None:
            for name, file in opened.items():
                with files.writing(features_path(out, name)):
                    files.sync(file.fileno())
            files.write_text(out / PROGRESS, json.dumps(note | {"done": done}))

        bar = stack.enter_context(
            progress_bar(progress, total=count, initial=done, desc="features", unit="image")
        )
        try:
            noted = time.monotonic()
            for batch, real in _batches(net, paths[done:], batch_size):
                # Highest precision: the order of neighbours depends on the last digits.
                with jax.default_matmul_precision("highest"):
                    activations = net(batch, layers)
                rows = {name: _flat(activations[name][:real]) for name in layers}
                _check_finite(net, rows, paths[done : done + real])
                for name in layers:
                    with files.writing(features_path(out, name)):
                        _write(opened[name], rows[name].data)
                done += real
                bar.update(real)
                if time.monotonic() - noted > NOTED:
                    keep()
                    noted = time.monotonic()
        except BaseException:
            with contextlib.suppress(AdvjaxError):
                keep()
            raise
        keep()


def _done(out: Path, note: dict[str, Any], count: int) -> int:
    """Return the number of rows that an earlier call left of exactly this work."""
    before = read_json(out / PROGRESS) or {}
    done = before.pop("done", 0)
    if before != note or not isinstance(done, int) or not 0 <= done <= count:
        return 0
    for name, shape in note["layers"].items():
        file, head = features_path(out, name), header(name, count, shape)
        if not file.is_file() or file.stat().st_size < len(head) + done * _row_bytes(shape):
            return 0
    return done


def _flat(activations: Any) -> Float[np.ndarray, "n d"]:
    return np.ascontiguousarray(activations, "<f4").reshape(len(activations), -1)


def _check_finite(net: Network, rows: Mapping[str, np.ndarray], paths: list[Path]) -> None:
    for name, values in rows.items():
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            raise AdvjaxError(
                f"{net.name} gives NaN or infinite numbers at {name} for image "
                f"{str(paths[int(bad.argmax())])!r}; check its weights"
            )


def _batches(net: Network, paths: list[Path], batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (images, number of real ones): the files decoded in threads, two batches ahead.

    The last batch is filled up with its last image, so that it needs no program of its own.
    """
    ahead = deque()
    reader = ThreadPoolExecutor(READERS, "advjax-bank")
    try:
        for start in range(0, len(paths) + 2 * batch_size, batch_size):
            part = paths[start : start + batch_size]
            if part:
                ahead.append([reader.submit(net.read, path) for path in part])
            if ahead and (len(ahead) > 2 or not part):
                images = [image.result() for image in ahead.popleft()]
                fill = [images[-1]] * (batch_size - len(images))
                yield np.stack(images + fill), len(images)
    finally:
        reader.shutdown(cancel_futures=True)


def _images(images, labels) -> tuple[list[Path], list[str], list[str | None]]:
    """Return the files, their ids, and the names of their classes."""
    if isinstance(images, str | os.PathLike):
        folder = Path(images)
        paths = list(list_images(folder))
        parts = [path.relative_to(folder).parts for path in paths]
        ids = [name_of(Path(*part)) for part in parts]
        classes = [name_of(part[0]) if len(part) > 1 else None for part in parts]
    else:
        paths = [Path(path) for path in images]
        ids = [name_of(path) for path in paths]
        classes: list[str | None] = [None for _ in paths]
        if not paths:
            raise AdvjaxError("images is empty; give a folder, or one file or more")
        twice, times = Counter(ids).most_common(1)[0]
        if times > 1:
            raise AdvjaxError(f"images names {twice!r} {times} times; name each file once")
    if labels is not None:
        classes = [None if label is None else str(label) for label in labels]
        if len(classes) != len(paths):
            raise AdvjaxError(
                f"labels has {len(classes)} names for {len(paths)} images; give one for each"
            )
    return paths, ids, classes


def _key_of(net: Network, paths, ids, classes) -> dict[str, Any]:
    """Return all on which the rows depend: the network, and the files by name, size and class."""
    digest = hashlib.sha256()
    for path, id, name in zip(paths, ids, classes, strict=True):
        # A file that is missing is reported by its reader.
        size = path.stat().st_size if path.is_file() else -1
        digest.update(json.dumps([id, size, name]).encode())
    return network_key(net) | {"image_files": digest.hexdigest()}


def _kept_layers(out: Path, key: dict[str, Any]) -> dict[str, list[int]]:
    """Return the layers that a bank in `out` holds already.

    Raises:
        BankError: There is something else in `out`.
    """
    manifest = read_json(out / MANIFEST)
    if manifest is None:
        noted = read_json(out / PROGRESS)
        if noted is not None and noted.get("done"):  # nothing is lost of one without any
            check_same(out, noted, key)
        elif (
            noted is None
            and out.is_dir()
            and any(not path.name.startswith(".") for path in out.iterdir())
        ):
            raise BankError(f"out {str(out)!r} is not empty and holds no bank; name a new folder")
        return {}
    open_bank(out)  # is it whole?
    check_same(out, manifest, key)
    return manifest["layers"]


def _row_bytes(shape: Sequence[int]) -> int:
    return 4 * int(np.prod(shape))


def _write(file: Any, content: bytes | memoryview) -> None:
    """Write all of it: one call may take a part only, as when the disk is nearly full."""
    left = memoryview(content).cast("B")
    while left:
        left = left[file.write(left) :]
