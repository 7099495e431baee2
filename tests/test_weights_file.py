import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from caffe_writers import write_caffemodel
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from safetensors.numpy import save_file

from advjax.checkpoints import (
    CaffeLayer,
    CaffeModel,
    WeightsMetadata,
    compare,
    load_weights,
    save_weights,
    sha1_file,
    sha256_file,
    sniff,
)
from advjax.errors import AdvjaxError, WeightsError

METADATA = WeightsMetadata(
    network="caffenet",
    source="http://localhost/caffenet.caffemodel",
    sha256="ab" * 32,
    licence="unrestricted; naïve 許可",
    preprocessing={"mean": [104.00698793, 116.5, 122.25], "order": "BGR", "crop": None},
    classes=("tench, Tinca tinca", "gold\nfish", "鮫"),
)


def some_tensors():
    random = np.random.default_rng(0)
    return {
        "conv1.kernel": random.standard_normal((3, 3, 2, 4)).astype(np.float32),
        "conv1.bias": random.standard_normal(4),
        "steps": np.array(7),
        "none": np.zeros((0, 3), np.float16),
        "flags": np.array([True, False]),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("metadata", [METADATA, WeightsMetadata()])
def test_what_is_saved_is_loaded(tmp_path, metadata):
    save_weights(tmp_path / "net", some_tensors(), metadata)
    tensors, found = load_weights(tmp_path / "net")
    assert_same(tensors, some_tensors())
    assert found == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


@given(
    st_numpy.arrays(
        st.sampled_from([">f4", "<f8", ">f2", "<i4", ">i8", "u1"]),
        st_numpy.array_shapes(min_dims=2, max_dims=4, max_side=4),
        elements=st.integers(0, 99),
    ),
    st.randoms(use_true_random=False),
)
def test_strides_and_byte_order_make_no_difference(tmp_path_factory, array, random):
    path = tmp_path_factory.getbasetemp() / "strided.safetensors"
    axes = list(range(array.ndim))
    random.shuffle(axes)
    view = array.transpose(axes)[..., :: random.choice((1, -1, 2))]
    save_weights(path, {"a": view}, METADATA)
    found = load_weights(path)[0]["a"]
    np.testing.assert_array_equal(found, view)
    assert found.dtype == view.dtype.newbyteorder("=")
    assert found.shape == view.shape


def test_jax_arrays(tmp_path):
    save_weights(tmp_path / "net", {"a": jnp.arange(6.0).reshape(2, 3).T}, METADATA)
    expected = np.float32([[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(load_weights(tmp_path / "net")[0]["a"], expected, strict=True)


def test_loaded_arrays_own_their_memory(tmp_path):
    save_weights(tmp_path / "net", some_tensors(), METADATA)
    tensors, _ = load_weights(tmp_path / "net")
    (tmp_path / "net").write_bytes(b"")
    tensors["conv1.kernel"][:] = 1
    np.testing.assert_array_equal(tensors["conv1.bias"], some_tensors()["conv1.bias"])


def test_files_of_other_programs(tmp_path):
    tensors = {"a": np.arange(3, dtype=np.float32)}
    for metadata in (None, {"format": "pt", "network": "not ours"}):
        save_file(tensors, tmp_path / "net", metadata)
        found, read = load_weights(tmp_path / "net")
        assert_same(found, tensors)
        assert read == WeightsMetadata()


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, METADATA, "tensors is empty"),
        ({"a": np.ones(2) * 1j}, METADATA, "'a' has dtype complex128"),
        ({"a": np.array(["x"])}, METADATA, "'a' has dtype <U1"),
        ({"a": jnp.ones(2, jnp.bfloat16)}, METADATA, "'a' has dtype bfloat16"),
        ({"a": np.ones(2), "b": np.array([1, np.nan])}, METADATA, "'b' holds NaN"),
        ({"a": np.ones(2)}, WeightsMetadata(preprocessing=object()), "JSON"),
        ({"a": np.ones(2)}, WeightsMetadata(preprocessing=np.ones(3)), "JSON"),
        ({"a": np.ones(2)}, WeightsMetadata(source=Path("x")), "'source' is not"),  # type: ignore
    ],
)
def test_what_cannot_be_saved(tmp_path, tensors, metadata, message):
    with pytest.raises(WeightsError, match=message):
        save_weights(tmp_path / "net", tensors, metadata)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "net").mkdir()
    with pytest.raises(AdvjaxError, match="cannot write"):
        save_weights(tmp_path / "net", some_tensors(), METADATA)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AdvjaxError, match="cannot write"):
        save_weights(tmp_path / "file" / "net", some_tensors(), METADATA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "net"]


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "net"
    save_weights(path, {"a": np.arange(5.0), "b": np.float32([1, 2])}, METADATA)
    raw = path.read_bytes()
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(WeightsError) as caught:
            load_weights(path)
        assert "\n" not in str(caught.value)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "net"
    save_weights(path, {"a": np.arange(5.0)}, METADATA)
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(WeightsError):
            load_weights(path)


