"""Read Caffe's binary files: `.caffemodel` (weights), `.binaryproto` (mean image).

The protobuf library parses them by a minimal schema, made below; everything else in a file
(solver settings, gradients, layer parameters) is an unknown field to it and is left alone. Field
numbers and the V1 layer types are those of `src/caffe/proto/caffe.proto` in BVLC Caffe.
"""

import functools
import math
import os
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np

from advjax.checkpoints import content
from advjax.errors import WeightsError

_MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message
_MAX_AXES = 32  # kMaxBlobAxes of Caffe
_MAX_LAYERS = 100_000

# enum V1LayerParameter.LayerType, with the names that Caffe's upgrade to V2 gives them.
# fmt: off
_V1_TYPES = {
    1: "Accuracy", 2: "BNLL", 3: "Concat", 4: "Convolution", 5: "Data", 6: "Dropout",
    7: "EuclideanLoss", 8: "Flatten", 9: "HDF5Data", 10: "HDF5Output", 11: "Im2col",
    12: "ImageData", 13: "InfogainLoss", 14: "InnerProduct", 15: "LRN",
    16: "MultinomialLogisticLoss", 17: "Pooling", 18: "ReLU", 19: "Sigmoid", 20: "Softmax",
    21: "SoftmaxWithLoss", 22: "Split", 23: "TanH", 24: "WindowData", 25: "Eltwise",
    26: "Power", 27: "SigmoidCrossEntropyLoss", 28: "HingeLoss", 29: "MemoryData", 30: "ArgMax",
    31: "Threshold", 32: "DummyData", 33: "Slice", 34: "MVN", 35: "AbsVal", 36: "Silence",
    37: "ContrastiveLoss", 38: "Exp", 39: "Deconvolution",
}
# fmt: on

# enum Type of NVIDIA Caffe's BlobProto, which OpenCV's `shrinkCaffeModel` writes as well.
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}

# How many axes the first blob of a layer has; every other parameter blob is a vector.
_WEIGHT_AXES = {"Convolution": 4, "Deconvolution": 4, "InnerProduct": 2, "Embed": 2}


