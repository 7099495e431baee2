"""Files to be measured: the images of each pair, from a table or the folders of attacks."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from advjax.bank import Bank
from advjax.data import list_images, read_image
from advjax.data.images import name_of
from advjax.data.units import LEVELS, Bounds, from_levels, to_levels
from advjax.errors import AdvjaxError
from advjax.networks.network import Network

RESULT = "result.json"  # what a folder of `advjax attack` has
NEEDED = ("source", "guide", "adversarial")
KNOWN = (*NEEDED, "source_class", "guide_class", "source_id", "guide_id")


class PairFiles(NamedTuple):
    """The files of one pair; classes and ids where they were given."""

    source: Path
    guide: Path
    adversarial: Path
    rounded: Path | None = None  # the adversarial's 8-bit file, where there are both
    source_class: str | None = None
    guide_class: str | None = None
    source_id: str | None = None
    guide_id: str | None = None
    label: str | None = None  # of the pair, in a run's pair list
    bounds: Bounds = LEVELS  # of the images in the adversarial's safetensors file


class Adversarial(NamedTuple):
    """One result for `analyse`; a `PairResult` is one as well."""

    index: int  # of its source and guide among those given
    adversarial: Float[np.ndarray, "h w c"]
    adversarial_uint8: UInt8[np.ndarray, "h w c"]


def read_pair_files(
    path: str | os.PathLike[str], images: Sequence[str | os.PathLike[str]] = ()
) -> tuple[list[PairFiles], dict[str, Any]]:
    """Read the files of each pair in `path`.

    Args:
        path: A CSV, TSV or Parquet file with the columns source, guide and adversarial (paths,
            relative to the file), and, where known, source_class, guide_class, source_id and
            guide_id; or a folder that `advjax attack` wrote, or one of such folders, such as
            `AttackResult.save` writes.
        images: Folders with the sources and guides of attacks, which note only names and SHA-256.

    Returns:
        The files of each pair, and the settings that the attacks have in common (network,
        weights, layer, ...).

    Raises:
        AdvjaxError: Nothing of the kind, or a file that is missing.
    """
    path = Path(path)
    if path.is_dir():
        records = [path / RESULT] if (path / RESULT).is_file() else sorted(path.glob(f"*/{RESULT}"))
        if not records:
            raise AdvjaxError(
                f"{str(path)!r} has no {RESULT} of 'advjax attack', nor have its folders; give "
                "such a folder, the directory of a run, or a CSV file of source, guide, adversarial"
            )
        return _of_attacks(records, [Path(folder) for folder in images])
    return _of_table(path), {}


def _of_table(path: Path) -> list[PairFiles]:
    import pyarrow as pa  # here: `import advjax` must not import it

    from advjax.data.tables import read_table

    columns = pa.schema([(name, pa.string()) for name in KNOWN])
    rows = read_table(path, "table", columns, NEEDED).to_pylist()
    pair_files = []
    for number, row in enumerate(rows, 1):
        files = [path.parent / (row[name] or "") for name in NEEDED]
        for name, file in zip(NEEDED, files, strict=True):
            if not file.is_file():
                raise AdvjaxError(
                    f"{name} of row {number} of {str(path)!r} is {row[name]!r}, no file; paths are "
                    "relative to the table"
                )
        known = {name: row.get(name) or None for name in KNOWN[3:]}
        pair_files.append(PairFiles(files[0], files[1], files[2])._replace(**known))
    return pair_files


def _of_attacks(records: list[Path], folders: list[Path]) -> tuple[list[PairFiles], dict[str, Any]]:
    settings = [_settings(record) for record in records]
    named = [noted for noted in settings if "source" in noted]
    wanted = {noted[name]["name"] for noted in named for name in ("source", "guide")}
    by_name: dict[str, list[Path]] = {}
    for folder in folders:
        for file in list_images(folder):
            if file.name in wanted:
                by_name.setdefault(file.name, []).append(file)
    hashes: dict[Path, str] = {}

    def find(record: Path, name: str, noted: dict[str, str]) -> Path:
        for file in by_name.get(noted["name"], []):
            if file not in hashes:
                hashes[file] = hashlib.sha256(file.read_bytes()).hexdigest()
            if hashes[file] == noted["sha256"]:
                return file
        what = "not as it was" if noted["name"] in by_name else "not"
        raise AdvjaxError(
            f"{name} {noted['name']!r} of {str(record)!r} is {what} in "
            f"{', '.join(map(str, folders)) or 'any folder'}; name its folder with --images"
        )

    pair_files = []
    for record, noted in zip(records, settings, strict=True):
        exact, rounded = (
            record.parent / "adversarial.safetensors",
            record.parent / "adversarial.png",
        )
        source, guide = exact, exact  # where AttackResult.save keeps both
        if "source" in noted:
            source = find(record, "source", noted["source"])
            guide = find(record, "guide", noted["guide"])
        for file in (exact, rounded):
            if not file.is_file():
                raise AdvjaxError(f"{str(file)!r} is missing; make the attack again")
        pair = PairFiles(source, guide, adversarial=exact, rounded=rounded)
        pair_files.append(pair._replace(bounds=tuple(noted.get("bounds", LEVELS))))
    common = {
        name: value
        for name, value in settings[0].items()
        if all(other.get(name) == value for other in settings)
    }
    if "source" not in settings[0]:  # nor are weights named: what the network is known by
        common["initial_distance"] = settings[0]["initial_distance"]
    return pair_files, common


def _settings(record: Path) -> dict[str, Any]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        settings = content["settings"]
        for name in ("source", "guide") if {"source", "guide"} & set(settings) else ():
            if set(settings[name]) < {"name", "sha256"}:
                raise KeyError(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdvjaxError(
            f"{str(record)!r} is no record of 'advjax attack' ({type(error).__name__}: {error}); "
            "run it again"
        ) from error
    return settings | {"initial_distance": content.get("figures", {}).get("initial_distance")}


def read_adversarials(net: Network, pair_files: Sequence[PairFiles]) -> Iterator[Adversarial]:
    """Yield the adversarials, read as they are needed, at the network's size."""
    for index, pair in enumerate(pair_files):
        image = _pixels(net, pair.adversarial, bounds=pair.bounds)
        rounded = np.rint(image).astype(np.uint8)
        if pair.rounded is not None:
            rounded = _pixels(net, pair.rounded)
        yield Adversarial(index, from_levels(image, net.bounds), rounded)


