"""ONNX's operations in JAX: a table by their names, for `advjax.networks.from_onnx`.

Each function takes the inputs and attributes of its operation by their ONNX names, and computes on
`Tensor`s by the functions of `advjax.networks.aten`. What a file gives as an attribute in one opset
and as an input in another is one parameter here. A parameter annotated `Numbers` must be known when
the graph is traced: ONNX computes shapes by operations, on tensors of whole numbers, which are
computed in NumPy then (`NUMPY`). A `Tensor` is known if its data are NumPy's.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advjax.errors import AdvjaxError
from advjax.networks import aten, layers
from advjax.networks.aten import CHANNELS_LAST, Tensor, spatial, tensor
from advjax.networks.aten.extremes import largest, maximum, minimum, smallest
from advjax.networks.aten.tensors import (
    elementwise,
    expand,
    permute,
    plain,
    reduction,
    squeeze,
    unsqueeze,
    view,
)
from advjax.networks.onnx_shapes import DTYPES, NUMPY, bounded, new_shape, part_sizes, slice_index

Numbers = Annotated[Any, "known"]
"""A list of numbers, or a number, that is known when the graph is traced."""

ATEN = aten.OPERATIONS

WIDEST = 1024
"""The most entries along one side of a window, which is computed entry by entry."""


class Operation(NamedTuple):
    """What computes a node: of `Tensor`s, and of NumPy's arrays where all inputs are known."""

    function: Callable[..., Any]
    known: Callable[..., Any] | None


def find(name: str, opset: int) -> Operation | None:
    """Return the operation of this name in this opset of ONNX; None if there is none here.

    Example:
        >>> find("Relu", 17) is None, find("NonMaxSuppression", 17) is None
        (False, True)
    """
    until, older = BEFORE.get(name, (0, None))
    function = older if opset < until else OPERATIONS.get(name)
    return None if function is None else Operation(function, NUMPY.get(name))


def apply(operation: Operation, *inputs: Tensor | None, **attributes: Any) -> Any:
    """Return the result of an operation, a Tensor, or a list of them.

    Raises:
        AdvjaxError: An input that must be known depends on the image.
    """
    if operation.known and all(isinstance(x.data, np.ndarray) for x in inputs if x is not None):
        result = operation.known(*(x and x.plain for x in inputs), **attributes)
        parts = result if isinstance(result, list) else [result]
        parts = [tensor(np.asarray(part)) for part in parts]
        return parts if isinstance(result, list) else parts[0]
    result = operation.function(*_inputs(operation.function, inputs), **attributes)
    floats = [x.data.dtype for x in inputs if x and jnp.issubdtype(x.data.dtype, jnp.floating)]
    if operation.function is _cast or not floats:
        return result
    # What is computed in float32 (means, say) of half precision is of half precision again.
    results = result if isinstance(result, list) else [result]
    kept = [_as_floats(r, floats[0]) for r in results]
    return kept if isinstance(result, list) else kept[0]


def _as_floats(x: Tensor, dtype: Any) -> Tensor:
    if x.data.dtype == dtype or not jnp.issubdtype(x.data.dtype, jnp.floating):
        return x
    return Tensor(x.data.astype(dtype), x.axes)


def known_inputs(function: Callable[..., Any]) -> list[bool]:
    """Return for each parameter whether it must be known; the last may stand for any number."""
    return [p.annotation is Numbers for p in inspect.signature(function).parameters.values()]


def _inputs(function: Callable[..., Any], inputs: Any) -> list[Any]:
    known = known_inputs(function)
    return [
        _numbers(x) if x is not None and known[min(n, len(known) - 1)] else x
        for n, x in enumerate(inputs)
    ]


def _numbers(x: Tensor) -> Any:
    if not isinstance(x.data, np.ndarray):
        raise AdvjaxError("it takes a shape or an index that depends on the pixels' values")
    return x.plain.tolist()


