"""Write `.caffemodel` and `.binaryproto` files for the tests of their readers."""

import os
from typing import Any, Literal

import numpy as np

from advjax import files
from advjax.checkpoints import caffemodel
from advjax.checkpoints.caffemodel import CaffeModel
from advjax.errors import WeightsError

V1_NUMBERS = {name: number for number, name in caffemodel._V1_TYPES.items()}


def write_caffemodel(
    path: str | os.PathLike[str],
    model: CaffeModel,
    *,
    format: Literal["V1", "V2"] = "V2",
    packed: bool = True,
) -> None:
    """Write a binary `.caffemodel`, atomically; Caffe and OpenCV's reader load it with a prototxt.

    Args:
        path: The file to write.
        model: The network; its `format` is not looked at. Blobs are written as float32.
        format: "V2" (BlobShape) or "V1" (legacy four-number shapes, for Caffe before 2015).
        packed: Whether numbers are packed, as all versions of Caffe write them.

    Raises:
        WeightsError: A blob that is not real numbers, or what V1 cannot say: a type that is not
            among its 39, or a blob of more than 4 axes.
        AdvjaxError: The file cannot be written.
    """
    if format not in ("V1", "V2"):
        raise WeightsError(f"format {format!r} is not known; give 'V1' or 'V2'")
    net = caffemodel._schema(packed).Net(name=model.name.encode())
    for layer in model.layers:
        written = net.layer.add() if format == "V2" else net.layers.add()
        written.name = layer.name.encode()
        written.bottom.extend(bottom.encode() for bottom in layer.bottoms)
        written.top.extend(top.encode() for top in layer.tops)
        if format == "V2":
            written.type = layer.type.encode()
        elif layer.type in V1_NUMBERS:
            written.type = V1_NUMBERS[layer.type]
        else:
            raise WeightsError(f"layer {layer.name!r}: V1 has no type {layer.type!r}; write V2")
        for blob in layer.blobs:
            _fill(written.blobs.add(), np.asarray(blob), format, f"layer {layer.name!r}")
    files.write_bytes(path, net.SerializeToString())


def write_binaryproto(path: str | os.PathLike[str], mean: np.ndarray) -> None:
    """Write a mean image [channels, height, width] as a `.binaryproto`, atomically.

    Raises:
        WeightsError: `mean` does not have three axes of real numbers.
        AdvjaxError: The file cannot be written.
    """
    mean = np.asarray(mean)
    if mean.ndim != 3:
        raise WeightsError(f"mean has shape {mean.shape}; give (channels, height, width)")
    blob = caffemodel._schema(True).Blob()
    _fill(blob, mean, "V1", "mean")
    files.write_bytes(path, blob.SerializeToString())


def _fill(blob: Any, array: np.ndarray, format: str, what: str) -> None:
    """Write an array into an empty BlobProto."""
    if array.dtype.kind not in "fiub":
        raise WeightsError(f"{what}: a blob has dtype {array.dtype}; give real numbers")
    if format == "V1":
        if array.ndim > 4:
            raise WeightsError(f"{what}: V1 has no blobs of {array.ndim} axes; write V2")
        legacy = (1,) * (4 - array.ndim) + array.shape
        blob.num, blob.channels, blob.height, blob.width = legacy
    else:
        blob.shape.dim.extend(array.shape)
    payload = array.astype("<f4").tobytes()
    # The packed field 5 as it stands on the wire: tag, length in base 128, numbers.
    length, remaining = bytearray(), len(payload)
    while remaining > 127:
        length.append(remaining & 127 | 128)
        remaining >>= 7
    length.append(remaining)
    blob.MergeFromString(b"\x2a" + bytes(length) + payload)