class CaffeLayer(NamedTuple):
    """One layer of a Caffe network as it stands in a file.

    Attributes:
        name: The layer's name; may be empty for layers without blobs.
        type: The V2 type ("Convolution", "InnerProduct", ...), for V1 files too.
        bottoms: Names of the blobs it reads.
        tops: Names of the blobs it writes.
        blobs: Its parameters, float32, in Caffe's own axis order: a convolution has
            (out, in / groups, height, width) and (out,); an inner product (out, in) and (out,).
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    blobs: tuple[np.ndarray, ...] = ()


class CaffeModel(NamedTuple):
    """A trained Caffe network as it stands in a file: its name, "V1" or "V2", and its layers."""

    name: str
    format: Literal["V1", "V2"]
    layers: tuple[CaffeLayer, ...]


@functools.cache
def _schema(packed: bool) -> SimpleNamespace:
    """Return the message classes `Net` and `Blob`, which read numbers packed or not."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name=f"advjax_caffe_{packed}.proto", package="advjax_caffe", syntax="proto2"
    )

    def message(name: str, *fields: tuple[str, int, Any]) -> None:
        """Add a message; a field ending in `*` is repeated, its kind a scalar or a message."""
        described = file.message_type.add(name=name)
        for title, number, kind in fields:
            field = described.field.add(name=title.rstrip("*"), number=number)
            field.label = kinds.LABEL_REPEATED if title.endswith("*") else kinds.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type = kinds.TYPE_MESSAGE
                field.type_name = f".advjax_caffe.{kind}"
            else:
                field.type = kind
            if title.endswith("*") and kind in (kinds.TYPE_FLOAT, kinds.TYPE_DOUBLE):
                field.options.packed = packed
            if title == "dim*":
                field.options.packed = True

    # Names are `bytes`: a name that is not UTF-8 is then ours to report.
    integer, text = kinds.TYPE_INT64, kinds.TYPE_BYTES
    message("Shape", ("dim*", 1, integer))
    message(
        "Blob",
        ("num", 1, integer),
        ("channels", 2, integer),
        ("height", 3, integer),
        ("width", 4, integer),
        ("data*", 5, kinds.TYPE_FLOAT),
        ("shape", 7, "Shape"),
        ("double_data*", 8, kinds.TYPE_DOUBLE),
        ("raw_data_type", 10, kinds.TYPE_INT32),
        ("raw_data", 12, kinds.TYPE_BYTES),
    )
    message(
        "LayerV1",
        ("v0", 1, text),
        ("bottom*", 2, text),
        ("top*", 3, text),
        ("name", 4, text),
        ("type", 5, kinds.TYPE_INT32),
        ("blobs*", 6, "Blob"),
    )
    message(
        "LayerV2",
        ("name", 1, text),
        ("type", 2, text),
        ("bottom*", 3, text),
        ("top*", 4, text),
        ("blobs*", 7, "Blob"),
    )
    message("Net", ("name", 1, text), ("layers*", 2, "LayerV1"), ("layer*", 100, "LayerV2"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)

    def message_class(name: str) -> Any:
        descriptor = pool.FindMessageTypeByName(f"advjax_caffe.{name}")
        return message_factory.GetMessageClass(descriptor)

    return SimpleNamespace(Net=message_class("Net"), Blob=message_class("Blob"))


def read_caffemodel(path: str | os.PathLike[str]) -> CaffeModel:
    """Read a binary `.caffemodel`, V1 (`layers`) or V2 (`layer`), numbers packed or not.

    Float, double, and NVIDIA Caffe's raw blobs in float, double or half precision.

    V1 and V2 of the same weights give the same arrays: the leading ones of legacy four-number
    shapes are dropped down to the number of axes which that kind of layer has.

    Args:
        path: The file. Memory is at most about three times its size.

    Returns:
        The network with all its layers in the file's order. The arrays own their memory.

    Raises:
        WeightsError: Not a .caffemodel, truncated, damaged (not protobuf, a shape that does not
            match its numbers, a number that is not finite), without layers, or of the V0 format.

    Example:
        >>> model = read_caffemodel("lenet.caffemodel")  # doctest: +SKIP
        >>> model.layers[6].name, model.layers[6].blobs[0].shape  # doctest: +SKIP
        ('ip2', (10, 500))
    """
    if content.sniff(path) != "caffemodel":
        raise WeightsError(f"weights {os.fspath(path)!r} is a safetensors file, not a .caffemodel")
    net = _parse(path, "Net")
    where = f"weights {os.fspath(path)!r}"
    if net.layers and net.layer:
        raise WeightsError(
            f"{where} has both V1 and V2 layers; it is damaged or half upgraded, fetch it again"
        )
    if not net.layers and not net.layer:
        raise WeightsError(f"{where} has no layers; it is damaged, fetch or copy it again")
    if len(net.layers or net.layer) > _MAX_LAYERS:
        raise WeightsError(f"{where} claims more than {_MAX_LAYERS} layers; it is damaged")
    if any(layer.HasField("v0") for layer in net.layers):
        raise WeightsError(
            f"{where} is of Caffe's V0 format (2013); run Caffe's upgrade_net_proto_binary on it"
        )
    format = "V1" if net.layers else "V2"
    layers = []
    for index, layer in enumerate(net.layers or net.layer):
        what = f"{where}, layer {index}"
        name = _text(layer.name, f"{what}: its name")
        what = f"{what} ({name!r})"
        if format == "V2":
            type = _text(layer.type, f"{what}: its type")
        else:
            type = _V1_TYPES.get(layer.type, f"V1LayerType({layer.type})")
        if layer.blobs and not name:
            raise WeightsError(f"{what} has blobs but no name; the file is damaged")
        blobs = []
        for number, blob in enumerate(layer.blobs):
            axes = _WEIGHT_AXES.get(type, 1) if number == 0 else 1
            blobs.append(_array(blob, axes, f"{what}, blob {number}"))
        bottoms = tuple(_text(bottom, f"{what}: a bottom") for bottom in layer.bottom)
        tops = tuple(_text(top, f"{what}: a top") for top in layer.top)
        layers.append(CaffeLayer(name, type, bottoms, tops, tuple(blobs)))
    return CaffeModel(_text(net.name, f"{where}: the network's name"), format, tuple(layers))


def read_binaryproto(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mean image (`.binaryproto`, a BlobProto as Caffe's `compute_image_mean` writes it).

    Args:
        path: The file.

    Returns:
        float32 [channels, height, width], in Caffe's order of channels (BGR), in 0..255.

    Raises:
        WeightsError: Not such a file, truncated or damaged, or not a single image.
    """
    with content.open_file(path) as file:
        content.refuse_foreign(path, file.read(512))
    where = f"mean image {os.fspath(path)!r}"
    mean = _array(_parse(path, "Blob"), 3, where)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.size == 0:
        raise WeightsError(
            f"{where} has shape {mean.shape}, not (channels, height, width); give a .binaryproto"
            " made by compute_image_mean"
        )
    return mean


def _parse(path: str | os.PathLike[str], message: Literal["Net", "Blob"]) -> Any:
    from google.protobuf.message import DecodeError

    with content.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_BYTES:
            raise WeightsError(f"{os.fspath(path)!r} has {size} bytes; protobuf files end at 2 GiB")
        raw = file.read()
    parsed = getattr(_schema(True), message)()
    try:
        parsed.ParseFromString(raw)
    except DecodeError as error:
        raise WeightsError(
            f"{os.fspath(path)!r} is truncated or damaged ({len(raw)} bytes that are not a whole"
            " protobuf message); fetch or copy it again"
        ) from error
    return parsed


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise WeightsError(f"{what} is not UTF-8; the file is damaged, fetch it again") from error


def _array(blob: Any, axes: int, what: str) -> np.ndarray:
    """Return the float32 array of a BlobProto, which loses all fields but its numbers.

    Args:
        blob: The message.
        axes: The number of axes that remain when a legacy shape's leading ones are dropped.
        what: Its name in errors.
    """
    legacy = [blob.num, blob.channels, blob.height, blob.width]
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        leading = 4 - axes
        shape = legacy[leading:] if legacy[:leading] == [1] * leading else legacy
    else:
        shape = list(blob.shape.dim)
    if blob.raw_data and not (blob.data or blob.double_data):
        field, dtype = "raw_data", _RAW_TYPES.get(blob.raw_data_type, "")
        if not dtype:
            raise WeightsError(
                f"{what} holds raw numbers of NVIDIA Caffe's type {blob.raw_data_type}; save it as "
                "float, double or half"
            )
        count, odd = divmod(len(blob.raw_data), np.dtype(dtype).itemsize)
    else:
        field, dtype = ("double_data", "<f8") if blob.double_data else ("data", "<f4")
        count, odd = len(getattr(blob, field)), 0
    if odd or len(shape) > _MAX_AXES or min(shape, default=0) < 0 or math.prod(shape) != count:
        claimed = f"{tuple(shape[:8])}{'...' if len(shape) > 8 else ''}"
        raise WeightsError(
            f"{what}: shape {claimed} does not fit its {count} numbers; the file is damaged, fetch"
            " it again"
        )
    if field == "raw_data":
        wire, start = blob.raw_data, 0
    else:
        # A packed field is, on the wire, the array in little-endian bytes: with every other field
        # gone it is the end of the message, and no number ever becomes a Python object.
        blob.DiscardUnknownFields()
        for name in ("num", "channels", "height", "width", "shape", "data", "double_data"):
            if name != field:
                blob.ClearField(name)
        blob.ClearField("raw_data_type")
        blob.ClearField("raw_data")
        wire = blob.SerializeToString()
        start = len(wire) - count * np.dtype(dtype).itemsize
    with np.errstate(over="ignore"):  # doubles beyond float32 become infinite, refused below
        array = np.frombuffer(wire, dtype, count, start).astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise WeightsError(f"{what} holds NaN or infinite numbers; the file is damaged")
    return array
