"""The project's own weights files: safetensors whose header names the source of the weights."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from advjax import files
from advjax.checkpoints import content
from advjax.errors import AdvjaxError, WeightsError

_PREFIX = "advjax."  # of every key of ours in the header, beside those of other programs
_VERSION = "1"
_DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BOOL": np.bool_},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
}
_NAMED = 6  # of each kind of mismatch; the rest is a count


@dataclasses.dataclass(frozen=True)
class WeightsMetadata:
    """The metadata in the header of a weights file.

    Attributes:
        network: The network's name in advjax ("caffenet"); empty for files of other programs.
        source: The address or name of the file that the weights were converted from.
        sha256: SHA-256 of that source file, hexadecimal.
        licence: The licence of the weights.
        preprocessing: The steps from images to the network's input (mean, scale, channels, ...):
            any JSON value.
        classes: The names of the output's classes, in order; None when they are not known.
    """

    network: str = ""
    source: str = ""
    sha256: str = ""
    licence: str = ""
    preprocessing: Any = None
    classes: tuple[str, ...] | None = None


def save_weights(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: WeightsMetadata
) -> None:
    """Write tensors and their metadata as one safetensors file, atomically.

    The header also carries a SHA-256 of the whole content, so that `load_weights` sees damage.

    Args:
        path: The file to write.
        tensors: Arrays (NumPy or JAX, any strides and byte order; real or boolean) by name.
        metadata: Their metadata.

    Raises:
        WeightsError: No tensors, a dtype that cannot be stored, NaN or infinite numbers, or
            metadata that is not JSON.
        AdvjaxError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "tiny.safetensors"
        >>> save_weights(path, {"fc.bias": np.zeros(3)}, WeightsMetadata(network="tiny"))
        >>> tensors, metadata = load_weights(path)
        >>> tensors["fc.bias"].shape, metadata.network
        ((3,), 'tiny')
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if not tensors:
        raise WeightsError("tensors is empty; give at least one array")
    arrays = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        native = array.dtype.newbyteorder("=")
        if native not in _DTYPES.values():
            raise WeightsError(
                f"tensor {name!r} has dtype {array.dtype}, which is not stored; use float32"
            )
        # safetensors writes the bytes of a non-contiguous array in the wrong order, silently.
        # (ascontiguousarray alone makes a scalar an array of one.)
        arrays[name] = np.ascontiguousarray(array, dtype=native).reshape(array.shape)
    _check_finite(arrays, "tensors")
    try:
        header = {
            "version": _VERSION,
            "network": metadata.network,
            "source": metadata.source,
            "sha256": metadata.sha256,
            "licence": metadata.licence,
            "preprocessing": json.dumps(metadata.preprocessing),
            "classes": json.dumps(metadata.classes),
        }
    except (TypeError, ValueError) as error:
        raise WeightsError(f"metadata cannot be written as JSON: {error}") from error
    wrong = [key for key, value in header.items() if not isinstance(value, str)]
    if wrong:
        raise WeightsError(f"metadata field {wrong[0]!r} is not a string; give text")
    header["content"] = _digest(arrays, header)
    with files.atomic_path(path) as temporary:
        try:
            save_file(arrays, temporary, {_PREFIX + key: value for key, value in header.items()})
        except SafetensorError as error:
            reason = " ".join(str(error).split())
            raise AdvjaxError(f"cannot write {os.fspath(path)!r}: {reason}; make room") from error