class PairImages(Sequence):
    """The sources or the guides of pairs, as `analyse` takes them, each read when it is asked for.

    Args:
        net: The network.
        pair_files: The files of each pair.
        name: "source" or "guide".
    """

    def __init__(self, net: Network, pair_files: Sequence[PairFiles], name: str):
        self.net, self.pair_files, self.name = net, pair_files, name

    def __len__(self) -> int:
        return len(self.pair_files)

    def __getitem__(self, i: Any) -> Any:
        pair = self.pair_files[i]
        path = getattr(pair, self.name)
        if path.suffix != ".safetensors":
            return self.net.read(path)
        return from_levels(_pixels(self.net, path, self.name, pair.bounds), self.net.bounds)


def find_in_folder(net: Network, pair_files: Sequence[PairFiles], folder: Path) -> list[PairFiles]:
    """Return pairs with a folder's files in place of saved images that are the same pixels.

    What `AttackResult.save` keeps has no file's name, and so no class: it is known by its pixels.
    """
    saved = {
        (i, name): PairImages(net, pair_files, name)[i].tobytes()
        for i, pair in enumerate(pair_files)
        for name in ("source", "guide")
        if getattr(pair, name).suffix == ".safetensors"
    }
    found: dict[bytes, Path] = {}
    for file in list_images(folder) if saved else ():
        if len(found) == len(set(saved.values())):
            break
        with contextlib.suppress(AdvjaxError):
            content = np.asarray(net.read(file), np.float32).tobytes()
            if content in saved.values():
                found.setdefault(content, file)
    replaced = list(pair_files)
    for (i, name), content in saved.items():
        if content in found:
            replaced[i] = replaced[i]._replace(**{name: found[content]})
    return replaced


def _pixels(
    net: Network, path: Path, name: str = "adversarial", bounds: Bounds = LEVELS
) -> np.ndarray:
    """Return the image of a file, in levels; `name` is that in a safetensors file."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            image = to_levels(load_file(path)[name].astype(np.float32), bounds)
        except (OSError, SafetensorError, KeyError) as error:
            raise AdvjaxError(
                f"{str(path)!r} holds no {name} ({type(error).__name__}: {error}); give a "
                "file of 'advjax attack', or an image"
            ) from error
    else:
        image = read_image(path, net.input_shape[-1])
    if image.shape != net.input_shape:
        raise AdvjaxError(
            f"{name} {str(path)!r} has shape {image.shape}, but {net.name} takes "
            f"{net.input_shape}; adversarials are measured as they are, so give one of that size"
        )
    what = f"{name} {str(path)!r}"
    return np.asarray(net.in_levels.check_images(image[None], what, dark=True))[0]


def ids_of(
    pair_files: Sequence[PairFiles], bank: Bank, folder: Path | None
) -> dict[str, list[str | None]]:
    """Return the ids of the sources and guides in the bank, and their classes.

    A file in the bank's folder is that image of the bank. The class of another is the one given,
    or that of the folder it is in, if the bank has such a class; or, of a guide, the pair's label,
    if that is one.
    """
    known: dict[str, list[str | None]] = {}
    for name in ("source", "guide"):
        files = [getattr(pair, name) for pair in pair_files]
        given = [getattr(pair, f"{name}_id") for pair in pair_files]
        known[f"{name}_ids"] = [
            id or _id_of(file, folder) for id, file in zip(given, files, strict=True)
        ]
        labels = [getattr(pair, f"{name}_class") for pair in pair_files]
        known[f"{name}_classes"] = [
            label or next((c for c in map(_class_of, _ways(file)) if c in bank.classes), None)
            for label, file in zip(labels, files, strict=True)
        ]
    for i, pair in enumerate(pair_files):
        nothing = known["guide_ids"][i] is None and known["guide_classes"][i] is None
        if nothing and pair.label in bank.classes:
            known["guide_classes"][i] = pair.label
    return known


def _id_of(file: Path, folder: Path | None) -> str | None:
    """Return the file's path in the folder, if it is there; each may be reached through links."""
    tops = () if folder is None else _ways(folder)
    inside = (w.relative_to(top) for w in _ways(file) for top in tops if top in w.parents)
    return next((name_of(path) for path in inside), None)


def _class_of(file: Path) -> str:
    return name_of(file.parent.name)


def _ways(path: Path) -> tuple[Path, Path]:
    """Return the path as it is named, and the one that its links lead to."""
    return Path(os.path.abspath(path)), path.resolve()
