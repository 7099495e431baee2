import contextlib
import hashlib
import io
import os
import pickle
import random
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from advjax.checkpoints import fetch, read_legacy_state_dict
from advjax.errors import WeightsError

KINDS = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<i8": "LongStorage", "<f2": "HalfStorage"}


class Name:
    """Pickles as a global of another module, which need not be installed."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as a call of a global."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Storage:
    def __init__(self, numbers, key, count=None):
        self.numbers, self.key = numbers, key
        self.count = len(numbers) if count is None else count


class Pickler(pickle._Pickler):  # the Python one: its steps can be replaced
    """Writes what PyTorch's legacy torch.save writes, with calls of functions that are not here."""

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            kind = Name("torch", KINDS[obj.numbers.dtype.str])
            return ("storage", kind, obj.key, "cpu", obj.count, None)
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)


def dump(obj):
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(obj)
    return file.getvalue()


REBUILD = Name("torch._utils", "_rebuild_tensor_v2")


def tensor(storage, offset, shape, strides):
    return Call(REBUILD, storage, offset, shape, strides, False, OrderedDict())


def legacy_file(state, storages, machine=None, magic=0x1950A86A20F9469CFC6C, version=1001):
    machine = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"int": 4},
        **(machine or {}),
    }
    keys = [storage.key for storage in storages]
    raw = b"".join(map(dump, (magic, version, machine, state, keys)))
    for storage in storages:
        raw += struct.pack("<q", len(storage.numbers)) + storage.numbers.tobytes()
    return raw


def small():
    """A state dict with shared, strided, offset, scalar and empty tensors, and what they are."""
    floats = Storage(np.arange(24, dtype="<f4"), "100")
    longs = Storage(np.arange(5, dtype="<i8"), "7")
    halves = Storage(np.arange(4, dtype="<f2"), "8")
    state = OrderedDict(
        {
            "conv.weight": tensor(floats, 0, (2, 3, 4), (12, 4, 1)),
            "conv.turned": tensor(floats, 0, (4, 3, 2), (1, 4, 12)),
            "conv.bias": tensor(floats, 20, (4,), (1,)),
            "steps": tensor(longs, 3, (), ()),
            "none": tensor(longs, 5, (0, 2), (2, 1)),
            "tied": Call(
                Name("torch._utils", "_rebuild_parameter"),
                tensor(halves, 0, (2, 2), (2, 1)),
                True,
                OrderedDict(),
            ),
        }
    )
    whole = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = {
        "conv.weight": whole,
        "conv.turned": whole.T,
        "conv.bias": np.float32([20, 21, 22, 23]),
        "steps": np.array(3),
        "none": np.zeros((0, 2), np.int64),
        "tied": np.arange(4, dtype=np.float16).reshape(2, 2),
    }
    return state, [floats, longs, halves], expected


def read(tmp_path, raw):
    with contextlib.chdir(tmp_path):  # so that no message holds a path with the test's name in it
        Path("net.pth").write_bytes(raw)
        return read_legacy_state_dict("net.pth")


def test_every_kind_of_tensor(tmp_path):
    state, storages, expected = small()
    found = read(tmp_path, legacy_file(state, storages))
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].flags.c_contiguous
        found[name][...] = 1  # its own memory: the others stay as they are


def test_the_real_file():
    path = fetch("efficientnet_lite0", progress=False)
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("57934424")  # as its name says
    state = read_legacy_state_dict(path)
    assert len(state) == 296
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_blocks.0._depthwise_conv.weight"].shape == (32, 1, 3, 3)
    assert state["_conv_head.weight"].shape == (1280, 320, 1, 1)
    assert state["_fc.weight"].shape == (1000, 1280)
    assert state["_fc.bias"].shape == (1000,)
    assert {array.dtype.str for array in state.values()} == {"<f4", "<i8"}
    # The published count of EfficientNet-Lite0's parameters is 4.7 million.
    trained = [array for name, array in state.items() if "running" not in name and array.ndim]
    assert sum(array.size for array in trained) == 4_652_008
    # The same digest of what torch.load(weights_only=True) of PyTorch 2.13 reads.
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].tobytes())
    assert digest.hexdigest() == (
        "005bdebd355e2b7f8f306bd4d3e0452d87921d44b3e5eb83430a6b076fca9a3e"
    )


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/advjax-was-here",)


