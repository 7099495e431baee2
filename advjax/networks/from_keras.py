"""Keras models on its JAX backend as functions of named activations, for `Network.from_keras`."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from advjax.errors import AdvjaxError
from advjax.networks.flax_modules import Traced

Shape = tuple[int, int, int]
OUTPUT = "output"


def keras_function(model: Any, transform: Callable[..., Any] | None) -> Traced:
    """Return a Keras model as a function of its variables, as they are now.

    Raises:
        AdvjaxError: No Keras, another backend than JAX, or a model that cannot be called.
    """
    keras = _keras()
    if not isinstance(model, keras.Model):
        raise AdvjaxError(f"model is a {type(model).__name__}; give a keras.Model")
    if not model.built:
        raise AdvjaxError(
            f"{model.name} has no weights yet; call it once on images [b, height, width, channels]"
        )
    whole, silent = _with_all_outputs(keras, model)
    # Copies: Keras gives its own arrays away when it trains on.
    variables = {
        "trainable": [jnp.array(each.value) for each in whole.trainable_variables],
        "other": [jnp.array(each.value) for each in whole.non_trainable_variables],
    }

    def function(variables, images):
        inputs = images if transform is None else transform(images)
        try:
            output, _ = whole.stateless_call(
                variables["trainable"], variables["other"], inputs, training=False
            )
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise AdvjaxError(
                f"{model.name} cannot be called on images {list(inputs.shape)} ({reason}); "
                "input_shape is (height, width, channels)"
            ) from error
        return dict(output) if isinstance(output, Mapping) else {OUTPUT: output}

    return Traced(function, variables, silent)


def own_shape(model: Any) -> Shape:
    """Return the shape [h, w, c] of the images that a model takes.

    Raises:
        AdvjaxError: It has another kind of input, or leaves sizes open.
    """
    inputs = getattr(model, "inputs", None) or []
    shape = tuple(inputs[0].shape[1:]) if inputs else ()
    if len(shape) != 3 or None in shape:
        raise AdvjaxError(
            f"{getattr(model, 'name', model)} does not say the size of its images; give "
            "input_shape=(height, width, channels)"
        )
    return shape


def _keras() -> Any:
    try:
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise AdvjaxError("from_keras needs Keras 3; pip install 'advjax[keras]'") from error
    backend = keras.backend.backend()
    if backend != "jax":
        raise AdvjaxError(
            f"Keras runs on {backend}; set the environment variable KERAS_BACKEND to jax before "
            "keras is imported"
        )
    return keras


def _with_all_outputs(keras: Any, model: Any) -> tuple[Any, list[str]]:
    """Return a model whose outputs are all layers; and of a model without a graph its parts."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return model, [layer.name for layer in model.layers if layer.weights]
    if len(inputs) > 1:
        names = ", ".join(each.name for each in inputs)
        raise AdvjaxError(f"{model.name} has these inputs: {names}; one, the images, is needed")
    if (batch := inputs[0].shape[0]) is not None:
        raise AdvjaxError(f"{model.name} takes {batch} images at a time; leave its batch open")
    outputs: dict[str, Any] = {}
    for layer in model.layers:
        try:
            output = layer.output
        except (AttributeError, ValueError):  # called several times, or never
            continue
        if not isinstance(layer, keras.layers.InputLayer) and _is_layer(keras, output):
            outputs[layer.name] = output
    if len(model.outputs) == 1 and _is_layer(keras, model.outputs[0]):
        outputs[OUTPUT] = model.outputs[0]
    return keras.Model(inputs[0], outputs), []


def _is_layer(keras: Any, output: Any) -> bool:
    """Return True for one tensor of floating numbers with the batch as its first axis."""
    return (
        isinstance(output, keras.KerasTensor)
        and output.shape[:1] == (None,)
        and "float" in output.dtype
    )