def _float_dtype(dtype: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(DTYPES[dtype])


# By elements. A known number that stands alone is one in JAX, too, and promotes no rank.


def _alone(x: Any) -> Any:
    known = isinstance(x, Tensor) and not x.axes and isinstance(x.data, np.ndarray)
    return x.data.item() if known else x


def _elements(function: Callable[..., Any]) -> Callable[..., Any]:
    by_elements = elementwise(function)

    @functools.wraps(function)
    def operation(*inputs: Any, **attributes: Any) -> Tensor:
        numbers = [_alone(x) for x in inputs]
        some = any(isinstance(x, Tensor) for x in numbers)
        return by_elements(*(numbers if some else inputs), **attributes)

    return operation


def _clip(x, min=None, max=None):
    if min is not None and max is not None:
        return lax.clamp(jnp.asarray(min, x.dtype), x, jnp.asarray(max, x.dtype))
    # Of derivative 0 at the ends, as ReLU and ReLU6.
    x = x if min is None else jnp.where(x > min, x, min)
    return x if max is None else jnp.where(x < max, x, max)


def _divide(x, y):
    whole = all(jnp.issubdtype(jnp.result_type(v), jnp.integer) for v in (x, y))
    return lax.div(*jnp.broadcast_arrays(x, y)) if whole else x / y


def _mod(x, y, fmod=0):
    return jnp.fmod(x, y) if fmod else jnp.remainder(x, y)


def _any_number(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation by elements of any number of inputs."""
    pair = _elements(function)
    return lambda *inputs: functools.reduce(pair, inputs)


def _mean(*inputs: Tensor) -> Tensor:
    return _elements(lambda x: x / len(inputs))(_any_number(lambda x, y: x + y)(*inputs))


def _cast(x: Tensor, to: int, saturate=1, round_mode="up") -> Tensor:
    return Tensor(x.data.astype(_float_dtype(to)), x.axes)


def _gelu(x: Tensor, approximate="none") -> Tensor:
    return ATEN["gelu"](x, approximate=approximate)


# Shapes.


def _reshape(x: Tensor, shape: Numbers, allowzero=0) -> Tensor:
    return view(x, new_shape(x.shape, shape, allowzero))


def _flatten(x: Tensor, axis=1) -> Tensor:
    axis = axis % len(x.axes) if axis < 0 else axis
    return view(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


def _transpose(x: Tensor, perm: Numbers = None) -> Tensor:
    return permute(x, range(len(x.axes))[::-1] if perm is None else perm)


def _squeeze(x: Tensor, axes: Numbers = None) -> Tensor:
    # Without axes, the first stays: it is the batch, also if that is of one image.
    return squeeze(x, list(range(1, len(x.axes))) if axes is None else axes)


def _unsqueeze(x: Tensor, axes: Numbers) -> Tensor:
    rank = len(x.axes) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = unsqueeze(x, axis)
    return x


def _expand(x: Tensor, shape: Numbers) -> Tensor:
    return expand(x, np.broadcast_shapes(x.shape, tuple(shape)))


def _split(x: Tensor, split: Numbers = None, axis=0, num_outputs=None) -> list[Tensor]:
    return ATEN["split_with_sizes"](x, part_sizes(x, axis, split, num_outputs), axis)


def _concat(*inputs: Tensor, axis: int) -> Tensor:
    return ATEN["cat"](inputs, axis)


def _slice(
    x: Tensor, starts: Numbers, ends: Numbers, axes: Numbers = None, steps: Numbers = None
) -> Tensor:
    for axis, part in enumerate(slice_index(len(x.axes), starts, ends, axes, steps)):
        if (part.step or 1) < 0:
            x = plain(lambda data, axis=axis, part=part: data[(slice(None),) * axis + (part,)])(x)
        elif part != slice(None):
            x = ATEN["slice"](x, axis, part.start, part.stop, part.step)
    return x


def _gather(x: Tensor, indices: Tensor, axis=0) -> Tensor:
    if not indices.axes and isinstance(indices.data, np.ndarray):
        return ATEN["select"](x, axis, indices.data.item())
    return plain(lambda data, where: jnp.take(data, where, axis))(x, indices)


def _gather_elements(x: Tensor, indices: Tensor, axis=0) -> Tensor:
    return ATEN["gather"](x, axis, indices)


def _pad(
    x: Tensor,
    pads: Numbers,
    constant_value: Numbers = None,
    axes: Numbers = None,
    mode="constant",
    value=0.0,
) -> Tensor:
    rank = len(x.axes)
    axes = list(range(rank)) if axes is None else axes
    sides = [(0, 0)] * rank
    for axis, lo, hi in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        sides[axis] = (lo, hi)
    widest = max(n for side in sides for n in side)
    if mode in ("reflect", "wrap") and widest > min(x.shape[axis] for axis in axes):
        raise AdvjaxError(f"it continues an image by {widest}, which is more than there is of it")
    modes = {"edge": "replicate", "wrap": "circular"}
    flat = [n for side in reversed(sides) for n in side]  # PyTorch's order
    fill = value if constant_value is None else constant_value
    return ATEN["pad"](x, flat, modes.get(mode, mode), fill)


def _depth_to_space(x: Tensor, blocksize: int, mode="DCR") -> Tensor:
    if mode == "CRD":
        return ATEN["pixel_shuffle"](x, blocksize)
    b, c, h, w = x.shape
    x = view(x, [b, blocksize, blocksize, c // blocksize**2, h, w])
    return view(permute(x, [0, 3, 4, 1, 5, 2]), [b, -1, h * blocksize, w * blocksize])


def _space_to_depth(x: Tensor, blocksize: int) -> Tensor:
    b, c, h, w = x.shape
    x = view(x, [b, c, h // blocksize, blocksize, w // blocksize, blocksize])
    return view(permute(x, [0, 3, 5, 1, 2, 4]), [b, -1, h // blocksize, w // blocksize])


def _trilu(x: Tensor, k: Numbers = None, upper=1) -> Tensor:
    return ATEN["triu" if upper else "tril"](x, k or 0)


def _dropout(x: Tensor, ratio=None, training_mode: Numbers = None, seed=0) -> Tensor:
    if training_mode:
        raise AdvjaxError("it is in training mode; export the model for evaluation")
    return x


# Products, normalisation and reductions.


def _gemm(a: Tensor, b: Tensor, c=None, alpha=1.0, beta=1.0, transA=0, transB=0) -> Tensor:
    y = ATEN["matmul"](ATEN["t"](a) if transA else a, ATEN["t"](b) if transB else b)
    y = y if alpha == 1 else ATEN["mul"](y, alpha)
    return y if c is None else ATEN["add"](y, c, alpha=beta)


def _einsum(*inputs: Tensor, equation: str) -> Tensor:
    return ATEN["einsum"](equation, inputs)


def _softmax(name: str) -> Callable[..., Any]:
    return lambda x, axis=-1: ATEN[name](x, axis)


def _softmax_of_all(name: str) -> Callable[..., Any]:
    """Return the softmax before opset 13, over all dimensions from `axis` on."""

    def operation(x: Tensor, axis=1) -> Tensor:
        return view(ATEN[name](_flatten(x, axis), 1), x.shape)

    return operation


def _batch_norm(
    x: Tensor, scale, bias, mean, var, epsilon=1e-5, momentum=0.9, training_mode=0, spatial=1
) -> Tensor:
    if training_mode or not spatial:
        raise AdvjaxError("it is in training mode; export the model for evaluation")
    norm = ATEN["_native_batch_norm_legit_no_training"]
    return norm(x, scale, bias, mean, var, momentum, epsilon)[0]


def _layer_norm(x: Tensor, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1) -> Tensor:
    return ATEN["layer_norm"](x, x.shape[axis:], scale, bias, epsilon)


def _rms_norm(x: Tensor, scale, axis=-1, epsilon=1e-5, stash_type=1) -> Tensor:
    return ATEN["rms_norm"](x, x.shape[axis:], scale, epsilon)


def _instance_norm(x: Tensor, scale, bias, epsilon=1e-5) -> Tensor:
    return ATEN["group_norm"](x, x.shape[1], scale, bias, epsilon)


def _group_norm(x: Tensor, scale, bias, num_groups, epsilon=1e-5, stash_type=1) -> Tensor:
    return ATEN["group_norm"](x, num_groups, scale, bias, epsilon)


def _lp_norm(x: Tensor, axis=-1, p=2) -> Tensor:
    return ATEN["div"](x, ATEN["linalg_vector_norm"](x, p, axis, True))


def _lrn(x: Tensor, size: int, alpha=1e-4, beta=0.75, bias=1.0) -> Tensor:
    if size % 2 == 0:
        raise AdvjaxError(f"its window of {size} channels has no middle")
    y = layers.lrn_across_channels(x.laid(CHANNELS_LAST), size, alpha, beta, bias)
    return tensor(y, CHANNELS_LAST)


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def operation(x: Tensor, axes: Numbers = None, keepdims=1, noop_with_empty_axes=0) -> Tensor:
        if not axes and noop_with_empty_axes:
            return x
        return reduction(function)(x, axes, bool(keepdims))

    return operation


def _norm(order: int) -> Callable[..., Any]:
    def operation(x: Tensor, axes: Numbers = None, keepdims=1, noop_with_empty_axes=0) -> Tensor:
        if not axes and noop_with_empty_axes:
            return ATEN["abs"](x)
        return ATEN["linalg_vector_norm"](x, order, axes, bool(keepdims))

    return operation


def _argmax(name: str) -> Callable[..., Any]:
    sign = {"max": lambda x: x, "min": lambda x: -x}[name]

    def operation(x: Tensor, axis=0, keepdims=1, select_last_index=0) -> Tensor:
        if select_last_index:
            raise AdvjaxError("select_last_index is not known here")
        return ATEN["argmax"](Tensor(sign(x.data), x.axes), axis, bool(keepdims))

    return operation


def _cumsum(x: Tensor, axis: Numbers, exclusive=0, reverse=0) -> Tensor:
    if exclusive or reverse:
        raise AdvjaxError("exclusive and reverse are not known here")
    return ATEN["cumsum"](x, axis)


# Convolutions, pooling and interpolation.


def _sides(x: Tensor, window: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str) -> Any:
    """Return the padding as a pair for each side: ((top, bottom), (left, right))."""
    if auto_pad in ("NOTSET", "VALID"):
        pads = [0] * (2 * len(window)) if pads is None or auto_pad == "VALID" else pads
        return tuple(zip(pads[: len(window)], pads[len(window) :], strict=True))
    sides = []
    for n, k, s, d in zip(x.shape[2:], window, strides, dilations, strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        half = total // 2
        sides.append((half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half))
    return tuple(sides)


def _conv(
    x: Tensor,
    weight: Tensor,
    bias=None,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    pads=None,
    strides=None,
) -> Tensor:
    window = weight.shape[2:]
    if len(window) not in (1, 2):
        raise AdvjaxError(f"it has {len(window)} dimensions; 1 or 2 are known here")
    ones = [1] * len(window)
    strides, dilations = strides or ones, dilations or ones
    sides = _sides(x, window, strides, dilations, pads, auto_pad)
    return spatial.convolution(x, weight, bias, strides, sides, dilations, group)


def _pooled(x: Tensor, window: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str) -> Any:
    """Return the image channels last, and the sides of its windows."""
    if len(window) != 2:
        raise AdvjaxError(f"it has {len(window)} dimensions; 2 are known here")
    if max(window) > WIDEST:
        raise AdvjaxError(f"its window is of {tuple(window)} entries")
    strides, dilations = strides or (1, 1), dilations or (1, 1)
    sides = _sides(x, window, strides, dilations, pads, auto_pad)
    return x.laid(CHANNELS_LAST), tuple(window), tuple(strides), sides


def _max_pool(
    x: Tensor,
    kernel_shape,
    auto_pad="NOTSET",
    ceil_mode=0,
    dilations=None,
    pads=None,
    storage_order=0,
    strides=None,
) -> Tensor:
    image = _pooled(x, kernel_shape, strides, dilations, pads, auto_pad)
    down, across = dilations or (1, 1)
    y = layers.max_pool(*image, ceil=bool(ceil_mode), dilation=(down, across))
    return tensor(y, CHANNELS_LAST)


def _average_pool(
    x: Tensor,
    kernel_shape,
    auto_pad="NOTSET",
    ceil_mode=0,
    count_include_pad=0,
    dilations=None,
    pads=None,
    strides=None,
) -> Tensor:
    if any(n != 1 for n in dilations or ()):
        raise AdvjaxError("average pooling with dilations is not known here")
    image = _pooled(x, kernel_shape, strides, dilations, pads, auto_pad)
    divisor = "padded" if count_include_pad else "image"
    return tensor(layers.average_pool(*image, ceil=bool(ceil_mode), divisor=divisor), CHANNELS_LAST)


def _of_all(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: reduction(function)(x, list(range(2, len(x.axes))), True)


NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _resize(
    x: Tensor,
    roi=None,
    scales: Numbers = None,
    sizes: Numbers = None,
    mode="nearest",
    coordinate_transformation_mode="half_pixel",
    nearest_mode="round_prefer_floor",
    cubic_coeff_a=-0.75,
    exclude_outside=0,
    extrapolation_value=0.0,
    antialias=0,
    axes: Numbers = None,
    keep_aspect_ratio_policy="stretch",
) -> Tensor:
    if antialias or exclude_outside or keep_aspect_ratio_policy != "stretch":
        raise AdvjaxError(
            "antialias, exclude_outside and keep_aspect_ratio_policy are not known here"
        )
    axes = list(range(len(x.axes))) if axes is None else axes
    matrices: list[Any] = [None] * len(x.axes)
    for i, axis in enumerate(axes):
        inputs = x.shape[axis]
        outputs = sizes[i] if sizes else math.floor(inputs * scales[i])
        scale = outputs / inputs if sizes else scales[i]
        if (outputs, scale) == (inputs, 1):
            continue
        bounded((outputs, inputs))
        at = np.arange(outputs)
        if coordinate_transformation_mode == "align_corners":
            places = at * ((inputs - 1) / max(outputs - 1, 1))
        elif coordinate_transformation_mode == "asymmetric":
            places = at / scale
        elif coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel"):
            alone = coordinate_transformation_mode == "pytorch_half_pixel" and outputs == 1
            places = at * 0.0 if alone else (at + 0.5) / scale - 0.5
        else:
            raise AdvjaxError(f"{coordinate_transformation_mode} is not known here")
        if mode == "nearest":
            places = NEAREST[nearest_mode](places)
        reach, kernel = spatial.KERNELS["linear" if mode == "nearest" else mode]
        if mode == "cubic":
            kernel = functools.partial(kernel, a=cubic_coeff_a)
        matrices[axis] = spatial.interpolation_matrix(places, inputs, reach, kernel)
    return spatial.resample(x, matrices)


def _old_resize(x: Tensor, scales: Numbers, mode="nearest") -> Tensor:
    """Resize as before opset 11, where coordinates are divided by the scale."""
    return _resize(
        x,
        scales=scales,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


# The tables.


def _by_elements() -> dict[str, Callable[..., Any]]:
    functions: dict[str, Callable[..., Any]] = {
        "Add": lambda x, y: x + y,
        "Sub": lambda x, y: x - y,
        "Mul": lambda x, y: x * y,
        "Div": _divide,
        "Mod": _mod,
        "Clip": _clip,
        "Where": jnp.where,
        "ThresholdedRelu": lambda x, alpha=1.0: jnp.where(x > alpha, x, 0),
        "HardSigmoid": lambda x, alpha=0.2, beta=0.5: lax.clamp(
            jnp.asarray(0, x.dtype), x * alpha + beta, jnp.asarray(1, x.dtype)
        ),
        "Selu": lambda x, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875: (
            gamma * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))
        ),
        "Softsign": lambda x: x / (1 + x * jnp.sign(x)),
        "Softplus": jax.nn.softplus,
        "GreaterOrEqual": jnp.greater_equal,
        "LessOrEqual": jnp.less_equal,
        "IsNaN": jnp.isnan,
    }
    for name in ("Equal", "Greater", "Less", "Sin", "Cos", "Exp", "Log", "Sqrt", "Tanh", "Sign"):
        functions[name] = getattr(jnp, name.lower())
    for name in ("Floor", "Ceil", "Round", "Reciprocal"):
        functions[name] = getattr(jnp, name.lower())
    for name in ("And", "Or", "Xor", "Not"):
        functions[name] = getattr(jnp, f"logical_{name.lower()}")
    return {name: _elements(function) for name, function in functions.items()}


OPERATIONS: dict[str, Callable[..., Any]] = {
    **_by_elements(),
    "Pow": lambda x, y: ATEN["pow"](x, _alone(y)),
    "Max": _any_number(maximum),
    "Min": _any_number(minimum),
    "Sum": _any_number(lambda x, y: x + y),
    "Mean": _mean,
    "Relu": lambda x: ATEN["relu"](x),
    "LeakyRelu": lambda x, alpha=0.01: ATEN["leaky_relu"](x, alpha),
    "PRelu": _elements(lambda x, slope: jnp.where(x > 0, x, x * slope)),
    "Elu": lambda x, alpha=1.0: ATEN["elu"](x, alpha),
    "Celu": lambda x, alpha=1.0: ATEN["celu"](x, alpha),
    "HardSwish": lambda x: ATEN["hardswish"](x),
    "Mish": lambda x: ATEN["mish"](x),
    "Gelu": _gelu,
    "Sigmoid": lambda x: ATEN["sigmoid"](x),
    "Erf": lambda x: ATEN["erf"](x),
    "Neg": lambda x: ATEN["neg"](x),
    "Abs": lambda x: ATEN["abs"](x),
    "Cast": _cast,
    "CastLike": lambda x, like: Tensor(x.data.astype(like.data.dtype), x.axes),
    # Shapes.
    "Identity": lambda x: x,
    "Dropout": _dropout,
    "Shape": lambda x, start=0, end=None: tensor(np.array(x.shape[start:end], np.int64)),
    "Size": lambda x: tensor(np.array(math.prod(x.shape), np.int64)),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": lambda x, repeats: ATEN["repeat"](x, _numbers(repeats)),
    "Split": _split,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _trilu,
    # Products, normalisation and reductions.
    "MatMul": lambda x, y: ATEN["matmul"](x, y),
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LpNormalization": _lp_norm,
    "LRN": _lrn,
    "ReduceMean": _reduce(jnp.mean),
    "ReduceSum": _reduce(jnp.sum),
    "ReduceMax": _reduce(largest),
    "ReduceMin": _reduce(smallest),
    "ReduceProd": _reduce(jnp.prod),
    "ReduceLogSumExp": _reduce(jax.nn.logsumexp),
    "ReduceSumSquare": _reduce(lambda x, axes, keepdims: jnp.sum(x * x, axes, keepdims=keepdims)),
    "ReduceL1": _norm(1),
    "ReduceL2": _norm(2),
    "ArgMax": _argmax("max"),
    "ArgMin": _argmax("min"),
    "CumSum": _cumsum,
    # Convolutions, pooling and interpolation.
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _of_all(jnp.mean),
    "GlobalMaxPool": _of_all(largest),
    "Resize": _resize,
    # Made of numbers that are known (NUMPY).
    "ConstantOfShape": lambda shape, value=None: _numbers(shape),
    "Range": lambda start, limit, delta: [_numbers(x) for x in (start, limit, delta)],
}
"""By the name of an operation of ONNX's own domain, in its newest form."""

BEFORE: dict[str, tuple[int, Callable[..., Any]]] = {
    "Softmax": (13, _softmax_of_all("softmax")),
    "LogSoftmax": (13, _softmax_of_all("log_softmax")),
    "Resize": (11, _old_resize),
    "Upsample": (10, _old_resize),
}
"""Another function before an opset: where the same name meant something else."""
