"""The images that a pair list names, read from files or from tfds data sets in array_record.

`tensorflow_datasets` reads such sets without TensorFlow; images are taken undecoded and decoded as
files are (`advjax.data.images`).
"""

import functools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advjax.data.images import decode_image, path_of
from advjax.data.preprocessing import prepare
from advjax.errors import AdvjaxError, ImageError, UnknownName

if TYPE_CHECKING:
    from advjax.networks.network import Network

TFDS = "tfds:"
KEPT_BYTES = 256 * 2**20  # of the latest images: pair lists name many images several times


class Reader:
    """A reader of the images that a list names, ready for a network; threads may share one."""

    def __init__(self, net: "Network", root: str | os.PathLike[str]):
        self.net, self.root = net, Path(root)
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._maximum = max(1, KEPT_BYTES // int(np.prod(net.input_shape)))
        self._lock = threading.Lock()

    def __call__(self, name: str) -> np.ndarray:
        """Return the image [h, w, c], uint8.

        Raises:
            ImageError: It cannot be read.
        """
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        image = self._read(name)
        with self._lock:
            self._kept[name] = image
            while len(self._kept) > self._maximum:
                self._kept.popitem(last=False)
        return image

    def latest(self, count: int) -> list[np.ndarray]:
        """Return the `count` images that were read last."""
        with self._lock:
            return list(self._kept.values())[-count:]

    def size(self, name: str) -> int:
        """Return the size of the image's file in bytes, 0 where there is none."""
        if name.startswith(TFDS):
            try:
                return len(tfds_bytes(name))
            except AdvjaxError:
                return 0
        path = self.root / path_of(name)
        return path.stat().st_size if path.is_file() else 0

    def _read(self, name: str) -> np.ndarray:
        if not name.startswith(TFDS):
            return self.net.read(self.root / path_of(name))
        if self.net.preprocessing is None:
            raise ImageError(f"{self.net.name} has no preprocessing; give it one to read files")
        image = decode_image(tfds_bytes(name), name, self.net.input_shape[-1])
        return prepare(image, self.net.preprocessing, f"image {name!r}")


class LazyImages(Sequence):
    """The images of a list; each is read when it is asked for."""

    def __init__(self, reader: Reader, names: list[str]):
        self.reader, self.names = reader, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: Any) -> Any:
        return self.reader(self.names[i])


def tfds_images(where: str) -> tuple[list[str], list[str | None]]:
    """Return the names `tfds:SET:SPLIT#FILE`, and the classes, of all images of `tfds:SET:SPLIT`.

    FILE is the record's own file name; its number where the set has none.
    """
    opened = _tfds(where)
    return [f"{where}#{key}" for key in opened.records], list(opened.classes)


def tfds_bytes(name: str) -> bytes:
    """Return the undecoded image that `tfds:SET:SPLIT#FILE` names.

    Raises:
        ImageError: The set has no such file.
    """
    where, _, key = name.partition("#")
    opened = _tfds(where)
    if key not in opened.records:
        raise ImageError(f"image {name!r} is not in the data set; make the list anew")
    return opened.source[opened.records[key]][opened.image]


class _Tfds:
    def __init__(self, source: Any, image: str, records: dict[str, int], classes: list[str | None]):
        self.source, self.image, self.records, self.classes = source, image, records, classes


_SPLIT = re.compile(r"(\w[\w.-]*)(\[(-?\d+%?)?:(-?\d+%?)?\])?")


@functools.cache
def _tfds(where: str) -> _Tfds:
    """Open a data set and read its file names."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise AdvjaxError(
            f"{where!r} needs tensorflow-datasets: run pip install 'advjax[tfds]'"
        ) from None

    rest = where.removeprefix(TFDS)
    # The last colon that is in no slice, such as train[:50%].
    at = re.sub(r"\[[^\]]*\]?", lambda slice: "." * len(slice[0]), rest).rfind(":")
    name, split = rest[: max(at, 0)], rest[at + 1 :]
    if not name or not split:
        raise AdvjaxError(f"{where!r} is no data set; give tfds:NAME:SPLIT or tfds:FOLDER:SPLIT")
    try:
        builder: Any = (
            tfds.builder_from_directory(name) if Path(name).is_dir() else tfds.builder(name)
        )
    except Exception as error:  # of many kinds, from deep inside
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise AdvjaxError(
            f"{where!r} cannot be opened ({reason}); give the folder that holds its "
            "dataset_info.json"
        ) from error
    if not builder.info.splits:
        raise AdvjaxError(
            f"{where!r} is not prepared here; prepare it with file_format='array_record', or give "
            "the folder that holds its dataset_info.json"
        )
    splits = [*builder.info.splits, "all"]
    for part in map(str.strip, split.split("+")):
        parsed = _SPLIT.fullmatch(part)
        if parsed is None:
            raise AdvjaxError(
                f"split {part!r} of {name!r} is not known; give a name, or a slice of it such as "
                "train[:50%] or train[100:200]; several are joined by '+'"
            )
        if parsed[1] not in splits:
            raise UnknownName(f"split of {name!r}", parsed[1], splits)
    features = dict(builder.info.features.items())
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    if not images:
        raise AdvjaxError(f"{where!r} has no image; its features are {', '.join(features)}")
    (image, *_) = images
    try:
        skip = {key: tfds.decode.SkipDecoding() for key in images}
        source = builder.as_data_source(split, decoders=skip)
    except NotImplementedError as error:  # tfds's, of files that cannot be read at random
        raise AdvjaxError(
            f"{where!r} is not in array_record form; prepare it with file_format='array_record'"
        ) from error
    except Exception as error:  # of many kinds, of slices that it cannot make
        reason = " ".join(str(error).split()) or repr(error)
        raise AdvjaxError(f"{where!r} cannot be read ({reason}); give another split") from error
    labels = features.get("label")
    classes: list[str | None] = []
    records: dict[str, int] = {}
    for number, record in enumerate(source):
        key = next((record[n] for n in ("file_name", "image/filename", "id") if n in record), None)
        key = key.decode(errors="replace") if isinstance(key, bytes) else key
        records[str(number if key is None or str(key) in records else key)] = number
        label = record.get("label")
        names = getattr(labels, "int2str", None)
        classes.append(None if label is None else names(int(label)) if names else str(label))
    return _Tfds(source, image, records, classes)
