"""An ONNX file as a JAX function of its activations.

The graph becomes a list of steps that `advjax.networks.onnx_operations` has in JAX. What depends on
the weights alone is computed once; what depends on the sizes alone, when the function is traced.
Nothing of the file is run, and nothing outside its folder is read.
"""

import functools
import importlib
import inspect
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.errors import AdvjaxError, UnknownName
from advjax.networks import aten, onnx_shapes
from advjax.networks import onnx_operations as operations
from advjax.networks.aten import Tensor
from advjax.networks.program import Output, Program, Ref, Step, compute, run

Shape = tuple[int, int, int]
OWN = ("", "ai.onnx")
CONSTANTS = {"value": None, "value_float": np.float32, "value_int": np.int64}
OLDEST = 7  # before it, operations had other rules of broadcasting


class Node(NamedTuple):
    """A node of the graph; inputs and outputs that are left out are ""."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.operation} (of {self.outputs[0]!r})"


class Graph(NamedTuple):
    """A file's graph. Of the image's sizes, those that are left open are None."""

    title: str
    opset: int
    nodes: list[Node]
    weights: dict[str, np.ndarray]
    image: str
    sizes: tuple[int | None, ...]
    dtype: Any


def convert(
    path: str | os.PathLike[str],
    input_shape: Shape | None,
    transform: Callable[..., Any] | None,
    layers: Sequence[str] | None,
) -> tuple[Callable[..., dict[str, Any]], Shape, dict[str, Any]]:
    """Return function(params, images), the images' shape, and params; see `Network.from_onnx`."""
    graph = _read(Path(path))
    wanted = (layers,) if isinstance(layers, str) else layers
    input_shape = input_shape or _own_shape(graph)
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    inputs = jax.eval_shape(transform, images) if transform else images
    order = _order(graph, inputs.shape[1:])
    nodes = _needed(graph, wanted)
    _check_operations(graph, nodes)
    program, params = _program(graph, nodes, order)
    alone = graph.sizes[0] is not None
    outputs = _outputs(graph, program, params, inputs.shape[1:], alone, wanted)
    function = _one_by_one if alone else run
    program = program._replace(layers=outputs)
    return functools.partial(function, program, transform), input_shape, params


def _one_by_one(program: Program, transform: Any, params: Any, images: Any) -> dict[str, Any]:
    """Return the layers by a graph that was made for one image."""

    def one(image: Any) -> dict[str, Any]:
        # A batch of one image, whose layers may have it as a dimension, or not any more.
        values = compute(program, params, image[None])
        found = {name: values[layer.value].plain for name, layer in program.layers.items()}
        return {name: x[0] if x.shape[:1] == (1,) else x for name, x in found.items()}

    return jax.vmap(one)(transform(images) if transform else images)


# Reading.


def _onnx() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise AdvjaxError("from_onnx needs onnx; pip install 'advjax[onnx]'") from error


