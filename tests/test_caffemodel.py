import contextlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from caffe_writers import write_binaryproto, write_caffemodel
from conftest import SHARED
from fuzz_weights import wire_layers
from hypothesis import given
from hypothesis import strategies as st

from advjax.checkpoints import (
    CaffeLayer,
    CaffeModel,
    caffemodel,
    read_binaryproto,
    read_caffemodel,
)
from advjax.errors import AdvjaxError, WeightsError

# File, name of the network, format, number of layers, and some layers: type and shapes of blobs.
REAL = [
    (
        "squeezenet_v1.0",
        ("FireNet", "V2", 74),
        {
            "conv1": ("Convolution", (96, 3, 7, 7), (96,)),
            "fire2/conv1x1_1": ("Convolution", (16, 96, 1, 1), (16,)),
            "fire9/conv3x3_2": ("Convolution", (256, 64, 3, 3), (256,)),
            "fire9/concat": ("Concat",),
            "conv_final": ("Convolution", (1000, 512, 1, 1), (1000,)),
        },
    ),
    (
        "cifar10_full_iter_70000",
        ("CIFAR10_full", "V1", 14),
        {
            "conv1": ("Convolution", (32, 3, 5, 5), (32,)),
            "norm1": ("LRN",),
            "conv3": ("Convolution", (64, 32, 5, 5), (64,)),
            "ip1": ("InnerProduct", (10, 1024), (10,)),
            "loss": ("SoftmaxWithLoss",),
        },
    ),
    (
        "cifar10_quick_iter_5000",
        ("CIFAR10_quick", "V1", 13),
        {
            "conv2": ("Convolution", (32, 32, 5, 5), (32,)),
            "ip1": ("InnerProduct", (64, 1024), (64,)),
            "ip2": ("InnerProduct", (10, 64), (10,)),
        },
    ),
    (
        "lenet_iter_10000",
        ("LeNet", "V1", 9),
        {
            "mnist": ("Data",),
            "conv1": ("Convolution", (20, 1, 5, 5), (20,)),
            "conv2": ("Convolution", (50, 20, 5, 5), (50,)),
            "ip1": ("InnerProduct", (500, 800), (500,)),
            "ip2": ("InnerProduct", (10, 500), (10,)),
        },
    ),
    ("det1", ("12Net", "V2", 18), {"PReLU1": ("PReLU", (10,)), "silence": ("Silence",)}),
    ("det2", ("24Net", "V2", 22), {"conv4": ("InnerProduct", (128, 576), (128,))}),
    ("det3", ("48Net", "V2", 25), {"conv6-3": ("InnerProduct", (10, 256), (10,))}),
]


@pytest.mark.parametrize(("file", "head", "some"), REAL, ids=[row[0] for row in REAL])
def test_files_that_caffe_wrote(shared, file, head, some):
    path = shared / "caffemodels" / f"{file}.caffemodel"
    model = read_caffemodel(path)
    assert (model.name, model.format, len(model.layers)) == head
    layers = {layer.name: layer for layer in model.layers}
    for name, (type, *shapes) in some.items():
        assert layers[name].type == type
        assert [blob.shape for blob in layers[name].blobs] == shapes
    # Every number is the one that stands in the file.
    found = [(layer.name.encode(), [b.tobytes() for b in layer.blobs]) for layer in model.layers]
    assert found == wire_layers(path.read_bytes())


def test_bottoms_and_tops(shared):
    model = read_caffemodel(shared / "caffemodels" / "lenet_iter_10000.caffemodel")
    assert model.layers[0][:4] == ("mnist", "Data", (), ("data", "label"))
    assert model.layers[-1][:4] == ("loss", "SoftmaxWithLoss", ("ip2", "label"), ("loss",))


@pytest.mark.parametrize("file", ["lenet_iter_10000", "cifar10_full_iter_70000", "squeezenet_v1.0"])
def test_rewritten_in_either_format_a_real_network_keeps_its_arrays(shared, tmp_path, file):
    model = read_caffemodel(shared / "caffemodels" / f"{file}.caffemodel")
    for format in ("V1", "V2"):
        # V1 has no type for Input layers; they carry nothing.
        layers = tuple(layer for layer in model.layers if layer.type != "Input")
        write_caffemodel(tmp_path / format, model._replace(layers=layers), format=format)
        assert_same_layers(read_caffemodel(tmp_path / format).layers, layers)