def test_nothing_is_executed(tmp_path):
    mark = Path("/tmp/advjax-was-here")
    mark.unlink(missing_ok=True)
    evil = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001))
    evil += pickle.dumps({"little_endian": True}, 2) + pickle.dumps(Evil(), 2)
    with pytest.raises(WeightsError, match=r"it calls 'posix\.system'.*executes nothing"):
        read(tmp_path, evil)
    with pytest.raises(WeightsError, match=r"it calls 'posix\.system'"):
        read(tmp_path, pickle.dumps(Evil(), 2))
    assert not mark.exists()


@pytest.mark.parametrize(
    "function",
    [
        ("builtins", "eval"),
        ("os", "system"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "OrderedDict.__init__"),
        ("collections OrderedDict", ""),
        ("torch", "BFloat16Storage"),
    ],
)
def test_other_functions_are_refused(tmp_path, function):
    state = {"a": Call(Name(*function), "x")}
    with pytest.raises(WeightsError, match=f"it calls '{function[0].split()[0]}"):
        read(tmp_path, legacy_file(state, []))


FLOATS = Storage(np.arange(6, dtype="<f4"), "1")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor(FLOATS, 0, (7,), (1,)), "beyond its storage"),
        (tensor(FLOATS, 1, (6,), (1,)), "beyond its storage"),
        (tensor(FLOATS, 0, (2, 2), (5, 1)), "beyond its storage"),
        (tensor(FLOATS, 0, (2**40,), (0,)), "beyond its storage"),
        (tensor(FLOATS, 0, (2**40, 2**40), (0, 0)), "beyond its storage"),
        (tensor(FLOATS, -1, (2,), (1,)), "arguments"),
        (tensor(FLOATS, 0, (2,), (-1,)), "arguments"),
        (tensor(FLOATS, 0, (-2,), (1,)), "arguments"),
        (tensor(FLOATS, 0, (2,), ()), "arguments"),
        (tensor(FLOATS, 0, (2.0,), (1,)), "arguments"),
        (tensor(FLOATS, True, (2,), (1,)), "arguments"),
        (tensor(FLOATS, 0, (1,) * 40, (1,) * 40), "arguments"),
        (tensor("storage", 0, (2,), (1,)), "arguments"),
        (tensor(Storage(FLOATS.numbers, "1", 2**45), 0, (2**44,), (1,)), "another size"),
        ({"nested": tensor(FLOATS, 0, (6,), (1,))}, "flat dict"),
        (3, "flat dict"),
        (Name("torch", "FloatStorage"), "flat dict"),
    ],
)
def test_what_a_state_dict_does_not_hold(tmp_path, value, message):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path, legacy_file({"a": value}, [FLOATS]))