def _read(path: Path) -> Graph:
    onnx = _onnx()
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise AdvjaxError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise AdvjaxError(f"{path} is no ONNX model, or is damaged: {_line(error)}") from error
    graph = model.graph
    opset = max((o.version for o in model.opset_import if o.domain in OWN), default=0)
    if not graph.node:
        raise AdvjaxError(f"{path} is no ONNX model, or has no operations")
    if opset < OLDEST:
        raise AdvjaxError(
            f"{path} has opset {opset}; {OLDEST} is the oldest known here; export it anew, or use "
            "onnx.version_converter"
        )
    read = functools.partial(_array, folder=path.absolute().parent, read={})
    try:
        images = list(graph.input)
        weights = {each.name: read(each) for each in graph.initializer}
        if graph.sparse_initializer:
            raise AdvjaxError(f"{path} has sparse weights; export it with dense ones")
        _check_names(graph)
        _check_graph(onnx, model)
        nodes = [_node(node, read) for node in graph.node]
    except AdvjaxError:
        raise
    except Exception as error:
        raise AdvjaxError(f"{path} is damaged: {_line(error)}") from error
    for node in nodes:
        if node.operation == "Constant":
            ((key, value),) = node.attributes.items()  # one, as ONNX has checked
            if key.removesuffix("s") not in CONSTANTS:
                raise AdvjaxError(f"{node} of {path} has {key}, which is not known here")
            weights[node.outputs[0]] = np.asarray(value, CONSTANTS[key.removesuffix("s")])
    images = [given for given in images if given.name not in weights]
    if len(images) != 1:
        names = ", ".join(given.name for given in images) or "none"
        raise AdvjaxError(f"{path} has these inputs: {names}; one, the images, is needed")
    name, kind = images[0].name, images[0].type.tensor_type
    dtype = onnx_shapes.DTYPES.get(kind.elem_type)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise AdvjaxError(
            f"the input {name!r} of {path} is of {np.dtype(dtype) if dtype else 'no numbers'}; "
            "it must be of floating point, to have gradients"
        )
    sizes = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    if len(sizes) != 4:
        raise AdvjaxError(f"the input {name!r} of {path} has {len(sizes)} dimensions; give 4")
    if sizes[0] not in (None, 1):
        raise AdvjaxError(
            f"{path} was made for {sizes[0]} images at a time; export it for one image, or with "
            "an open batch"
        )
    nodes = [node for node in nodes if node.operation != "Constant"]
    return Graph(path.name, opset, nodes, weights, name, sizes, dtype)


def _node(node: Any, read: Callable[[Any], np.ndarray]) -> Node:
    domain = "" if node.domain in OWN else f"{node.domain}."
    attributes = {each.name: _attribute(each, read) for each in node.attribute}
    if node.op_type == "Split" and not domain:
        attributes.setdefault("num_outputs", len(node.output))
    outputs = tuple(node.output) or ("",)
    return Node(f"{domain}{node.op_type}", tuple(node.input), outputs, attributes)


def _attribute(attribute: Any, read: Callable[[Any], np.ndarray]) -> Any:
    value = importlib.import_module("onnx.helper").get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "data_type"):
        return read(value)
    return list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value


def _check_names(graph: Any) -> None:
    """Refuse names that are not UTF-8, which protobuf gives as bytes."""
    names = [each.name for each in (*graph.input, *graph.initializer, *graph.node)]
    for name in (*names, *(name for node in graph.node for name in (*node.input, *node.output))):
        if not isinstance(name, str):
            raise ValueError(f"the name {name!r} is not UTF-8")


def _check_graph(onnx: Any, model: Any) -> None:
    """Let ONNX check names, their order and attributes.

    What is not looked at here goes before: weights, which have been read, and the sizes of outputs,
    which a file need not give.
    """
    given = {each.name for each in model.graph.input}
    for each in model.graph.initializer:
        if each.name not in given:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims)
            )
    for part in (model.graph.initializer, model.graph.output, model.graph.value_info):
        del part[:]
    importlib.import_module("onnx.checker").check_model(model)


def _array(tensor: Any, folder: Path, read: dict[Any, np.ndarray]) -> np.ndarray:
    """Return a tensor of the file, or of a file beside it."""
    onnx = _onnx()
    dtype = onnx_shapes.DTYPES.get(tensor.data_type)
    if dtype is None:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise AdvjaxError(f"the tensor {tensor.name!r} is of {kind}, which is not known here")
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return np.asarray(importlib.import_module("onnx.numpy_helper").to_array(tensor), dtype)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = (folder / location).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        raise AdvjaxError(
            f"the weights {tensor.name!r} are in {location!r}, which is no file of the model's "
            "folder"
        )
    shape = tuple(tensor.dims)
    length = math.prod(shape) * np.dtype(dtype).itemsize
    start = int(entries.get("offset", 0))
    size = file.stat().st_size
    key = file, start, length, shape, np.dtype(dtype)
    if key not in read:  # once, and no more bytes than there are
        whole = sum(each[2] for each in read if each[0] == file)
        if min((start, *shape), default=0) < 0 or max(start, whole) + length > size:
            raise AdvjaxError(
                f"the weights {tensor.name!r} need {length} bytes from {start} on of {location!r}, "
                f"which has {size}"
            )
        read[key] = np.fromfile(file, dtype, math.prod(shape), offset=start).reshape(shape)
    return read[key]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# The image.


