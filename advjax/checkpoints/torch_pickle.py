"""PyTorch's legacy (non-zip) files of weights, read without PyTorch and without executing anything.

Such a file is a row of pickles (a magic number, a version, the machine's sizes, the state dict with
its storages as persistent ids, the storages' keys) and then the storages' raw bytes. `pickle` would
call whatever the file names. Here a small machine of our own runs the few opcodes that a state dict
needs: the three functions that one calls become records of ours, and everything else is refused.
The layout is that of `_legacy_save` in torch/serialization.py.
"""

import io
import math
import os
import struct
from typing import Any, NamedTuple

import numpy as np

from advjax.checkpoints import content
from advjax.errors import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
}
_FUNCTIONS = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
# The opcodes (pickletools documents them) that a state dict is made of, with their arguments.
_OPCODES = {
    b"\x80": ("PROTO", "B"),
    b".": ("STOP", ""),
    b"N": ("NONE", ""),
    b"\x88": ("TRUE", ""),
    b"\x89": ("FALSE", ""),
    b"K": ("PUSH", "B"),
    b"M": ("PUSH", "<H"),
    b"J": ("PUSH", "<i"),
    b"\x8a": ("PUSH", "long"),
    b"G": ("PUSH", ">d"),
    b"X": ("PUSH", "text"),
    b"}": ("EMPTY_DICT", ""),
    b"]": ("EMPTY_LIST", ""),
    b")": ("EMPTY_TUPLE", ""),
    b"(": ("MARK", ""),
    b"t": ("TUPLE", ""),
    b"\x85": ("TUPLE1", ""),
    b"\x86": ("TUPLE2", ""),
    b"\x87": ("TUPLE3", ""),
    b"a": ("APPEND", ""),
    b"e": ("APPENDS", ""),
    b"s": ("SETITEM", ""),
    b"u": ("SETITEMS", ""),
    b"q": ("PUT", "B"),
    b"r": ("PUT", "<I"),
    b"h": ("GET", "B"),
    b"j": ("GET", "<I"),
    b"c": ("GLOBAL", "global"),
    b"Q": ("PERSISTENT_ID", ""),
    b"R": ("REDUCE", ""),
    b"b": ("BUILD", ""),
}


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    count: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unreadable(Exception):
    """Why a file is refused; the reader adds the file's name."""