def test_one_storage_described_in_two_ways(tmp_path):
    """A view checked against the larger description must not be taken of the smaller storage."""
    wide = Storage(np.zeros(1000, "<f4"), "1")
    state = {"a": tensor(wide, 0, (1000,), (1,)), "b": tensor(FLOATS, 0, (6,), (1,))}
    with pytest.raises(WeightsError, match="in two ways"):
        read(tmp_path, legacy_file(state, [FLOATS]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 7}, "magic number"),
        ({"version": 1002}, "not 1001"),
        ({"machine": {"little_endian": False}}, "big-endian"),
        ({"storages": []}, "list of storages"),
        ({"storages": [FLOATS, Storage(FLOATS.numbers, "2")]}, "list of storages"),
        ({"storages": [Storage(FLOATS.numbers[:5], "1")]}, "another size"),
        ({"state": {1: tensor(FLOATS, 0, (6,), (1,))}}, "not names"),
        ({"state": []}, "flat dict"),
    ],
)
def test_other_layouts_are_refused(tmp_path, changes, message):
    whole = {"state": {"a": tensor(FLOATS, 0, (6,), (1,))}, "storages": [FLOATS]}
    read(tmp_path, legacy_file(**whole))
    with pytest.raises(WeightsError, match=message):
        read(tmp_path, legacy_file(**(whole | changes)))


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"X\xff\xff\xff\xff", "truncated"),  # a string of 4 GB
        (b"B\xff\xff\xff\xff", "opcode 42"),  # bytes of 4 GB
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", "opcode 8d"),
        (b"]r\xff\xff\xff\xff.", "magic"),  # a memo of 4 billion places
        (b"t.", "mark is missing"),
        (b"(N.", "stack"),
        (b"NN.", "stack"),
        (b"N(\x85.", "stack does not hold"),  # a tuple of what lies under the mark
        (b"N(R.", "stack"),
        (b"h\x05.", "not set"),
        (b"}K\x01K\x02s.", "not names"),
        (b"NK\x01a.", "stack"),
        (b"(" * 100_000 + b"t" * 100_000 + b".", "magic"),  # nested 100,000 deep
        (b"cos\nsystem\n", r"os\.system"),
        (b"c" + b"x" * 100_000, "calls"),
        (b"(cos\nsystem\nX\x02\x00\x00\x00lso.", r"os\.system"),
        (b"(S'ls'\nios\nsystem\n.", "opcode 53"),
        (b"\x8c\x02os\x8c\x06system\x93.", "opcode 8c"),
    ],
)
def test_hostile_pickles(tmp_path, opcodes, message):
    with pytest.raises(WeightsError, match=message) as caught:
        read(tmp_path, b"\x80\x02" + opcodes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_list_that_doubles_itself_costs_nothing(tmp_path):
    # Each tuple holds the last one twice; its text would have 2**60 characters.
    doubling = b"N" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
    with pytest.raises(WeightsError, match="magic"):
        read(tmp_path, b"\x80\x02" + doubling + b".")
    head = b"".join(map(dump, (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {})))
    with pytest.raises(WeightsError, match="list of storages"):
        read(tmp_path, head + b"\x80\x02](" + doubling + b"X\x01\x00\x00\x001e.")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"PK\x03\x04data.pkl", "is a zip archive"),
        (b"\x80\x04\x95", "does not unpickle"),
        (b"\x80\x02", "truncated"),
        (b"weights", "is text"),
        (b"\x12\x02\x22\x00", "not a legacy PyTorch file"),
        (b"", "is empty"),
    ],
)
def test_other_formats(tmp_path, raw, message):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path, raw)


def test_nan_is_refused(tmp_path):
    storage = Storage(np.array([1, np.nan], "<f4"), "1")
    with pytest.raises(WeightsError, match="NaN"):
        read(tmp_path, legacy_file({"a": tensor(storage, 0, (2,), (1,))}, [storage]))


def test_damaged_files_are_refused_or_read(tmp_path):
    state, storages, expected = small()
    raw = legacy_file(state, storages)
    generator = random.Random(0)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(raw)
        at = generator.randrange(len(raw))
        match generator.randrange(4):
            case 0:
                damaged[at] ^= 1 << generator.randrange(8)
            case 1:
                damaged[at] = generator.randrange(256)
            case 2:
                del damaged[at:]
            case 3:
                damaged[at:at] = generator.randbytes(generator.randint(1, 8))
        try:
            found = read(tmp_path, bytes(damaged))
        except WeightsError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert sum(array.nbytes for array in found.values()) < 4 * len(raw)
    assert 500 < refused < 1000
    assert expected.keys() == read(tmp_path, raw).keys()
