"""A network: a differentiable function from pixels to named activations, with its parameters."""

import dataclasses
import functools
import math
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing, prepare, read_image
from advjax.errors import AdvjaxError, ImageError, UnknownName

Activations = dict[str, Array]
Transform = Callable[[Array], Array]


class Layers(dict[str, tuple[int, ...]]):
    """Each layer's name and shape for one image, shown as a table."""

    def __repr__(self) -> str:
        """Return a line for each layer: its name, its shape, its number of units."""
        rows = [
            (name, " x ".join(map(str, shape)) or "1", f"{math.prod(shape):,}")
            for name, shape in self.items()
        ]
        name, shape, units = (max((len(row[i]) for row in rows), default=0) for i in range(3))
        return "\n".join(f"{a:{name}}  {b:>{shape}}  {c:>{units}} units" for a, b, c in rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A function from images in pixels to named activations, on which attacks and metrics work.

    Bounds and preprocessing belong to the network: `function` takes pixels, 0..255, and brings them
    to whatever it was trained on (channel order, mean, scale) itself.

    Attributes:
        function: `function(params, images)`, or `function(images)` when `params` is None, gives a
            dict of activations, each with the batch as its first axis. Pure and differentiable.
        input_shape: (height, width, channels) of one image.
        params: The weights, any pytree; an argument of the compiled programs, not a constant.
        name: For messages and results.
        layer: The default layer, which is attacked when none is named; the last one when None.
        output: The layer with the class probabilities or logits, if there is one.
        classes: The names of the classes, in the order of `output`.
        preprocessing: The steps from an image file to an input.

    Example:
        >>> def halves(images):
        ...     return {"mean": images.mean((1, 2)), "top": images[:, :2].mean((1, 2))}
        >>> net = Network(halves, (4, 4, 3))
        >>> net.layers
        mean  3  3 units
        top   3  3 units
        >>> net(jnp.full((1, 4, 4, 3), 8.0), "mean")["mean"]
        Array([[8., 8., 8.]], dtype=float32)
    """

    function: Callable[..., Mapping[str, Array]]
    input_shape: tuple[int, int, int]
    params: Any = None
    name: str = "network"
    layer: str | None = None
    output: str | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self):
        shape = tuple(self.input_shape)
        if len(shape) != 3 or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
            raise AdvjaxError(f"input_shape is {shape}; give (height, width, channels) of an image")
        object.__setattr__(self, "input_shape", shape)

    def __repr__(self) -> str:
        """Describe the network in one line of fewer than 200 characters, without its weights."""
        leaves = jax.tree.leaves(self.params)
        count = sum(math.prod(np.shape(leaf)) for leaf in leaves)
        default = None if self.layer is None else reprlib.repr(self.layer)
        return (
            f"Network({reprlib.repr(self.name)}, input_shape={self.input_shape}, "
            f"{self._layer_count()} layers, default layer {default}, {count:,} parameters)"
        )

    def _layer_count(self) -> int | str:
        try:
            return len(self.layers)
        except Exception:  # a repr, in a debugger say, must not fail with the user's function
            return "unknown"

    @functools.cached_property
    def layers(self) -> Layers:
        """Return each activation's name and shape for one image, in the order of `function`.

        It is a dict, and is shown as a table.

        Raises:
            AdvjaxError: `function` gives no dict, or an array without the batch as first axis.
        """
        batch = 2  # not 1, which any array might have as its first axis
        images = jax.ShapeDtypeStruct((batch, *self.input_shape), jnp.float32)
        # eval_shape sorts the keys of a dict that it returns; the order is noted on the way.
        names: list[str] = []

        def trace(params, images):
            outputs = self.function(images) if params is None else self.function(params, images)
            if not isinstance(outputs, Mapping):
                raise AdvjaxError(
                    f"function of {self.name} returned {type(outputs).__name__}; "
                    "give a dict of activations by name"
                )
            names.extend(outputs)
            return dict(outputs)

        shapes = jax.eval_shape(trace, self.params, images)
        for name, array in shapes.items():
            if array.shape[:1] != (batch,):
                raise AdvjaxError(
                    f"layer {name!r} of {self.name} has shape {array.shape} for a batch of {batch} "
                    "images; give activations with the batch as first axis"
                )
        return Layers({name: tuple(shapes[name].shape[1:]) for name in names})

    def check_layers(self, layers: str | Sequence[str] | None) -> tuple[str, ...]:
        """Return the names as a tuple; the default layer when None is given.

        Raises:
            UnknownName: A layer that the network does not have; the message offers the nearest.
        """
        if layers is None:
            layers = (self.layer or list(self.layers)[-1],)
        layers = (layers,) if isinstance(layers, str) else tuple(layers)
        for name in layers:
            if name not in self.layers:
                raise UnknownName(f"layer of {self.name}", name, self.layers)
        return layers

    def check_images(self, images: Any, argument: str = "images") -> np.ndarray | Array:
        """Return `images` as an array [b, h, w, c] of uint8 or float32 within 0..255.

        Raises:
            ImageError: Another shape or dtype, NaN, or values outside 0..255.
        """
        shape = ("b", *self.input_shape)
        try:
            images = images if isinstance(images, jax.Array) else np.asarray(images)
        except ValueError:
            raise ImageError(f"{argument} differ in shape; give a batch of equal images") from None
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise ImageError(
                f"{argument} has shape {tuple(images.shape)}, but {self.name} takes "
                f"[{', '.join(map(str, shape))}]; use advjax.load_images to bring files to it"
            )
        if images.dtype == np.uint8:
            return images
        if images.dtype.kind not in "fiu":
            raise ImageError(f"{argument} has dtype {images.dtype}; give uint8 or float32")
        images = images.astype(np.float32)
        if images.size and not bool(((images >= 0) & (images <= 255)).all()):
            low, high = float(images.min()), float(images.max())
            raise ImageError(
                f"{argument} has values from {low:g} to {high:g}; pixels must be finite and "
                "within 0..255 (not 0..1 or mean-subtracted: the network does that itself)"
            )
        return images

    def __call__(self, images: Any, layers: str | Sequence[str] | None = None) -> Activations:
        """Return the named activations of a batch, in full float32.

        Nothing above the deepest layer asked for is computed.

        Args:
            images: [b, h, w, c], uint8 or float, 0..255.
            layers: One name or several; the default layer when None.

        Raises:
            ImageError: See `check_images`.
            UnknownName: See `check_layers`.
        """
        layers = self.check_layers(layers)
        images = self.check_images(images)
        images = jnp.asarray(images, jnp.float32)
        with jax.default_matmul_precision("highest"):  # not a GPU's TensorFloat-32
            outputs = _jitted(self.function, self.params is not None, self.params, images, layers)
        return {name: outputs[name] for name in layers}  # in the order asked for; jit sorts

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read an image file as an input [h, w, c] of this network, by its `preprocessing`.

        Raises:
            ImageError: A file that cannot be read, or a network without preprocessing.
        """
        if self.preprocessing is None:
            raise ImageError(
                f"{self.name} has no preprocessing, so files cannot become its input; give arrays, "
                "or a Preprocessing to advjax.Network"
            )
        return prepare(read_image(path, self.input_shape[-1]), self.preprocessing)

    def top(self, images: Any, count: int = 3) -> list[list[tuple[str, float]]]:
        """Return the likeliest classes of each image with their probabilities, best first.

        Args:
            images: [b, h, w, c], 0..255; or one image; or the path of an image file, or a list of
                paths.
            count: Classes of each image, at most.

        Returns:
            A list for each image. An output that is not probabilities is taken for logits, whose
            softmax is returned.

        Raises:
            AdvjaxError: The network has no `output`, or an image cannot be used.

        Example:
            >>> net = Network(lambda x: {"mean": x.mean((1, 2)) / 255}, (1, 1, 3), output="mean")
            >>> net.top(np.array([[[255, 0, 0]]], np.uint8), 1)
            [[('class 0', 1.0)]]
        """
        if self.output is None:
            raise AdvjaxError(f"{self.name} has no output layer, so that it names no classes")
        if isinstance(images, str | os.PathLike):
            images = self.read(images)
        elif isinstance(images, list | tuple):
            images = [
                self.read(image) if isinstance(image, str | os.PathLike) else image
                for image in images
            ]
        if np.shape(images) == self.input_shape:
            images = np.asarray(images)[None]
        rows = np.asarray(self(images, self.output)[self.output], np.float32)
        rows = rows.reshape(len(rows), -1)
        if not ((rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-2)):
            rows = np.asarray(jax.nn.softmax(rows))
        best = np.argsort(-rows, 1, stable=True)[:, :count]
        names = self.classes
        return [
            [(names[i] if names else f"class {i}", float(row[i])) for i in indices]
            for row, indices in zip(rows, best, strict=True)
        ]

    @classmethod
    def from_nnx(
        cls,
        module: nnx.Module,
        input_shape: tuple[int, int, int],
        *,
        transform: Transform | None = None,
        **fields: Any,
    ) -> "Network":
        """Return the network of a Flax NNX module that takes a batch of images.

        If it returns a dict, these are the layers; else they are its submodules' outputs, named by
        their paths ("blocks/0/conv") and sorted by them, and its own result, "output".

        Args:
            module: Called with one batch; put it into evaluation mode first (`module.eval()`).
            input_shape: (height, width, channels) of one image.
            transform: From pixels, 0..255, to what the module takes; None when it takes pixels.
            **fields: The other attributes of `Network`.
        """
        graph, state = nnx.split(module)
        state = jax.tree.map(lambda leaf: leaf, state)  # variables of its own: training may go on

        def function(state, images):
            module = nnx.merge(graph, state)
            run = nnx.capture(module, nnx.Intermediate, method_outputs=nnx.Intermediate)
            output, inner = run(transform(images) if transform else images)
            return _layers(output, nnx.to_pure_dict(inner), images)

        return cls(function, input_shape, state, **fields)

    @classmethod
    def from_linen(
        cls,
        module: Any,
        variables: Any,
        input_shape: tuple[int, int, int],
        *,
        transform: Transform | None = None,
        **fields: Any,
    ) -> "Network":
        """Return the network of a Flax Linen module that takes a batch of images.

        Its layers are named as in `from_nnx`, in the order of computation.

        Args:
            module: A `flax.linen.Module`, called as `module.apply(variables, images)`.
            variables: Its variables ("params", "batch_stats", ...).
            input_shape: (height, width, channels) of one image.
            transform: From pixels, 0..255, to what the module takes; None when it takes pixels.
            **fields: The other attributes of `Network`.
        """

        def function(variables, images):
            inputs = transform(images) if transform else images
            output, state = module.apply(
                variables, inputs, capture_intermediates=True, mutable=["intermediates"]
            )
            return _layers(output, state["intermediates"], images)

        return cls(function, input_shape, variables, **fields)


def _layers(output, intermediates, images):
    """Return the activations that a module returned, or those captured in its submodules."""
    if isinstance(output, Mapping):
        return dict(output)
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


def activations(
    function: Callable[..., Mapping[str, Array]],
    with_params: bool,
    params: Any,
    images: Float[Array, "b h w c"],
    layers: Sequence[str],
) -> Activations:
    """Return the activations of the named layers, inside a compiled program.

    This is the pure function behind `Network.__call__`. Every layer is traced, but what no asked
    layer needs is dropped before it is compiled.
    """
    outputs = function(params, images) if with_params else function(images)
    return {name: outputs[name] for name in layers}


_jitted = jax.jit(activations, static_argnums=(0, 1, 4))
