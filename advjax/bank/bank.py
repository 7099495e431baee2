"""A feature bank on disk: its files, and functions that read them.

A bank is a folder: `manifest.json` (whose activations, of what), `images.json` (ids and labels, row
by row) and `features/LAYER.safetensors` for each layer, with one tensor of the layer's name
(float32 [n, d], the layer flattened as the network gives it). The manifest is written last, so that
a folder with one is whole.
"""

import dataclasses
import functools
import json
import os
import reprlib
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.identity import network_key
from advjax.networks.network import Network

FORMAT = 2
_LONGEST = 2**20  # bytes of the head of a file
MANIFEST, IMAGES, PROGRESS = "manifest.json", "images.json", "progress.json"


class BankError(AdvjaxError):
    """A feature bank that is damaged, unfinished, or another network's."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
    """Activations of n images; `build_bank` makes one, `open_bank` reads one.

    Attributes:
        path: Its folder.
        network: The network's name.
        weights: SHA-256 of the network's parameters, `advjax.networks.identity.weights_hash`.
        layers: Each layer's name and its shape for one image.
        ids: The name of each row's image: its path under the folder it came from.
        labels: The class of each row, a number into `classes`; -1 where it has none.
        classes: The names of the classes: those of the folders, sorted.
    """

    path: Path
    network: str
    weights: str
    layers: Mapping[str, tuple[int, ...]]
    ids: tuple[str, ...]
    labels: Int[np.ndarray, "n"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        """Describe the bank in one line."""
        where = f"{reprlib.repr(list(self.layers))} of {self.network}"
        return f"Bank({str(self.path)!r}: {len(self):,} images at {where})"

    def features(self, layer: str) -> Float[np.ndarray, "n d"]:
        """Return the activations at a layer, flattened, memory-mapped and read-only.

        Raises:
            UnknownName: A layer that the bank does not hold.
        """
        if layer not in self.layers:
            raise UnknownName(f"layer of the bank {str(self.path)!r}", layer, self.layers)
        return _mapped(features_path(self.path, layer), layer)

    def rows(self, label: int | str) -> Int[np.ndarray, "m"]:
        """Return the rows of a class, given by number or name.

        Raises:
            BankError: The bank has no labels, or no such number.
            UnknownName: No class of that name.
        """
        if not self.classes:
            raise BankError(
                f"bank {str(self.path)!r} has no labels: its images were not in folders by class; "
                "build it of such a folder, or with labels"
            )
        if isinstance(label, str):
            if label not in self.classes:
                raise UnknownName(f"class of the bank {str(self.path)!r}", label, self.classes)
            label = self.classes.index(label)
        if not 0 <= label < len(self.classes):
            raise BankError(f"label is {label}; the bank has classes 0 to {len(self.classes) - 1}")
        return np.flatnonzero(self.labels == label)

    def row(self, id: str) -> int:
        """Return the row of an image, or -1 if it is not one of the bank's."""
        return self._row_of.get(id, -1)

    @functools.cached_property
    def _row_of(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.ids)}


def open_bank(path: str | os.PathLike[str], net: Network | None = None) -> Bank:
    """Open a bank that `build_bank` made; compute nothing.

    Args:
        path: The bank's folder.
        net: When given, the bank must be of this network: its name, weights and preprocessing.

    Raises:
        BankError: No bank, an unfinished or damaged one, or one of another network.

    Example:
        `open_bank("imagenette.bank", net).features("fc7")` is [n, 4096]; see also `build_bank`.
    """
    path = Path(path)
    manifest = read_json(path / MANIFEST)
    if manifest is None:
        noted = read_json(path / PROGRESS)
        if noted is not None:
            raise BankError(
                f"bank {str(path)!r} is unfinished ({noted.get('done')} images done); run "
                "build_bank with the same arguments to go on"
            )
        raise BankError(f"{str(path)!r} is no feature bank; make one with build_bank")
    if manifest.get("format") != FORMAT:
        raise BankError(
            f"bank {str(path)!r} has format {manifest.get('format')!r}, but this version reads "
            f"{FORMAT}; build it again"
        )
    table = read_json(path / IMAGES) or {}
    try:
        layers = {name: tuple(shape) for name, shape in manifest["layers"].items()}
        bank = Bank(
            path=path,
            network=manifest["network"],
            weights=manifest["weights"],
            layers=layers,
            ids=tuple(table["ids"]),
            labels=np.array(table["labels"], np.int32),
            classes=tuple(table["classes"]),
        )
        count = manifest["images"]
        sizes = {name: (count, int(np.prod(shape))) for name, shape in layers.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise damaged(path, f"{MANIFEST} or {IMAGES}: {error!r}") from error
    if not len(bank.ids) == len(bank.labels) == count:
        raise damaged(path, f"{IMAGES} has {len(bank.ids)} images, {MANIFEST} says {count}")
    for name, size in sizes.items():
        _check_features(path, name, size)
    if net is not None:
        check_same(path, manifest, network_key(net))
    return bank


def check_same(path: Path, manifest: dict[str, Any], key: dict[str, Any]) -> None:
    """Refuse a bank of something else; the error names the first difference."""
    what = {"weights": "other weights", "image_files": "other image files"}
    for name, value in key.items():
        if manifest.get(name) == value:
            continue
        if name in what:
            raise BankError(f"bank {str(path)!r} is of {what[name]}; build another in a new folder")
        raise BankError(
            f"bank {str(path)!r} is of {name} {manifest.get(name)!r}, not {value!r}; "
            "build another in a new folder"
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; return None where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path.parent, f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise damaged(path.parent, f"{path.name} is not a JSON object")
    return content


def damaged(path: Path, what: str) -> BankError:
    """Return the error for a damaged bank, which must be built again."""
    return BankError(f"bank {str(path)!r} is damaged ({what}); delete it and build it again")


def features_path(out: Path, layer: str) -> Path:
    """Return the file of a layer; that of "fire9/concat" is `fire9%2Fconcat.safetensors`."""
    return out / "features" / f"{urllib.parse.quote(layer, safe='')}.safetensors"


def _check_features(path: Path, layer: str, shape: tuple[int, int]) -> None:
    file = features_path(path, layer)
    try:
        array = _mapped(file, layer)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise damaged(path, f"{file.name} cannot be read: {error}") from error
    if array.shape != shape:
        raise damaged(path, f"{file.name} has shape {array.shape}")


def header(layer: str, count: int, shape: Sequence[int]) -> bytes:
    """Return the head of a safetensors file of `count` rows of a layer.

    The rows follow it as they are, so that a file can be written, and continued, row by row.
    """
    size = int(np.prod(shape))
    tensor = {"dtype": "F32", "shape": [count, size], "data_offsets": [0, 4 * count * size]}
    note = json.dumps({layer: tensor}).encode()
    note += b" " * (-len(note) % 8)  # the numbers begin at a multiple of 8 bytes
    return len(note).to_bytes(8, "little") + note


def _mapped(file: Path, layer: str) -> Float[np.ndarray, "n d"]:
    """Return the rows of a file, memory-mapped: safetensors' own reader would copy them all."""
    with open(file, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > _LONGEST:
            raise ValueError(f"its header has {size} bytes")
        tensor = json.loads(stream.read(size))[layer]
    shape = tuple(tensor["shape"])
    if tensor["dtype"] != "F32" or tensor["data_offsets"] != [0, 4 * int(np.prod(shape))]:
        raise ValueError(f"its tensor is {tensor}")
    # Fails where the file is too short.
    return np.memmap(file, "<f4", "r", offset=8 + size, shape=shape)
