"""A PyTorch module as a JAX function of the same activations.

`torch.export` gives the module's graph of ATen operations. What depends on the weights alone is
computed once, by PyTorch; the rest is a list of steps that `advjax.networks.aten` has in JAX. After
the conversion nothing of PyTorch is held.

The layers are what forward hooks on the submodules see: the hooks are set while the graph is made,
and each takes a copy, so that an in-place ReLU that follows does not change it.
"""

import contextlib
import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.errors import AdvjaxError, UnknownName
from advjax.networks import aten
from advjax.networks.program import Output, Program, Ref, Step, run

OUTPUT = "output"


def convert(
    module: Any,
    input_shape: tuple[int, int, int],
    transform: Callable[..., Any] | None,
    layers: Sequence[str] | None,
) -> tuple[Callable[..., dict[str, Any]], dict[str, Any]]:
    """Return function(params, images) and params of a PyTorch module; see `Network.from_torch`."""
    torch = _pytorch()
    if not isinstance(module, torch.nn.Module):
        raise AdvjaxError(f"module is a {type(module).__name__}; give a torch.nn.Module")
    if isinstance(layers, str):
        layers = (layers,)
    images = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    inputs = jax.eval_shape(transform, images) if transform else images
    exported, names = _export(module, inputs.shape)
    program, params = _program(exported, names, type(module).__name__, layers)
    return functools.partial(run, program, transform), params


def _pytorch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise AdvjaxError("from_torch needs PyTorch; pip install 'advjax[torch]'") from error