def rewritten(path, change):
    """Changes the JSON header of a safetensors file; the tensors' bytes stay."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["__metadata__"].update({"advjax.network": "alexnet"}), "is damaged"),
        (lambda h: h["__metadata__"].pop("advjax.content"), "is damaged"),
        (lambda h: h["__metadata__"].pop("advjax.classes"), "is damaged"),
        (lambda h: h.update(b=h.pop("a")), "is damaged"),
        (lambda h: h["a"].update(shape=[5, 1]), "is damaged"),
        (lambda h: h["a"].update(shape=[2**40, 2**40]), "truncated or damaged"),
        (lambda h: h["a"].update(dtype="F999"), "truncated or damaged"),
    ],
)
def test_a_header_that_was_tampered_with(tmp_path, change, message):
    path = tmp_path / "net"
    save_weights(path, {"a": np.arange(5.0)}, METADATA)
    rewritten(path, change)
    with pytest.raises(WeightsError, match=message):
        load_weights(path)


def test_foreign_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "net"
    save_file({"a": np.arange(6, dtype=np.int16)}, path)
    rewritten(path, lambda header: header["a"].update(dtype="BF16"))
    with pytest.raises(WeightsError, match="'a' has dtype BF16"):
        load_weights(path)
    save_file({"a": np.float32([1, np.inf])}, path)
    with pytest.raises(WeightsError, match="'a' holds NaN or infinite"):
        load_weights(path)
    save_file({}, path)
    with pytest.raises(WeightsError, match="no tensors"):
        load_weights(path)


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_right(tmp_path):
    """Some of the 10,000 mutations that tests/fuzz_weights.py makes on demand."""
    random = np.random.default_rng(1)
    files = []
    for index, size in enumerate((3, 300, 30_000)):
        files.append(tmp_path / f"{index}.safetensors")
        save_weights(files[-1], {"a": random.standard_normal(size), "b": np.ones((2, 3))}, METADATA)
    files.append(tmp_path / "foreign.safetensors")
    save_file({"a": random.standard_normal(300), "b": np.ones((2, 3), np.float16)}, files[-1])
    script = Path(__file__).with_name("fuzz_weights.py")
    command = [sys.executable, str(script), "3000", "0", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["count"] == 3000
    assert figures["refused"] > 2700


def test_a_fit_is_silent():
    assert str(compare({"a": (2, 3)}, {"a": (2, 3)})) == ""


def test_all_that_does_not_fit_is_in_one_line():
    expected = {f"w{i}": (i, 2) for i in range(10)} | {"same": (1,), "turned": (3, 5)}
    found = {f"x{i}": (7,) for i in range(8)} | {"same": (1,), "turned": (5, 3)}
    message = str(compare(expected, found))
    assert "\n" not in message
    assert "-w0 (0, 2)" in message
    assert "-w5 (5, 2) and 4 more" in message
    assert "-w6" not in message
    assert "+x5 (7,) and 2 more" in message
    assert "turned (5, 3) where (3, 5) is needed" in message
    assert "same" not in message


def test_formats_are_told_by_content(tmp_path):
    save_weights(tmp_path / "a.caffemodel", {"a": np.ones(3)}, METADATA)
    assert sniff(tmp_path / "a.caffemodel") == "safetensors"
    model = CaffeModel("net", "V2", (CaffeLayer("ip", "InnerProduct", blobs=(np.ones((1, 1)),)),))
    for format in ("V1", "V2"):
        for name in ("net", ""):
            path = tmp_path / f"{format}.safetensors"
            write_caffemodel(path, model._replace(name=name), format=format)
            assert sniff(path) == "caffemodel"
    with pytest.raises(WeightsError, match=r"is a \.caffemodel, not a safetensors file; convert"):
        load_weights(path)


def test_real_files_are_told_apart(shared):
    for path in (shared / "caffemodels").glob("*.caffemodel"):
        assert sniff(path) == "caffemodel"
    for path in sorted((shared / "imagenet-1000").glob("*.jpg"))[:20]:
        with pytest.raises(WeightsError, match="neither"):
            sniff(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"\x80\x02\x8a\x0al\xfc", "is a PyTorch or Python pickle; advjax does not unpickle"),
        (b"PK\x03\x04archive", "is a zip archive"),
        (b"\x1f\x8b\x08\x00", "is a gzip file"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "is a tar archive"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "is a NumPy array"),
        (b"<!DOCTYPE html>\n<html>", "is a web page"),
        (b"\n\n<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
        (b'name: "CaffeNet"\ninput: "data"\n', "perhaps a .prototxt"),
        (b"404 not found", "is text"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", r"neither .* \(it begins with ff d8 ff e0 00 10 4a 46"),
        (struct.pack("<Q", 1000) + b'{"a":', "truncated or damaged safetensors"),
    ],
)
def test_what_is_not_weights(tmp_path, raw, message):
    path = tmp_path / "weights"
    path.write_bytes(raw)
    with pytest.raises(WeightsError, match=message) as caught:
        sniff(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(WeightsError, match=message):
        load_weights(path)


def test_missing_directories_and_unreadable(tmp_path):
    with pytest.raises(WeightsError, match="is a directory"):
        sniff(tmp_path)
    with pytest.raises(WeightsError, match="No such file"):
        sniff(tmp_path / "absent")
    with pytest.raises(WeightsError, match="cannot read"):
        sniff(str(tmp_path / ("x" * 300)))
    with pytest.raises(WeightsError, match="cannot read"):
        sniff("nul\0byte")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="not a regular file"):
        sniff(tmp_path / "pipe")


def test_checksums(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the examples of FIPS 180-4
    assert sha1_file(tmp_path / "abc") == "a9993e364706816aba3e25717850c26c9cd0d89d"
    assert sha256_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