def _own_shape(graph: Graph) -> Shape:
    """Return the shape of images [h, w, c] that the file itself gives."""
    a, b, c = graph.sizes[1:]
    if a is None or b is None or c is None:
        raise AdvjaxError(
            f"{graph.title} leaves the size of its images open; give input_shape=(height, width, "
            "channels)"
        )
    return (a, b, c) if c in (1, 3, 4) and a not in (1, 3, 4) else (b, c, a)


def _order(graph: Graph, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the order of the input's dimensions, of which the file's sizes tell the channels."""
    h, w, c = shape
    for order, sizes in ((aten.CHANNELS_LAST, (c, h, w)), ((0, 1, 2, 3), (h, w, c))):
        if all(own in (None, size) for own, size in zip(graph.sizes[1:], sizes, strict=True)):
            return order
    own = ", ".join("any" if n is None else str(n) for n in graph.sizes[1:])
    raise AdvjaxError(
        f"{graph.title} takes images of [{own}], which neither [{h}, {w}, {c}] nor [{c}, {h}, {w}] "
        "fits; give input_shape=(height, width, channels)"
    )


# The graph.


def _needed(graph: Graph, wanted: Sequence[str] | None) -> list[Node]:
    """Return the nodes on which the wanted tensors depend, in the file's order."""
    makers = {name: n for n, node in enumerate(graph.nodes) for name in node.outputs if name}
    if wanted is None:
        return graph.nodes
    needed: set[int] = set()
    stack = list(wanted)
    for name in stack:
        if name not in makers:
            raise UnknownName(f"layer of {graph.title}", name, makers)
    while stack:
        n = makers.get(stack.pop(), -1)
        if n >= 0 and n not in needed:
            needed.add(n)
            stack += graph.nodes[n].inputs
    return [graph.nodes[n] for n in sorted(needed)]


def _check_operations(graph: Graph, nodes: Sequence[Node]) -> None:
    used = {name for node in nodes for name in node.inputs}
    missing: dict[str, str] = {}
    for node in nodes:
        operation = operations.find(node.operation, graph.opset)
        more = [name for name in node.outputs[1:] if name in used]
        if operation is None:
            missing.setdefault(node.operation, str(node))
        elif more and node.operation != "Split":
            missing.setdefault(more[0], f"{node} with its output {more[0]!r}")
        else:
            try:
                inspect.signature(operation.function).bind(*node.inputs, **node.attributes)
            except TypeError as error:
                missing.setdefault(f"{node.operation} {error}", f"{node}: {error}")
    if missing:
        raise AdvjaxError(
            f"from_onnx does not know these operations of {graph.title}, opset {graph.opset}: "
            f"{', '.join(missing.values())}; give layers=(...) that come before them, or add them "
            "to advjax.networks.onnx_operations.OPERATIONS"
        )


def _operation(graph: Graph, node: Node) -> operations.Operation:
    operation = operations.find(node.operation, graph.opset)
    assert operation is not None  # _check_operations
    return operation


def _computed(operation: operations.Operation, where: str, *inputs: Any, **attributes: Any) -> Any:
    try:
        return operations.apply(operation, *inputs, **attributes)
    except (FloatingPointError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        shapes = ", ".join(str(list(x.shape)) for x in inputs if x is not None)
        reason = str(error) if isinstance(error, AdvjaxError) else _line(error)
        raise AdvjaxError(f"{where} cannot be computed on {shapes}: {reason}") from error


def _program(
    graph: Graph, nodes: Sequence[Node], order: tuple[int, ...]
) -> tuple[Program, dict[str, Any]]:
    """Return the steps that depend on the image, and the weights that they take."""
    known = dict(graph.weights)
    from_images = {graph.image}
    steps: list[Step] = []
    users: dict[str, list[tuple[Node, int]]] = {}
    for node in nodes:
        where = f"{node} of {graph.title}"
        call = functools.partial(_computed, _operation(graph, node), where)
        if from_images.isdisjoint(node.inputs):
            inputs = [aten.tensor(known[name]) if name else None for name in node.inputs]
            result = functools.partial(call, *inputs, **node.attributes)
            known |= _folded(result, where, node.outputs)
            continue
        from_images.update(name for name in node.outputs if name)
        for n, name in enumerate(node.inputs):
            users.setdefault(name, []).append((node, n))
        args = [Ref(name) if name else None for name in node.inputs]
        if node.operation != "Split":
            steps.append(Step(node.outputs[0], call, args, node.attributes))
            continue
        parts = f"parts of {node.inputs[0]} for {node.outputs[0]}"
        steps.append(Step(parts, call, args, node.attributes))
        for n, name in enumerate(node.outputs):
            steps.append(Step(name, operator.getitem, [Ref(parts), n], {}))

    params, orders, constants = {}, {}, {}
    for name, uses in users.items():
        if name not in known:
            continue
        array = known[name]
        if (
            not array.ndim
            or not jnp.issubdtype(array.dtype, jnp.floating)
            or any(_is_number(_operation(graph, node), n) for node, n in uses)
        ):
            constants[name] = array
            continue
        kernel = array.ndim == 4 and all((node.operation, n) == ("Conv", 1) for node, n in uses)
        orders[name] = aten.KERNEL if kernel else tuple(range(array.ndim))
        params[name] = jnp.array(array.transpose(orders[name]))
    program = Program(tuple(steps), orders, constants, {}, graph.image, order, graph.dtype)
    return program, params


def _folded(call: Callable[[], Any], where: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Compute what depends on no image, after a look at its size."""
    for each in jax.tree.leaves(jax.eval_shape(lambda: _plain(call()))):
        onnx_shapes.bounded(each.shape, where)
    return dict(zip(names, map(np.asarray, _plain(call())), strict=False))


def _plain(result: Any) -> list[Any]:
    return [each.plain for each in (result if isinstance(result, list) else [result])]


def _is_number(operation: operations.Operation, n: int) -> bool:
    known = operations.known_inputs(operation.function)
    return known[min(n, len(known) - 1)]


def _outputs(
    graph: Graph,
    program: Program,
    params: Mapping[str, Any],
    shape: Sequence[int],
    alone: bool,
    wanted: Sequence[str] | None,
) -> dict[str, Output]:
    """Return the layers: those of floating numbers that have the batch as a dimension."""
    batches = (1, 1) if alone else (5, 7)
    first, second = (_shapes(program, params, (n, *shape)) for n in batches)
    found: dict[str, Output] = {}
    for name in (step.name for step in program.steps if step.name in first):
        sizes = zip(first[name], second[name], strict=True)
        dims = [n for n, pair in enumerate(sizes) if pair == batches]
        if dims or alone:
            found[name] = Output(name, dims[0] if dims else 0)
    for name in wanted or ():
        if name not in found:
            raise AdvjaxError(
                f"layer {name!r} of {graph.title} has no dimension that is the batch, or whole "
                "numbers; choose a layer around it"
            )
    return {name: layer for name, layer in found.items() if wanted is None or name in wanted}


def _shapes(program: Program, params: Any, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all values of floating numbers that depend on the image."""

    def values(params: Any, inputs: Any) -> dict[str, Any]:
        return {
            name: value.plain
            for name, value in compute(program, params, inputs).items()
            if isinstance(value, Tensor)
            and not isinstance(value.data, np.ndarray)
            and jnp.issubdtype(value.data.dtype, jnp.floating)
        }

    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    return {name: each.shape for name, each in jax.eval_shape(values, params, inputs).items()}
