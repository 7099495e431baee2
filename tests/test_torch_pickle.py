import contextlib
import hashlib
import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from advjax.checkpoints import CatalogueEntry, fetch, load_catalogue, read_legacy_state_dict
from advjax.errors import AdvjaxError, WeightsError

KINDS = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<i8": "LongStorage"}


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
    quarters = Storage(np.arange(4, dtype="<f4"), "8")
    state = OrderedDict(
        {
            "conv.weight": tensor(floats, 0, (2, 3, 4), (12, 4, 1)),
            "conv.turned": tensor(floats, 0, (4, 3, 2), (1, 4, 12)),
            "conv.bias": tensor(floats, 20, (4,), (1,)),
            "steps": tensor(longs, 3, (), ()),
            "none": tensor(longs, 5, (0, 2), (2, 1)),
            "tied": Call(
                Name("torch._utils", "_rebuild_parameter"),
                tensor(quarters, 0, (2, 2), (2, 1)),
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
        "tied": np.arange(4, dtype=np.float32).reshape(2, 2),
    }
    return state, [floats, longs, quarters], expected


def read(tmp_path, raw):
    with contextlib.chdir(tmp_path):  # so that no message holds a path with the test's name in it
        Path("net.pth").write_bytes(raw)
        return read_legacy_state_dict("net.pth", hashlib.sha256(raw).hexdigest())


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
    pinned = load_catalogue()["efficientnet_lite0"].sha256
    assert pinned.startswith("57934424")  # as the file's name says
    state = read_legacy_state_dict(path, pinned)
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
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def after_header(*pickles):
    machine = {"little_endian": True}
    return b"".join([*(dump(part) for part in (0x1950A86A20F9469CFC6C, 1001, machine)), *pickles])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, print, Path, bytearray])
def test_nothing_is_executed(tmp_path, protocol, function):
    mark = tmp_path / "executed"
    evil = Evil(function, f"touch {mark}")
    nested = Evil(getattr, Evil(function, f"touch {mark}"), "__class__")
    for state in (evil, nested, OrderedDict({"a": evil}), [nested]):
        for raw in (after_header(pickle.dumps(state, protocol)), pickle.dumps(state, protocol)):
            with pytest.raises(WeightsError, match="it calls '") as caught:
                read(tmp_path, raw)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 500
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
        ("advjax.checkpoints.torch_pickle", "_KNOWN"),
        ("torch", "BFloat16Storage"),
    ],
)
def test_other_names_are_refused(tmp_path, function):
    state = {"a": Call(Name(*function), "x")}
    with pytest.raises(WeightsError, match=f"it calls '{function[0]}"):
        read(tmp_path, legacy_file(state, []))


def test_a_pickle_cannot_change_what_the_next_call_does(tmp_path):
    """BUILD sets attributes of what it is given; none of the known names has any to set."""
    for known in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n"):
        changed = b"\x80\x02" + known + b"N}X\x04\x00\x00\x00name]s\x86b."
        with pytest.raises(WeightsError, match="attribute"):
            read(tmp_path, after_header(changed))


def test_the_checksum_comes_before_the_pickle(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps(Evil(os.system, "true")))
    with pytest.raises(WeightsError, match=r"has SHA-256 [0-9a-f]{64} where 0+ is needed"):
        read_legacy_state_dict(path, "0" * 64)
    with pytest.raises(AdvjaxError, match="sha256 of 'net' is None"):
        CatalogueEntry("net", "free", format="torch-legacy")


FLOATS = Storage(np.arange(6, dtype="<f4"), "1")


@pytest.mark.parametrize(
    "value",
    [
        tensor(FLOATS, 0, (7,), (1,)),
        tensor(FLOATS, 1, (6,), (1,)),
        tensor(FLOATS, 0, (2, 2), (5, 1)),
        tensor(FLOATS, -1, (2,), (1,)),
        tensor(FLOATS, 0, (2,), (-1,)),
        tensor(FLOATS, 0, (-2,), (1,)),
        tensor(FLOATS, 0, (2,), ()),
        tensor(FLOATS, 0, (2.0,), (1,)),
        tensor(FLOATS, 0, (1,) * 80, (1,) * 80),
        tensor("storage", 0, (2,), (1,)),
        tensor(Storage(FLOATS.numbers, "2"), 0, (6,), (1,)),
        {"nested": tensor(FLOATS, 0, (6,), (1,))},
        3,
        Name("torch", "FloatStorage"),
    ],
)
def test_what_a_state_dict_does_not_hold(tmp_path, value):
    with pytest.raises(WeightsError, match="cannot be read as a legacy PyTorch file") as caught:
        read(tmp_path, legacy_file({"a": value}, [FLOATS]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": 7},
        {"version": 1002},
        {"storages": []},
        {"storages": [Storage(FLOATS.numbers[:5], "1")]},
        {"state": []},
    ],
)
def test_other_layouts_are_refused(tmp_path, changes):
    whole = {"state": {"a": tensor(FLOATS, 0, (6,), (1,))}, "storages": [FLOATS]}
    read(tmp_path, legacy_file(**whole))
    with pytest.raises(WeightsError, match="cannot be read as a legacy PyTorch file"):
        read(tmp_path, legacy_file(**(whole | changes)))


@pytest.mark.parametrize("raw", [b"PK\x03\x04data.pkl", b"\x80\x04\x95", b"\x80\x02", b"weights"])
def test_other_formats(tmp_path, raw):
    with pytest.raises(WeightsError, match="cannot be read as a legacy PyTorch file"):
        read(tmp_path, raw)


def test_an_empty_file(tmp_path):
    with pytest.raises(WeightsError, match="is empty"):
        read(tmp_path, b"")