def tiny(seed=0):
    """A network with every kind of parameter blob, ones among the axes included."""
    random = np.random.default_rng(seed)

    def layer(name, type, *shapes):
        blobs = tuple(random.standard_normal(shape).astype(np.float32) for shape in shapes)
        return CaffeLayer(name, type, (f"{name}_in",), (name,), blobs)

    return CaffeModel(
        "tiny",
        "V2",
        (
            CaffeLayer("data", "Data", (), ("data", "label")),
            layer("conv", "Convolution", (4, 3, 3, 2), (4,)),
            layer("depthwise", "Convolution", (1, 1, 5, 1), (1,)),
            CaffeLayer("relu", "ReLU", ("conv",), ("conv",)),
            layer("up", "Deconvolution", (3, 4, 2, 2)),
            layer("ip", "InnerProduct", (5, 7), (5,)),
            layer("score", "InnerProduct", (1, 5), (1,)),
        ),
    )


def assert_same_layers(found, expected):
    assert [layer[:4] for layer in found] == [layer[:4] for layer in expected]
    for one, other in zip(found, expected, strict=True):
        for blob, same in zip(one.blobs, other.blobs, strict=True):
            assert blob.dtype == np.float32
            assert blob.flags.c_contiguous
            assert blob.flags.writeable
            np.testing.assert_array_equal(blob, same, strict=True)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("format", ["V1", "V2"])
def test_what_is_written_is_read(tmp_path, format, packed):
    path = tmp_path / "tiny.caffemodel"
    write_caffemodel(path, tiny(), format=format, packed=packed)
    model = read_caffemodel(path)
    assert (model.name, model.format) == ("tiny", format)
    assert_same_layers(model.layers, tiny().layers)


@pytest.mark.parametrize("format", ["V1", "V2"])
def test_opencv_reads_what_is_written(tmp_path, format):
    import cv2

    model = tiny()
    names = ("conv", "ip")
    layers = tuple(layer for layer in model.layers if layer.name in names)
    ip = layers[1]._replace(blobs=(np.ones((5, 16), np.float32), layers[1].blobs[1]))
    write_caffemodel(tmp_path / "net", model._replace(layers=(layers[0], ip)), format=format)
    (tmp_path / "net.prototxt").write_text(
        'name: "tiny" input: "data" input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 3\n'
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"\n'
        "  convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 } }\n"
        'layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"\n'
        "  inner_product_param { num_output: 5 } }\n"
    )
    net = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(tmp_path / "net"))
    for layer in (layers[0], ip):
        for index, blob in enumerate(layer.blobs):
            np.testing.assert_array_equal(net.getParam(layer.name, index).reshape(blob.shape), blob)


# Messages put together by hand, from the description of the wire format.


