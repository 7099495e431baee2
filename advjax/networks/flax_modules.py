"""Flax modules as functions from images to named activations, for `Network.from_nnx`."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.errors import AdvjaxError

EVALUATE = "pass what its __call__ takes for evaluation, such as call={'train': False}"
MODES = {"deterministic", "use_running_average"}  # False in a part that is trained
TRAINED = ("deterministic", "use_running_average", "rng", "immutable")  # in Flax's messages


class Traced(NamedTuple):
    """A module as a function of its variables and images.

    Attributes:
        function: `function(variables, images)` gives a dict of activations.
        variables: A pytree of arrays.
        silent: The paths of the parts that give no layers; known when the function was traced.
    """

    function: Callable[[Any, Any], Mapping[str, Any]]
    variables: Any
    silent: list[str]


def nnx_function(module: Any, transform: Any, call: Mapping[str, Any] | None) -> Traced:
    """Return an NNX module as a function of its variables, as they are now.

    Raises:
        AdvjaxError: `module` is none, or `call` is no dict.
    """
    if not isinstance(module, nnx.Module):
        raise AdvjaxError(
            f"module is a {_kind(module)}; give a Flax NNX module, made with its rngs"
        )
    arguments = _arguments(call)
    graph, state = nnx.split(module)
    remedy = f"call module.eval(), or {EVALUATE}"

    def function(state, images):
        # Variables of this trace: a module's own transformations refuse those of another one.
        state = jax.tree.map(lambda leaf: leaf, state)
        module = nnx.merge(graph, state)
        before = dict(_trained(module))
        run = nnx.capture(module, nnx.Intermediate, method_outputs=nnx.Intermediate)
        output, inner = _called(run, transform, arguments, images, remedy)
        changed = [path for path, values in _trained(module) if values != before.get(path)]
        if changed:
            raise AdvjaxError(
                f"the module is in training mode ({_some(changed)}): {remedy}, so that an image's "
                "activations depend on it alone"
            )
        layers = name_layers(output, nnx.to_pure_dict(inner), images)
        silent[:] = () if isinstance(output, Mapping) else without_layers(parts, layers)
        return layers

    silent: list[str] = []
    parts = [
        "/".join(map(str, path))
        for path, part in nnx.iter_modules(module)
        if path and jax.tree.leaves(nnx.state(part, nnx.Param))
    ]
    return Traced(function, jax.tree.map(lambda leaf: leaf, state), silent)


def linen_function(
    module: Any, variables: Any, transform: Any, call: Mapping[str, Any] | None
) -> Traced:
    """Return a Linen module as a function of its variables.

    Raises:
        AdvjaxError: `module` is none, or `call` is no dict.
    """
    from flax import linen

    if not isinstance(module, linen.Module):
        raise AdvjaxError(f"module is a {_kind(module)}; give a Flax Linen module")
    arguments = _arguments(call)

    def function(variables, images):
        run = functools.partial(
            module.apply, variables, capture_intermediates=True, mutable=["intermediates"]
        )
        output, state = _called(run, transform, arguments, images, EVALUATE)
        layers = name_layers(output, state.get("intermediates", {}), images)
        silent[:] = () if isinstance(output, Mapping) else without_layers(parts, layers)
        return layers

    def parts_of(tree: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
        for name, value in tree.items():
            if isinstance(value, Mapping):
                yield "/".join((*path, str(name)))
                yield from parts_of(value, (*path, str(name)))

    silent: list[str] = []
    params = variables.get("params", {}) if isinstance(variables, Mapping) else {}
    parts = list(parts_of(params))
    return Traced(function, variables, silent)


def name_layers(output: Any, intermediates: Mapping[str, Any], images: Any) -> dict[str, Any]:
    """Return the activations that a module returned, or those captured in its submodules."""
    if isinstance(output, Mapping):
        return dict(output)
    if not hasattr(output, "shape"):
        raise AdvjaxError(
            f"the module returned a {_kind(output)}; give one that returns an array, or a dict of "
            "activations by name (or choose among its outputs in an advjax.Network of a function)"
        )
    named = {}

    def collect(tree, path):  # in the dicts' own order, which Linen keeps as that of computation
        for key, value in tree.items():
            keys = path if key == "__call__" else (*path, str(key))
            if isinstance(value, Mapping):
                collect(value, keys)
                continue
            # A tuple with what each call returned: of several calls the last one counts.
            for array in jax.tree.leaves(value):
                if keys and jnp.ndim(array) and array.shape[0] == images.shape[0]:
                    named["/".join(keys)] = array

    collect(intermediates, ())
    return named | {"output": output}


def without_layers(parts: Sequence[str], layers: Iterable[str]) -> tuple[str, ...]:
    """Return the outermost parts of which neither they nor anything in them is a layer.

    Example:
        >>> without_layers(["blocks", "blocks/norm", "head"], ["head", "output"])
        ('blocks',)
    """
    there = [f"{name}/" for name in layers]
    silent: list[str] = []
    for part in sorted(parts, key=lambda part: part.count("/")):
        inside = f"{part}/"
        heard = any(name.startswith(inside) for name in there)
        if not heard and not any(inside.startswith(f"{outer}/") for outer in silent):
            silent.append(part)
    return tuple(silent)


def _called(run: Any, transform: Any, arguments: Any, images: Any, remedy: str) -> Any:
    """Call a module on images; what Flax or the module raises becomes one line."""
    try:
        return run(images if transform is None else transform(images), **arguments)
    except (AdvjaxError, FloatingPointError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        text = text.split(" (https://")[0]
        size = tuple(images.shape[1:])
        if isinstance(error, TypeError) and " argument" in text and "__call__" in text:
            what = f"; give its other arguments: {remedy}"
        elif any(word in text.lower() for word in TRAINED):
            what = f"; is it in training mode? {remedy[0].upper()}{remedy[1:]}"
        elif "collection is empty" in text or "dictionary of collections" in text:
            what = "; give all its variables, as {'params': ...}"
        elif size[0] in (1, 3, 4) and size[2] not in (1, 3, 4):
            what = f"; input_shape is {size}: give (height, width, channels), the channels last"
        else:
            what = ""
        raise AdvjaxError(
            f"the module cannot be called on images {list(images.shape)} ({text}){what}"
        ) from error


def _trained(module: Any) -> Iterator[tuple[str, list[int]]]:
    """Yield the parts that are in training mode, with the identities of what they would change."""
    for path, part in nnx.iter_modules(module):
        if any(getattr(part, mode, None) is False for mode in MODES):
            state = nnx.state(part, nnx.Any(nnx.BatchStat, nnx.RngCount))
            yield "/".join(map(str, path)), [id(leaf) for leaf in jax.tree.leaves(state)]


def _arguments(call: Mapping[str, Any] | None) -> dict[str, Any]:
    if call is not None and not isinstance(call, Mapping):
        raise AdvjaxError(f"call is {call!r}; give a dict of keyword arguments")
    return dict(call or {})


def _kind(value: Any) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _some(names: Sequence[str]) -> str:
    shown = [name or "itself" for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
