"""Read PyTorch's legacy (non-zip) files of weights without PyTorch, calling nothing in them.

Such a file is a row of pickles (a magic number, a version, the machine's sizes, the state dict with
its storages as persistent ids, the storages' keys) and then the storages' raw bytes. The layout is
that of `_legacy_save` in torch/serialization.py.
"""

import hashlib
import io
import os
import pickle
from typing import Any, NamedTuple

import numpy as np

from advjax.checkpoints import content
from advjax.errors import WeightsError

_HEADER = (0x1950A86A20F9469CFC6C, 1001)  # PyTorch's magic number and its format's version


class _Storage(NamedTuple):
    dtype: str
    key: str
    count: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Dict(dict[str, Any]):
    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Ignore the version numbers of a state dict's modules."""


class _Function(NamedTuple):
    """A function that a pickle may call; immutable, so that no pickle can change it."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        match self.name, arguments:
            case "OrderedDict", ():
                return _Dict()
            case "_rebuild_parameter", (_Tensor() as tensor, *_):
                return tensor
            case "_rebuild_tensor_v2", (_Storage() as storage, offset, shape, strides, *_):
                return _Tensor(storage, offset, shape, strides)
        raise pickle.UnpicklingError(f"a call of {self.name} in it has unknown arguments")


_KNOWN = {
    "collections.OrderedDict": _Function("OrderedDict"),
    "torch._utils._rebuild_tensor_v2": _Function("_rebuild_tensor_v2"),
    "torch._utils._rebuild_parameter": _Function("_rebuild_parameter"),
    "torch.FloatStorage": "<f4",
    "torch.LongStorage": "<i8",
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in _KNOWN:
            raise pickle.UnpicklingError(f"it calls {name[:60]!r}, which no state dict needs")
        return _KNOWN[name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(dtype), str(key), str(), int(count), None):
                return _Storage(dtype, key, count)
        raise pickle.UnpicklingError("a storage in it is of an unknown kind")


def read_legacy_state_dict(path: str | os.PathLike[str], sha256: str) -> dict[str, np.ndarray]:
    """Read the state dict in a legacy PyTorch file (`torch.save` before 1.6, or its old format).

    The checksum is compared before anything is unpickled. Five names are known to the unpickler;
    any other name in the file is an error, and no function outside this module is called.

    Args:
        path: The file, a `.pth` or `.pt` that is not a zip archive.
        sha256: The file's SHA-256, hexadecimal, as the catalogue pins it.

    Returns:
        The tensors by name, in the file's order, C-contiguous, each owning its memory.

    Raises:
        WeightsError: Missing, another checksum, another format, anything but a flat dict of names
            and dense tensors, or a name that a state dict does not need.

    Example:
        >>> path = "efficientnet-lite0.pth"  # doctest: +SKIP
        >>> read_legacy_state_dict(path, "5793...")["_fc.bias"].shape  # doctest: +SKIP
        (1000,)
    """
    where = f"weights {os.fspath(path)!r}"
    with content.open_file(path) as file:
        raw = file.read()
    actual = hashlib.sha256(raw).hexdigest()
    if actual != sha256:
        raise WeightsError(f"{where} has SHA-256 {actual} where {sha256} is needed; get it again")
    try:
        return _read(io.BytesIO(raw))
    except Exception as error:  # pickle raises whatever a damaged file makes it meet
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{where} cannot be read as a legacy PyTorch file: {reason}; give one of torch.save"
        ) from error


def _read(file: io.BytesIO) -> dict[str, np.ndarray]:
    if any(_Unpickler(file).load() != number for number in _HEADER):
        raise ValueError("it lacks PyTorch's magic number or version 1001")
    _machine, state, keys = (_Unpickler(file).load() for _ in range(3))
    if not isinstance(state, dict) or not all(isinstance(item, _Tensor) for item in state.values()):
        raise ValueError("it holds something else than a flat dict of tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in state.values()}
    buffers = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        buffers[key] = file.read(count * np.dtype(storages[key].dtype).itemsize)
    return {name: _array(tensor, buffers[tensor.storage.key]) for name, tensor in state.items()}


def _array(tensor: _Tensor, buffer: bytes) -> np.ndarray:
    dtype = np.dtype(tensor.storage.dtype)
    offset, *strides = (number * dtype.itemsize for number in (tensor.offset, *tensor.strides))
    # NumPy refuses a shape, an offset or strides that reach beyond the buffer.
    view = np.ndarray(tensor.shape, dtype, buffer, offset, tuple(strides))
    return view.astype(dtype.newbyteorder("="), order="C")