def varint(number):
    digits = []
    number &= 2**64 - 1
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def sub(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def scalar(number, value):
    return varint(number << 3) + varint(value)


def packed(*numbers):
    return sub(5, struct.pack(f"<{len(numbers)}f", *numbers))


def unpacked(*numbers):
    return b"".join(b"\x2d" + struct.pack("<f", number) for number in numbers)


def shape(*dims):
    return sub(7, sub(1, b"".join(varint(dim) for dim in dims)))


def legacy(*dims):
    return b"".join(scalar(number, dim) for number, dim in enumerate(dims, start=1))


def v2(*blobs, type=b"InnerProduct", name=b"ip"):
    return sub(1, b"net") + sub(
        100, sub(1, name) + sub(2, type) + b"".join(sub(7, blob) for blob in blobs)
    )


def v1(*blobs, type=14, name=b"ip"):
    return sub(1, b"net") + sub(
        2, sub(4, name) + scalar(5, type) + b"".join(sub(6, blob) for blob in blobs)
    )


def read(tmp_path, raw, reader=read_caffemodel):
    with contextlib.chdir(tmp_path):  # so that no message holds a path with the test's name in it
        Path("by_hand").write_bytes(raw)
        return reader("by_hand")


@pytest.mark.parametrize(
    "blob",
    [
        packed(1, 2, 3, 4, 5, 6),
        unpacked(1, 2, 3, 4, 5, 6),
        packed(1, 2) + packed(3, 4, 5, 6),
        unpacked(1) + packed(2, 3, 4) + unpacked(5, 6),
        sub(8, struct.pack("<6d", 1, 2, 3, 4, 5, 6)),
        b"".join(b"\x41" + struct.pack("<d", number) for number in range(1, 7)),
        packed(1, 2, 3, 4, 5, 6) + sub(6, bytes(24)),  # gradients beside the numbers
        packed(1, 2, 3, 4, 5, 6) + sub(1000, b"of another program"),
    ],
    ids="packed unpacked pieces mixed double double_unpacked diff unknown".split(),  # noqa: SIM905
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_all_ways_to_write_numbers(tmp_path, blob, place):
    expected = np.float32([[1, 2, 3], [4, 5, 6]])
    for dims, layer in ((shape(2, 3), v2), (legacy(1, 1, 2, 3), v1), (legacy(1, 1, 2, 3), v2)):
        raw = layer(dims + blob if place == "before" else blob + dims)
        (found,) = read(tmp_path, raw).layers[0].blobs
        np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    ("type", "dims", "expected"),
    [
        (4, (2, 3, 1, 1), (2, 3, 1, 1)),
        (4, (1, 1, 2, 3), (1, 1, 2, 3)),
        (39, (1, 1, 1, 6), (1, 1, 1, 6)),
        (14, (1, 1, 1, 6), (1, 6)),
        (14, (1, 1, 6, 1), (6, 1)),
        (14, (6, 1, 1, 1), (6, 1, 1, 1)),  # not Caffe's: left for the network to refuse
        (18, (1, 1, 1, 6), (6,)),
        (18, (1, 1, 2, 3), (1, 1, 2, 3)),
        (777, (1, 1, 1, 6), (6,)),
    ],
)
def test_legacy_shapes_by_type(tmp_path, type, dims, expected):
    blob = legacy(*dims) + packed(*range(6))
    bias = legacy(1, 1, 1, 2) + packed(1, 2)
    layer = read(tmp_path, v1(blob, bias, type=type)).layers[0]
    assert [found.shape for found in layer.blobs] == [expected, (2,)]


def test_a_blob_without_a_shape_is_a_scalar(tmp_path):
    (blob,) = read(tmp_path, v2(packed(3))).layers[0].blobs
    assert blob.shape == ()
    assert blob == 3


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (v2(shape(2, 3) + packed(1, 2, 3)), r"layer 0 \('ip'\), blob 0: shape \(2, 3\) .* 3 num"),
        (
            v2(shape(2, 2) + packed(1, 2, 3, 4), shape(9) + packed(1)),
            r"'ip'\), blob 1: shape \(9,\)",
        ),
        (v1(legacy(1, 1, 2, 3) + packed(1)), r"shape \(2, 3\) does not fit its 1 num"),
        (v1(legacy(1, 1, 2) + packed(1)), r"shape \(2, 0\)"),
        (v2(shape(2**40, 2**40) + packed(1)), "does not fit its 1 num"),
        (v2(shape(2**62, 4) + packed(1)), "does not fit its 1 num"),
        (v2(shape(-1, -1) + packed(1)), r"shape \(-1, -1\)"),
        (v2(shape(*[1] * 33) + packed(1)), "does not fit its 1 num"),
        (v2(shape(1)), "does not fit its 0 num"),
        (v2(sub(5, b"abcde") + shape(1)), "truncated or damaged"),
        (v2(shape(1) + packed(np.nan)), "'ip'.*NaN"),
        (v2(shape(1) + packed(np.inf)), "'ip'.*infinite"),
        (v2(shape(1) + sub(8, struct.pack("<d", 1e300))), "infinite"),
        (v2(name=b"\xff\xfe"), "its name is not UTF-8"),
        (v2(type=b"\xff\xfe"), "its type is not UTF-8"),
        (v2(shape(1) + packed(1), name=b""), "has blobs but no name"),
        (sub(1, b"net") + sub(2, sub(1, sub(1, b"conv1"))), "V0"),
        (v2() + v1(), "both V1 and V2"),
        (sub(1, b"a network\x01 of no layers"), "no layers"),
        (sub(1, b"net") + b"\x12\x00" * 100_001, "more than 100000 layers"),
        (v2() + b"\x0f", "truncated or damaged"),
        (v2()[:-1], "truncated or damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_named_in_one_line(tmp_path, raw, message):
    with pytest.raises(WeightsError, match=message) as caught:
        read(tmp_path, raw)
    assert "\n" not in str(caught.value)
    assert "by_hand" in str(caught.value)


@given(cut=st.integers(min_value=0, max_value=10**6))
def test_a_part_is_never_taken_for_the_whole(tmp_path_factory, cut):
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "whole").exists():
        write_caffemodel(folder / "whole", tiny())
    raw = (folder / "whole").read_bytes()
    try:
        model = read(folder, raw[: cut % len(raw)])
    except WeightsError:
        return
    # A protobuf message that ends between two layers is whole to its reader.
    assert len(model.layers) < len(tiny().layers)
    assert_same_layers(model.layers, tiny().layers[: len(model.layers)])


def test_what_v1_cannot_say(tmp_path):
    path = tmp_path / "file"
    prelu = CaffeLayer("act", "PReLU", blobs=(np.ones(3),))
    with pytest.raises(WeightsError, match=r"'act'.*'PReLU'.*write V2"):
        write_caffemodel(path, CaffeModel("net", "V2", (prelu,)), format="V1")
    deep = CaffeLayer("conv", "Convolution", blobs=(np.ones((1, 1, 1, 1, 2)),))
    with pytest.raises(WeightsError, match=r"'conv'.*5 axes"):
        write_caffemodel(path, CaffeModel("net", "V2", (deep,)), format="V1")
    complex_blob = CaffeLayer("conv", "Convolution", blobs=(np.ones(2) * 1j,))
    with pytest.raises(WeightsError, match="complex128"):
        write_caffemodel(path, CaffeModel("net", "V2", (complex_blob,)))
    with pytest.raises(WeightsError, match="'V3'"):
        write_caffemodel(path, tiny(), format="V3")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_other_dtypes_and_strides_are_written_as_float32(tmp_path):
    weights = np.arange(12, dtype=">f8").reshape(3, 4).T
    layer = CaffeLayer("ip", "InnerProduct", blobs=(weights, np.arange(4)))
    write_caffemodel(tmp_path / "net", CaffeModel("net", "V2", (layer,)))
    blobs = read_caffemodel(tmp_path / "net").layers[0].blobs
    np.testing.assert_array_equal(blobs[0], weights.astype(np.float32), strict=True)
    np.testing.assert_array_equal(blobs[1], np.float32([0, 1, 2, 3]), strict=True)


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AdvjaxError, match="cannot write"):
        write_caffemodel(tmp_path / "file" / "net.caffemodel", tiny())


