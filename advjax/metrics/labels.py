"""The network's labels (Sabour et al., section 3: 95 % take the guide's label)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from advjax.errors import AdvjaxError


def top_label(outputs: Float[ArrayLike, "b classes"]) -> Int[Array, "b"]:
    """Return the class with the largest output; the first of equal ones.

    Args:
        outputs: Probabilities or logits.

    Raises:
        AdvjaxError: Not [b, classes].

    Example:
        >>> top_label(jnp.array([[0.1, 0.7, 0.2]]))
        Array([1], dtype=int32)
    """
    outputs = jnp.asarray(outputs)
    if outputs.ndim != 2:
        raise AdvjaxError(f"outputs has shape {outputs.shape}; give [b, classes]")
    return outputs.argmax(-1)


def takes_label(label: Int[ArrayLike, "b"], guide: Int[ArrayLike, "b"]) -> Bool[Array, "b"]:
    """Return True where the adversarial has the guide's label (section 3).

    Args:
        label: The network's label of the adversarial.
        guide: The guide's label: the network's own, or the true one.

    Raises:
        AdvjaxError: Labels are missing, or not of one length.

    Example:
        >>> takes_label(jnp.array([3, 1]), jnp.array([3, 2]))
        Array([ True, False], dtype=bool)
    """
    label, guide = _labels(label, "label"), _labels(guide, "guide")
    _same_length(label, guide, "guide")
    return label == guide


def leaves_label(label: Int[ArrayLike, "b"], source: Int[ArrayLike, "b"]) -> Bool[Array, "b"]:
    """Return True where the adversarial no longer has the source's label (section 3).

    Args:
        label: The network's label of the adversarial.
        source: The source's label: the network's own, or the true one.

    Raises:
        AdvjaxError: Labels are missing, or not of one length.

    Example:
        >>> leaves_label(jnp.array([3, 1]), jnp.array([2, 1]))
        Array([ True, False], dtype=bool)
    """
    label, source = _labels(label, "label"), _labels(source, "source")
    _same_length(label, source, "source")
    return label != source


def _labels(labels: Int[ArrayLike, "b"] | None, name: str) -> Int[Array, "b"]:
    if labels is None:
        raise AdvjaxError(
            f"{name} is None: the labels are missing; name the network's `output`, or give labels"
        )
    labels = jnp.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise AdvjaxError(
            f"{name} is {labels.dtype}{list(labels.shape)}; give one class number for each image"
        )
    return labels


def _same_length(label: Array, other: Array, name: str) -> None:
    if label.shape != other.shape:
        raise AdvjaxError(f"{name} has {other.size} labels for {label.size} images; give as many")