def load_weights(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], WeightsMetadata]:
    """Read a safetensors file: one of `save_weights`, or of any other program.

    Args:
        path: The file.

    Returns:
        The tensors by name, each owning its memory, and the metadata; all of its fields are empty
        when the file was not written by advjax.

    Raises:
        WeightsError: Not a safetensors file, truncated, damaged (the content does not match the
            checksum in the header), a dtype that NumPy lacks (BF16, F8), no tensors, or NaN or
            infinite numbers.
    """
    from safetensors import SafetensorError, safe_open

    where = f"weights {os.fspath(path)!r}"
    if content.sniff(path) != "safetensors":
        raise WeightsError(
            f"{where} is a .caffemodel, not a safetensors file; convert it with 'advjax weights"
            " convert'"
        )
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            header = file.metadata() or {}
            arrays = {}
            for name in file.keys():  # noqa: SIM118
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _DTYPES:
                    raise WeightsError(
                        f"{where}: tensor {name!r} has dtype {dtype}; convert it to F32 first"
                    )
                arrays[name] = file.get_tensor(name)
    except (SafetensorError, OSError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{where} is truncated or damaged ({reason}); fetch, copy or convert it again"
        ) from error
    ours = {key.removeprefix(_PREFIX): text for key, text in header.items() if _PREFIX in key}
    metadata = _metadata(ours, arrays, where) if ours else WeightsMetadata()
    if not arrays:
        raise WeightsError(f"{where} holds no tensors; convert the weights again")
    _check_finite(arrays, where)
    return arrays, metadata


class Misfit(NamedTuple):
    """The ways in which tensors do not fit a network, each tensor with its shape as text."""

    missing: dict[str, str]
    extra: dict[str, str]
    wrong: dict[str, str]

    def __str__(self) -> str:
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.extra),
            ("wrong shape", self.wrong),
        )
        return "; ".join(f"{kind} {_some(list(each.values()))}" for kind, each in kinds if each)

    @property
    def unusable(self) -> tuple[str, ...]:
        """The names of the network's tensors that are missing or of another shape."""
        return (*self.missing, *self.wrong)


def compare(
    expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]]
) -> Misfit:
    """Return the ways in which tensors do not fit a network.

    Args:
        expected: The shapes that the network needs, by name.
        actual: The shapes that are there, by name.

    Example:
        >>> str(compare({"fc8.bias": (1000,)}, {"fc9.bias": (1000,)}))
        'missing -fc8.bias (1000,); unexpected +fc9.bias (1000,)'
    """
    return Misfit(
        {name: f"-{name} {tuple(expected[name])}" for name in expected if name not in actual},
        {name: f"+{name} {tuple(actual[name])}" for name in actual if name not in expected},
        {
            name: f"{name} {tuple(actual[name])} where {tuple(shape)} is needed"
            for name, shape in expected.items()
            if name in actual and tuple(actual[name]) != tuple(shape)
        },
    )


def _some(items: list[str]) -> str:
    named = ", ".join(items[:_NAMED])
    return named + (f" and {len(items) - _NAMED} more" if len(items) > _NAMED else "")


def _check_finite(arrays: Mapping[str, np.ndarray], where: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WeightsError(f"{where}: tensor {name!r} holds NaN or infinite numbers")


def _digest(arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> str:
    """Hash (SHA-256) the header's text, the tensors' names, dtypes and shapes, and their bytes."""
    names = sorted(arrays)
    described = [[name, arrays[name].dtype.str, arrays[name].shape] for name in names]
    digest = hashlib.sha256(json.dumps([header, described], sort_keys=True).encode())
    for name in names:
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _metadata(
    header: dict[str, str], arrays: Mapping[str, np.ndarray], where: str
) -> WeightsMetadata:
    """Return the metadata of a file of ours after its checksum is verified."""
    content_digest = header.pop("content", None)
    if content_digest is None or content_digest != _digest(arrays, header):
        raise WeightsError(
            f"{where} is damaged: its content does not match the SHA-256 in its header; fetch, copy"
            " or convert it again"
        )
    if header.get("version") != _VERSION:
        raise WeightsError(
            f"{where} was written by a newer advjax (version {header.get('version')!r} of the"
            f" header, {_VERSION!r} is known); update advjax"
        )
    classes = json.loads(header["classes"])
    return WeightsMetadata(
        network=header["network"],
        source=header["source"],
        sha256=header["sha256"],
        licence=header["licence"],
        preprocessing=json.loads(header["preprocessing"]),
        classes=None if classes is None else tuple(classes),
    )