def test_mean_image(tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (3, 5, 4)).astype(np.float32)
    write_binaryproto(tmp_path / "mean.binaryproto", mean)
    np.testing.assert_array_equal(
        read_binaryproto(tmp_path / "mean.binaryproto"), mean, strict=True
    )
    numbers = sub(5, mean.astype("<f4").tobytes())
    for dims in (legacy(1, 3, 5, 4), shape(1, 3, 5, 4), shape(3, 5, 4)):
        np.testing.assert_array_equal(
            read(tmp_path, dims + numbers, read_binaryproto), mean, strict=True
        )


def test_a_mean_image_of_one_row_or_channel(tmp_path):
    for size in ((1, 5, 4), (1, 1, 4), (3, 1, 1)):
        write_binaryproto(tmp_path / "mean", np.ones(size))
        assert read_binaryproto(tmp_path / "mean").shape == size


@pytest.mark.parametrize(
    "raw",
    [
        legacy(2, 3, 1, 1) + packed(*range(6)),
        legacy(1, 3, 2, 2) + packed(1),
        legacy(1, 3, 0, 0),
        shape(6) + packed(*range(6)),
        v2(shape(1) + packed(1)),
        b"<html><body>404</body></html>",
        b"\x08",
    ],
)
def test_what_is_no_mean_image(tmp_path, raw):
    with pytest.raises(WeightsError):
        read(tmp_path, raw, read_binaryproto)
    with pytest.raises(WeightsError, match=r"three|shape \(2,\)"):
        write_binaryproto(tmp_path / "mean", np.ones(2))


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_right(tmp_path):
    """Some of the 10,000 mutations that tests/fuzz_weights.py makes on demand."""
    files = []
    for format in ("V1", "V2"):
        for packing in (True, False):
            files.append(tmp_path / f"{format}{packing}")
            write_caffemodel(files[-1], tiny(), format=format, packed=packing)
    files += sorted((SHARED / "caffemodels").glob("*.caffemodel"))
    figures = fuzz(3000, files)
    assert figures["count"] == 3000
    assert 1000 < figures["refused"] < 2900  # it damages files, and not all damage shows