def _export(module: Any, shape: tuple[int, ...]) -> tuple[Any, list[str]]:
    """Return the exported program, whose outputs are all layers, and their names."""
    torch = _pytorch()
    b, h, w, c = shape
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    images = torch.zeros(b, c, h, w, dtype=like.dtype, device=like.device)
    names: list[str] = []
    try:
        with _evaluation_mode(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about its own parts
            exported = torch.export.export(
                _hooked(module, names),
                (images,),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                strict=False,
            )
            return exported.run_decompositions({}), names
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        if "specialized it to be a constant" in str(error):
            reason = (
                "its code makes the number of images a constant, as len(x) does; use x.shape[0]"
            )
        raise AdvjaxError(
            f"torch.export cannot make a graph of {type(module).__name__} for images "
            f"[batch, {c}, {h}, {w}]: {reason} (input_shape is (height, "
            "width, channels); the forward pass must not depend on the images' values)"
        ) from error


@contextlib.contextmanager
def _evaluation_mode(module: Any) -> Iterator[None]:
    torch = _pytorch()
    modes = [(part, part.training) for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one operation has no parts
    module.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, training in modes:
            part.training = training


def _hooked(module: Any, names: list[str]) -> Any:
    """Return a module that returns what forward hooks on the submodules see, and notes `names`."""
    torch = _pytorch()

    class Hooked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, images):
            seen: dict[str, Any] = {}

            def watch(name):
                def hook(part, args, output):
                    for key, value in _tensors(output, name):
                        seen[key] = value.clone()

                return hook

            parts = [(name, part) for name, part in module.named_modules() if name]
            hooks = [part.register_forward_hook(watch(name)) for name, part in parts]
            try:
                output = module(images)
            finally:
                for hook in hooks:
                    hook.remove()
            for key, value in _tensors(output, OUTPUT):
                prefixed = isinstance(output, Mapping)
                seen[key.removeprefix(f"{OUTPUT}.") if prefixed else key] = value.clone()
            names[:] = seen
            return list(seen.values())

    return Hooked()


def _tensors(output: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of what a module returned: its own name for the one, or the first."""
    torch = _pytorch()
    if isinstance(output, torch.Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, f"{name}.{key}")
    elif isinstance(output, tuple | list):
        for n, value in enumerate(output):
            yield from _tensors(value, f"{name}.{n}" if n else name)


def _program(
    exported: Any, names: Sequence[str], title: str, wanted: Sequence[str] | None
) -> tuple[Program, dict[str, Any]]:
    """Return the steps to the layers that are wanted, and their weights."""
    torch = _pytorch()
    nodes = {node.name: node for node in exported.graph.nodes}
    specs = exported.graph_signature.input_specs
    weights = {spec.arg.name: spec.target for spec in specs if spec.target is not None}
    (image,) = (spec.arg.name for spec in specs if spec.target is None)
    values = [spec.arg.name for spec in exported.graph_signature.output_specs][-len(names) :]
    fakes = {
        name: (value, nodes[value].meta["val"]) for name, value in zip(names, values, strict=True)
    }
    outputs = _outputs(fakes, nodes[image].meta["val"].shape[0], title, wanted)
    needed = _needed(nodes, [layer.value for layer in outputs.values()])

    from_images = {image}
    for node in needed:
        if any(source.name in from_images for source in node.all_input_nodes):
            from_images.add(node.name)
    steps = [node for node in needed if node.name in from_images and node.name != image]
    _check_operations(steps, title)

    @functools.cache
    def computed(name: str) -> Any:
        """Compute what depends on the weights alone."""
        node = nodes[name]
        if name in weights:
            target = weights[name]
            return exported.state_dict.get(target, exported.constants.get(target))
        look = functools.partial(torch.fx.node.map_arg, fn=lambda source: computed(source.name))
        return node.target(*look(node.args), **look(node.kwargs))

    params, orders, constants = {}, {}, {}
    titles: dict[str, str] = {}
    used = dict.fromkeys(
        source.name
        for node in [*steps, *(nodes[layer.value] for layer in outputs.values())]
        for source in (node.all_input_nodes if node.name in from_images else [node])
        if source.name not in from_images
    )
    with torch.no_grad():
        for name in used:
            array = _numpy(computed(name))
            if array.dtype.kind in "iub":
                constants[name] = array
                continue
            # By the name that the module gives it.
            titles[name] = own = weights.get(name, name).removeprefix("module.")
            kernel = array.ndim == 4 and all(_is_kernel(user, name) for user in nodes[name].users)
            orders[own] = aten.KERNEL if kernel else tuple(range(array.ndim))
            params[own] = jnp.array(array.transpose(orders[own]))

    program = Program(
        tuple(_step(node, titles) for node in steps),
        orders,
        constants,
        outputs,
        image,
        aten.CHANNELS_LAST,
        _dtype(nodes[image].meta["val"].dtype),
    )
    return program, params


def _outputs(
    fakes: Mapping[str, Any], batch: Any, title: str, wanted: Sequence[str] | None
) -> dict[str, Output]:
    """Return the layers: those of floating numbers that have the batch as a dimension."""
    found: dict[str, Output] = {}
    without: dict[str, tuple[Any, ...]] = {}
    for name, (value, fake) in fakes.items():
        dims = [n for n, size in enumerate(fake.shape) if str(size) == str(batch)]
        if dims and fake.is_floating_point():
            found[name] = Output(value, dims[0])
        else:
            without[name] = tuple(fake.shape)
    if wanted is None:
        return found
    for name in wanted:
        if name in without:
            raise AdvjaxError(
                f"layer {name!r} of {title} has shape {without[name]}, of which no dimension is "
                "the batch, or whole numbers; choose a layer around it"
            )
        if name not in found:
            raise UnknownName(f"layer of {title}", name, found)
    return {name: layer for name, layer in found.items() if name in wanted}


def _needed(nodes: Mapping[str, Any], wanted: Sequence[str]) -> list[Any]:
    """Return the nodes on which the wanted ones depend, in the graph's order."""
    needed: set[str] = set()
    stack = list(wanted)
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack += [source.name for source in nodes[name].all_input_nodes]
    return [node for name, node in nodes.items() if name in needed]


def _operation(target: Any) -> Callable[..., Any] | None:
    """Return what computes a node: an entry of the table, or arithmetic of sizes."""
    if getattr(target, "__module__", None) in ("_operator", "math"):
        return target
    return aten.OPERATIONS.get(_operation_name(target))


def _operation_name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)
    return packet.__name__ if packet is not None else str(target)


def _check_operations(nodes: Sequence[Any], title: str) -> None:
    missing: dict[str, str] = {}
    for node in nodes:
        if _operation(node.target) is None:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            where = stack[-1][0].removeprefix("module").removeprefix(".") if stack else ""
            missing.setdefault(_operation_name(node.target), where or title)
    if missing:
        known = ", ".join(f"{name} (in {where})" for name, where in missing.items())
        raise AdvjaxError(
            f"from_torch does not know these operations of {title}: {known}; give layers=(...) "
            "that come before them, have the module compute it in another way, or add them to "
            "advjax.networks.aten.OPERATIONS"
        )


def _is_kernel(user: Any, name: str) -> bool:
    """Return True if this node convolves with that one, which then may lie as JAX wants it."""
    args = user.args
    return (
        _operation_name(user.target) in ("conv2d", "convolution")
        and args[1].name == name
        and args[0].name != name
    )


def _step(node: Any, names: Mapping[str, str]) -> Step:
    """Return a node as a step, without PyTorch's objects."""
    torch = _pytorch()

    def freed(argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return Ref(names.get(argument.name, argument.name))
        if isinstance(argument, list | tuple):
            return [freed(a) for a in argument]
        if isinstance(argument, torch.dtype | torch.device | torch.layout | torch.memory_format):
            return None
        return argument

    kwargs = {
        name: freed(value)
        for name, value in node.kwargs.items()
        if name not in ("dtype", "device", "layout", "memory_format", "pin_memory", "non_blocking")
    }
    operation, args = _operation(node.target), freed(node.args)
    assert operation is not None  # _check_operations
    if _operation_name(node.target) == "squeeze" and len(args) == 1:
        # A batch of one image stays a batch.
        shape = node.args[0].meta["val"].shape
        args.append([n for n, size in enumerate(shape) if isinstance(size, int) and size == 1])
    return Step(node.name, operation, args, kwargs, _dtype(node.meta["val"]))


def _dtype(value: Any) -> Any:
    """Return NumPy's name of the dtype of a PyTorch tensor; of several, a list; of a size, None."""
    torch = _pytorch()
    if isinstance(value, list | tuple):
        return [_dtype(v) for v in value]
    if isinstance(value, torch.Tensor):
        value = value.dtype
    return jnp.dtype(str(value).removeprefix("torch.")) if isinstance(value, torch.dtype) else None


def _numpy(value: Any) -> np.ndarray:
    """Return a tensor as an array; NumPy itself has no bfloat16."""
    torch = _pytorch()
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        return value.float().numpy().astype(jnp.bfloat16)
    return value.numpy()