def read_legacy_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the state dict in a legacy PyTorch file (`torch.save` before 1.6, or its old format).

    Nothing in the file is called or imported, and no claimed size is believed: shapes and strides
    are checked against the storages, the storages against the file.

    Args:
        path: The file, a `.pth` or `.pt` that is not a zip archive.

    Returns:
        The tensors by name, in the file's order, C-contiguous, each owning its memory.

    Raises:
        WeightsError: Another format, truncated or damaged, anything but a flat dict of names and
            dense tensors, or a pickle that calls what a state dict has no need of.
    """
    where = f"weights {os.fspath(path)!r}"
    with content.open_file(path) as file:
        head = file.read(512)
        if not head.startswith(b"\x80\x02"):
            content.refuse_foreign(path, head)
            raise WeightsError(f"{where} is not a legacy PyTorch file; give one of torch.save")
        whole = io.BytesIO(head + file.read())
    try:
        return _read(whole)
    except _Unreadable as error:
        raise WeightsError(f"{where} cannot be read as a legacy PyTorch file: {error}") from error


def _read(file: io.BytesIO) -> dict[str, np.ndarray]:
    if _unpickle(file) != _MAGIC:
        raise _Unreadable("it is another pickle, without PyTorch's magic number")
    if _unpickle(file) != _PROTOCOL:
        raise _Unreadable("its version of the format is not 1001")
    machine = _unpickle(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise _Unreadable("it was written on a big-endian machine")
    state = _unpickle(file)
    keys = _unpickle(file)
    if not isinstance(state, dict) or not all(isinstance(item, _Tensor) for item in state.values()):
        raise _Unreadable("it holds something else than a flat dict of tensors")
    storages: dict[str, _Storage] = {}
    for tensor in state.values():
        # Were two sizes of one storage let in, a view could reach beyond the smaller.
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise _Unreadable("a storage in it is described in two ways; the file is damaged")
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or sorted(keys) != sorted(storages)
    ):
        raise _Unreadable("its list of storages does not match its tensors; the file is damaged")
    numbers = {}
    for key in keys:
        storage = storages[key]
        if int.from_bytes(_take(file, 8), "little") != storage.count:
            raise _Unreadable("a storage has another size than its tensors say; it is damaged")
        raw = _take(file, storage.count * np.dtype(storage.dtype).itemsize)
        numbers[key] = np.frombuffer(raw, storage.dtype)
        if numbers[key].dtype.kind == "f" and not np.isfinite(numbers[key]).all():
            raise _Unreadable("it holds NaN or infinite numbers; the file is damaged")
    if file.read(1):
        raise _Unreadable("bytes follow the last storage; the file is damaged")
    return {name: _array(tensor, numbers[tensor.storage.key]) for name, tensor in state.items()}


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    strides = tuple(stride * numbers.itemsize for stride in tensor.strides)
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return view.astype(numbers.dtype.newbyteorder("="), order="C")


def _take(file: io.BytesIO, count: int) -> bytes:
    raw = file.read(count)  # at most what is left, whatever `count` claims
    if len(raw) != count:
        raise _Unreadable("it is truncated; fetch or copy it again")
    return raw


def _argument(file: io.BytesIO, form: str) -> Any:
    """Reads what follows an opcode: nothing, text, a global's name or a number (struct's form)."""
    match form:
        case "":
            return None
        case "global":
            lines = [file.readline().decode("ascii", "replace") for _ in range(2)]
            return " ".join(line.removesuffix("\n") for line in lines)
        case "text":
            return _take(file, int.from_bytes(_take(file, 4), "little")).decode("utf-8", "replace")
        case "long":
            return int.from_bytes(_take(file, _take(file, 1)[0]), "little", signed=True)
        case _:
            return struct.unpack(form, _take(file, struct.calcsize(form)))[0]


def _unpickle(file: io.BytesIO) -> Any:
    """Runs the next pickle on a stack of plain values; no step allocates more than its bytes."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(kind: type | tuple[type, ...] = object) -> Any:
        if not stack or (marks and len(stack) <= marks[-1]) or not isinstance(stack[-1], kind):
            raise _Unreadable("a pickle in it is damaged (its stack does not hold what is needed)")
        return stack.pop()

    def pop_to_mark() -> list[Any]:
        if not marks:
            raise _Unreadable("a pickle in it is damaged (a mark is missing)")
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def top(kind: type) -> Any:
        value = pop(kind)
        stack.append(value)
        return value

    while True:
        code = _take(file, 1)
        if code not in _OPCODES:
            raise _Unreadable(f"the pickle opcode {code.hex()} in it is not one of a state dict")
        name, form = _OPCODES[code]
        argument = _argument(file, form)
        match name:
            case "PROTO":
                pass
            case "STOP":
                value = pop()
                if stack or marks:
                    raise _Unreadable("a pickle in it is damaged (its stack is not empty)")
                return value
            case "PUSH":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "TRUE" | "FALSE":
                stack.append(name == "TRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "APPEND":
                item = pop()
                top(list).append(item)
            case "APPENDS":
                items = pop_to_mark()
                top(list).extend(items)
            case "SETITEM":
                value, key = pop(), pop()
                _set_items(top(dict), [key, value])
            case "SETITEMS":
                items = pop_to_mark()
                _set_items(top(dict), items)
            case "PUT":
                memo[argument] = top(object)
            case "GET":
                if argument not in memo:
                    raise _Unreadable("a pickle in it is damaged (a value is not set)")
                stack.append(memo[argument])
            case "GLOBAL":
                if argument not in _FUNCTIONS and argument not in _STORAGES:
                    raise _Unreadable(
                        f"it calls {argument[:60].replace(' ', '.')!r}, which no state dict of"
                        " dense tensors needs; advjax executes nothing in a file"
                    )
                stack.append(_Global(argument))
            case "PERSISTENT_ID":
                stack.append(_storage(pop(tuple)))
            case "REDUCE":
                arguments, function = pop(tuple), pop(_Global)
                stack.append(_call(function.name, arguments))
            case "BUILD":  # the version numbers of a state dict's modules; nothing we need
                pop(dict)
                top(dict)


def _set_items(target: dict[Any, Any], items: list[Any]) -> None:
    keys = items[::2]
    if len(items) % 2 or not all(isinstance(key, str) for key in keys):
        raise _Unreadable("a dict in it has keys that are not names")
    target.update(zip(keys, items[1::2], strict=True))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _storage(persistent_id: tuple[Any, ...]) -> _Storage:
    match persistent_id:
        case ("storage", _Global(kind), str(key), str(), count, None) if (
            kind in _STORAGES and _is_size(count)
        ):
            return _Storage(_STORAGES[kind], key, count)
    raise _Unreadable("a storage in it is of a kind that is not known (BFloat16, a view, ...)")


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    match name, arguments:
        case "collections OrderedDict", ():
            return {}
        case "torch._utils _rebuild_parameter", (_Tensor() as tensor, *_):
            return tensor
        case "torch._utils _rebuild_tensor_v2", (
            _Storage() as storage,
            offset,
            tuple(shape),
            tuple(strides),
            *_,
        ) if len(shape) == len(strides) <= 32 and all(map(_is_size, (offset, *shape, *strides))):
            span = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            count = math.prod(shape)
            # More elements than the storage has would be an expanded view: small in the file, and
            # as large as it likes to be in memory.
            if count > storage.count or offset + (span + 1 if count else 0) > storage.count:
                raise _Unreadable("a tensor in it reaches beyond its storage; the file is damaged")
            return _Tensor(storage, offset, shape, strides)
    raise _Unreadable(f"a call of {name.split()[-1]} in it has arguments that are not known")