def fuzz(count, files):
    script = Path(__file__).with_name("fuzz_weights.py")
    command = [sys.executable, str(script), str(count), "0", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("packing", [True, False])
def test_memory_is_a_few_times_the_size_of_the_file(tmp_path, packing):
    layers = tuple(
        CaffeLayer(f"ip{i}", "InnerProduct", blobs=(np.ones((1024, 1024), np.float32),))
        for i in range(6)
    )
    path = tmp_path / "net.caffemodel"
    write_caffemodel(path, CaffeModel("net", "V2", layers), packed=packing)
    program = (
        "import sys\n"
        "from advjax.checkpoints import caffemodel\n"
        "caffemodel._schema(True)\n"
        "def peak():\n"
        "    return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) * 1024\n"
        "before = peak()\n"
        "model = caffemodel.read_caffemodel(sys.argv[1])\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3.5 * path.stat().st_size


# Raw blobs: NVIDIA Caffe's, and what OpenCV's shrinkCaffeModel writes.


def test_a_model_that_opencv_has_shrunk_is_its_half_precision(tmp_path):
    rng = np.random.default_rng(0)
    blobs = [rng.normal(size=(6, 2, 3, 3)), rng.normal(size=6)]
    blobs = [blob.astype(np.float32) for blob in blobs]
    layer = CaffeLayer("conv", "Convolution", ("data",), ("conv",), tuple(blobs))
    whole, shrunk = tmp_path / "net.caffemodel", tmp_path / "half.caffemodel"
    write_caffemodel(whole, CaffeModel("net", "V2", (layer,)))
    cv2.dnn.shrinkCaffeModel(str(whole), str(shrunk))
    assert shrunk.stat().st_size < whole.stat().st_size
    (found,) = read_caffemodel(shrunk).layers
    for blob, half in zip(blobs, found.blobs, strict=True):
        assert half.dtype == np.float32
        np.testing.assert_array_equal(half, blob.astype(np.float16).astype(np.float32))


def raw_model(path, kind, content, shape=(2, 2)):
    net = caffemodel._schema(True).Net(name=b"net")
    layer = net.layer.add(name=b"ip", type=b"InnerProduct")
    blob = layer.blobs.add(raw_data_type=kind, raw_data=content)
    blob.shape.dim.extend(shape)
    path.write_bytes(net.SerializeToString())
    return path


@pytest.mark.parametrize(("kind", "dtype"), [(0, "<f8"), (1, "<f4"), (2, "<f2")])
def test_raw_blobs_of_each_precision(kind, dtype, tmp_path):
    numbers = np.array([[1, -2], [0.5, 3]], dtype)
    (layer,) = read_caffemodel(raw_model(tmp_path / "n", kind, numbers.tobytes())).layers
    np.testing.assert_array_equal(layer.blobs[0], numbers)
    assert layer.blobs[0].dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "size", "says"),
    [
        (3, 8, "of NVIDIA Caffe's type 3; save it"),
        (-1, 8, "type -1"),
        (2, 9, "does not fit"),
        (2, 6, "does not fit its 3 numbers"),
        (1, 8, "does not fit its 2 numbers"),
    ],
)
def test_raw_blobs_that_cannot_be(kind, size, says, tmp_path):
    with pytest.raises(WeightsError, match=says):
        read_caffemodel(raw_model(tmp_path / "n", kind, bytes(size)))
