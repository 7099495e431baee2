"""A network: a differentiable function from pixels to named activations, with its parameters."""

import dataclasses
import functools
import math
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing, prepare, read_image
from advjax.data.units import LEVELS, Bounds, check_bounds, from_levels
from advjax.errors import AdvjaxError, ImageError, UnknownName, whole
from advjax.networks.flax_modules import Traced, linen_function, nnx_function

Activations = dict[str, Array]
Transform = Callable[[Array], Array]

_DECLARE = "advjax.Network(..., bounds=(0, 1))"


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

    Bounds and preprocessing belong to the network: `function` takes pixels within `bounds`, and
    brings them to whatever it was trained on (channel order, mean, scale) itself.

    Attributes:
        function: `function(params, images)`, or `function(images)` when `params` is None, gives a
            dict of activations, each with the batch as its first axis. Pure and differentiable.
        input_shape: (height, width, channels) of one image.
        params: The weights, any pytree; an argument of the compiled programs, not a constant.
        name: For messages and results.
        layer: The default layer, or several, which is attacked when none is named; the last one
            when None.
        output: The layer with the class probabilities or logits, if there is one.
        classes: The names of the classes, in the order of `output`.
        preprocessing: The steps from an image file to an input.
        bounds: The least and the largest value of a pixel. Images of floats, deltas and results
            are in these units; uint8 images are levels of 0..255 always, and so are files and what
            commands and runs say of them.
        without_layers: Parts of a Flax module whose outputs are not layers, because they run inside
            a scan or a vmap, or not at all.

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
    layer: str | tuple[str, ...] | None = None
    output: str | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    bounds: Bounds = LEVELS
    without_layers: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "input_shape", _checked_shape(self.input_shape))
        object.__setattr__(self, "bounds", check_bounds(self.bounds))

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
            AdvjaxError: `function` gives no dict, an array without the batch as first axis, or
                complex numbers.
        """
        batch = 7  # not 1 or 2, which any array might have as its first axis
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
            for name, value in outputs.items():
                if not isinstance(name, str):
                    raise AdvjaxError(
                        f"a layer of {self.name} is called {name!r}; give activations names of text"
                    )
                if not (hasattr(value, "shape") or isinstance(value, int | float | complex)):
                    raise AdvjaxError(
                        f"layer {name!r} of {self.name} is a {type(value).__name__}; give one "
                        "array of activations for each name"
                    )
            if not outputs:
                raise AdvjaxError(
                    f"function of {self.name} returned an empty dict; give activations by name"
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
            if not (is_real(array.dtype) or array.dtype == bool):
                raise AdvjaxError(
                    f"layer {name!r} of {self.name} is {array.dtype}; give real numbers (of a "
                    "complex layer its real and imaginary part)"
                )
        return Layers({name: tuple(shapes[name].shape[1:]) for name in names})

    def check_layers(self, layers: str | Sequence[str] | None) -> tuple[str, ...]:
        """Return the names as a tuple; the default layer when None is given.

        Raises:
            UnknownName: A layer that the network does not have; the message offers the nearest.
        """
        if layers is None:
            layers = self.layer or list(self.layers)[-1]
        layers = (layers,) if isinstance(layers, str) else tuple(layers)
        for name in layers:
            if name not in self.layers:
                silent = ", ".join(self.without_layers)
                note = f"no layers come of {silent}: in a scan or vmap, or not called"
                known = self.layers
                raise UnknownName(f"layer of {self.name}", name, known, note if silent else "")
        return layers

    @functools.cached_property
    def in_levels(self) -> "Network":
        """This network of images in 0..255, whatever its own bounds: as files and runs take it."""
        if self.bounds == LEVELS:
            return self
        function = _InLevels(self.function, self.bounds)
        return dataclasses.replace(self, function=function, bounds=LEVELS)

    def check_images(
        self, images: Any, argument: str = "images", *, dark: bool = False
    ) -> np.ndarray | Array:
        """Return `images` as an array [b, h, w, c] of uint8, or of float32 within `bounds`.

        Inside a transformation of JAX their values are not known, and not checked.

        Args:
            images: The batch.
            argument: Its name in messages.
            dark: Accept floats in 0..1 that may be levels, because they are a part of a batch that
                was checked.

        Raises:
            ImageError: Another shape or dtype, NaN, values outside the bounds, or images of floats
                that seem to be in 0..1 where the network takes 0..255.
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
        if not is_real(images.dtype):
            raise ImageError(f"{argument} has dtype {images.dtype}; give uint8 or float32")
        floats = not jnp.issubdtype(images.dtype, np.integer)
        images = images.astype(np.float32)
        if isinstance(images, Tracer) or not images.size:
            return images
        least, largest = float(images.min()), float(images.max())
        low, high = self.bounds
        if not low <= least <= largest <= high:
            raise ImageError(
                f"{argument} has values from {least:g} to {largest:g}; pixels of {self.name} must "
                f"be finite and within {low:g}..{high:g} (mean and scale are the network's own "
                f"business; other units are declared by {_DECLARE})"
            )
        if self.bounds == LEVELS and floats and not dark and 0 < largest <= 1:
            raise ImageError(
                f"{argument} has no value above 1, and {self.name} takes 0..255; multiply by 255, "
                f"give uint8, or declare the units by {_DECLARE}"
            )
        return images

    def __call__(self, images: Any, layers: str | Sequence[str] | None = None) -> Activations:
        """Return the named activations of a batch, in full float32 whatever the network's dtype.

        Nothing above the deepest layer asked for is computed.

        Args:
            images: [b, h, w, c], uint8, or float within `bounds`.
            layers: One name or several; the default layer when None.

        Raises:
            ImageError: See `check_images`.
            UnknownName: See `check_layers`.
        """
        layers = self.check_layers(layers)
        return self.compute(self.check_images(images), layers)

    def compute(self, images: Any, layers: tuple[str, ...]) -> Activations:
        """Return what a call returns, of images and names that are checked."""
        if images.dtype == np.uint8:
            images = from_levels(images, self.bounds)
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
        module: Any,
        input_shape: tuple[int, int, int],
        *,
        transform: Transform | None = None,
        call: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> "Network":
        """Return the network of a Flax NNX module that takes a batch of images.

        If it returns a dict, these are the layers; else they are its submodules' outputs, named by
        their paths ("blocks/0/conv") and sorted by them, and its own result, "output". What runs
        inside `nnx.scan` or `nnx.vmap` has no layers (`without_layers`).

        Args:
            module: An `nnx.Module`, called with one batch; put it into evaluation mode first
                (`module.eval()`).
            input_shape: (height, width, channels) of one image.
            transform: From pixels, within `bounds`, to what the module takes; None when it takes
                pixels.
            call: Further arguments of its `__call__`, such as {"train": False}.
            **fields: The other attributes of `Network`.

        Raises:
            AdvjaxError: The module is in training mode, or cannot be called on such images.
        """
        return cls._of_module(nnx_function(module, transform, call), input_shape, fields)

    @classmethod
    def from_torch(
        cls,
        module: Any,
        input_shape: tuple[int, int, int],
        *,
        transform: Transform | None = None,
        layers: Sequence[str] | None = None,
        **fields: Any,
    ) -> "Network":
        """Return the network of a PyTorch module that takes a batch of images [b, c, h, w].

        The module is translated to JAX, in evaluation mode; the network keeps the weights that it
        has at that time. Its layers hold what forward hooks on its submodules see, in the same
        shapes and under the same names ("layer1.0.conv2"), in the order of computation; of a module
        called twice the last call counts. Where a module returns several tensors, the first has the
        module's name, the others "name.1", or "name.key" of a dict. What the module itself returns
        is "output", or, of a dict, its keys. Where the batch is not the first dimension, it is
        moved there; what has no batch is left out.

        Args:
            module: A `torch.nn.Module` of float32, bfloat16 or float16 weights, on any device.
            input_shape: (height, width, channels) of one image: the network's images are
                [b, h, w, c], as everywhere in advjax.
            transform: From pixels [b, h, w, c], 0..255, to what the module takes, channels last all
                the same; None when it takes pixels.
            layers: Names of the layers wanted; all when None.
            **fields: The other attributes of `Network`.

        Raises:
            AdvjaxError: No PyTorch, a module of which `torch.export` can make no graph, or an
                operation that is not known here: it is named.
            UnknownName: A name in `layers` that is none.
        """
        from advjax.networks import from_torch  # imports PyTorch

        shape = _checked_shape(input_shape)
        function, params = from_torch.convert(module, shape, transform, layers)
        return cls(function, shape, params, **fields)

    @classmethod
    def from_keras(
        cls,
        model: Any,
        input_shape: tuple[int, int, int] | None = None,
        *,
        transform: Transform | None = None,
        **fields: Any,
    ) -> "Network":
        """Return the network of a Keras model that takes a batch of images.

        Keras must run on JAX (`KERAS_BACKEND=jax`). The layers are those of the model by their
        names, in its order, and "output", its own result. A model inside the model is one layer; a
        layer that is called several times is none. A model that is a class with a `call` has its
        result alone; a dict gives its keys. It is called as for inference, and the network keeps
        the weights that it has at that time.

        Args:
            model: A `keras.Model` of Keras 3 that is built, its channels last.
            input_shape: (height, width, channels) of one image; the model's own when None.
            transform: From pixels, within `bounds`, to what the model takes; None when it takes
                pixels.
            **fields: The other attributes of `Network`; the name is the model's, unless given.

        Raises:
            AdvjaxError: No Keras, or on another backend; or a model that cannot be called on such
                images.
        """
        from advjax.networks import from_keras  # imports Keras

        traced = from_keras.keras_function(model, transform)
        shape = from_keras.own_shape(model) if input_shape is None else input_shape
        fields.setdefault("name", model.name)
        return cls._of_module(traced, shape, fields)

    @classmethod
    def from_onnx(
        cls,
        path: str | os.PathLike[str],
        input_shape: tuple[int, int, int] | None = None,
        *,
        transform: Transform | None = None,
        layers: Sequence[str] | None = None,
        **fields: Any,
    ) -> "Network":
        """Return the network of an ONNX file that takes a batch of images.

        The graph is translated to JAX. Its layers are its tensors of floating numbers, under the
        file's names, in the file's order; where the batch is not the first dimension, it is moved
        there. A file that was made for one image at a time is computed image by image, in one
        program. Weights are parameters. Weights in files beside it are read from its folder alone.

        Args:
            path: The file, of opset 7 or later, with one input: images of floating point.
            input_shape: (height, width, channels) of one image, however the file orders them; the
                file's own when None.
            transform: From pixels [b, h, w, c], within `bounds`, to what the file takes, channels
                last all the same; None when it takes pixels.
            layers: Names of the layers wanted; all when None.
            **fields: The other attributes of `Network`; the name is the file's, unless given.

        Raises:
            AdvjaxError: No onnx, a file that is no model or is damaged, or an operation that is not
                known here: it is named.
            UnknownName: A name in `layers` that is none.
        """
        from advjax.networks import from_onnx  # imports onnx

        shape = None if input_shape is None else _checked_shape(input_shape)
        function, shape, params = from_onnx.convert(path, shape, transform, layers)
        fields.setdefault("name", Path(path).stem)
        return cls(function, shape, params, **fields)

    @classmethod
    def from_linen(
        cls,
        module: Any,
        variables: Any,
        input_shape: tuple[int, int, int],
        *,
        transform: Transform | None = None,
        call: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> "Network":
        """Return the network of a Flax Linen module that takes a batch of images.

        Its layers are named as in `from_nnx`, in the order of computation.

        Args:
            module: A `flax.linen.Module`, called as `module.apply(variables, images)`.
            variables: Its variables ("params", "batch_stats", ...).
            input_shape: (height, width, channels) of one image.
            transform: From pixels, within `bounds`, to what the module takes; None when it takes
                pixels.
            call: Further arguments of its `__call__`, such as {"train": False}.
            **fields: The other attributes of `Network`.

        Raises:
            AdvjaxError: The module is in training mode, or cannot be called on such images.
        """
        traced = linen_function(module, variables, transform, call)
        return cls._of_module(traced, input_shape, fields)

    @classmethod
    def _of_module(cls, traced: Traced, input_shape: Any, fields: dict[str, Any]) -> "Network":
        net = cls(traced.function, input_shape, traced.variables, **fields)
        _ = net.layers  # now, so that a module that cannot be called is named here
        object.__setattr__(net, "without_layers", tuple(traced.silent))
        return net


@dataclasses.dataclass(frozen=True)
class _InLevels:
    """The function of a network, of images in 0..255; equal ones share their programs."""

    function: Callable[..., Mapping[str, Array]]
    bounds: Bounds

    def __call__(self, *arguments: Any) -> Mapping[str, Array]:
        *params, images = arguments
        return self.function(*params, from_levels(images, self.bounds))


def is_real(dtype: Any) -> bool:
    """Return True for integers and floats; NumPy alone does not know that bfloat16 is one."""
    return jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating)


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    try:
        height, width, channels = (whole(n, 1) for n in shape)
    except (TypeError, ValueError):
        height = width = channels = None
    if height is None or width is None or channels is None:
        raise AdvjaxError(f"input_shape is {shape!r}; give (height, width, channels) of an image")
    return height, width, channels


def activations(
    function: Callable[..., Mapping[str, Array]],
    with_params: bool,
    params: Any,
    images: Float[Array, "b h w c"],
    layers: Sequence[str],
) -> Activations:
    """Return the activations of the named layers, inside a compiled program.

    This is the pure function behind `Network.__call__`, and the one way by which activations leave
    a network: as float32, whatever its own dtype, before anything is computed from them. Every
    layer is traced, but what no asked layer needs is dropped before it is compiled.
    """
    outputs = function(params, images) if with_params else function(images)
    return {name: _as_float32(jnp.asarray(outputs[name])) for name in layers}


def _as_float32(array: Array) -> Float[Array, "..."]:
    if array.dtype.itemsize < 4 and jnp.issubdtype(array.dtype, jnp.floating):
        # XLA leaves out a conversion to 16 bits and back, in one program and not in another; behind
        # a barrier every program has the same digits.
        array = jax.lax.optimization_barrier(array)
    return array.astype(jnp.float32)


_jitted = jax.jit(activations, static_argnums=(0, 1, 4))
