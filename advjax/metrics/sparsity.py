"""The active units: paths opened and closed (Sabour et al., section 4.3, Table 2)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from advjax.errors import AdvjaxError


def active_share(activations: Real[ArrayLike, "b *layer"]) -> Float[Array, "b"]:
    """Compute the fraction of units that are not zero, 0..1.

    Example:
        >>> active_share(jnp.array([[0.0, 2.0, 0.0, 1.0]]))
        Array([0.5], dtype=float32)
    """
    active = _active(activations)
    return active.sum(-1) / active.shape[1]  # whole numbers until here


def active_change(
    adversarial: Real[ArrayLike, "b *layer"], source: Real[ArrayLike, "b *layer"]
) -> Float[Array, "b"]:
    """Compute Delta S: the adversarial's fraction of non-zero units less the source's, -1..1.

    Section 4.3, Table 2, which gives percent. A layer without ReLU has no zeros, and no change.

    Args:
        adversarial: Activations of one layer, any shape after the batch axis.
        source: The same shape.

    Example:
        >>> active_change(jnp.array([[0.0, 2.0, 3.0, 1.0]]), jnp.array([[0.0, 2.0, 0.0, 1.0]]))
        Array([0.25], dtype=float32)
    """
    return active_share(adversarial) - active_share(source)


def active_overlap(
    adversarial: Real[ArrayLike, "b *layer"], source: Real[ArrayLike, "b *layer"]
) -> Float[Array, "b"]:
    """Compute I/U = |active(a) & active(s)| / |active(a) | active(s)| (section 4.3, Table 2).

    Args:
        adversarial: Activations of one layer, any shape after the batch axis.
        source: The same shape.

    Returns:
        The fraction, 0..1 (the table gives percent); 1 where neither has an active unit.

    Raises:
        AdvjaxError: The shapes differ.

    Example:
        >>> active_overlap(jnp.array([[0.0, 2.0, 3.0, 1.0]]), jnp.array([[5.0, 2.0, 0.0, 0.0]]))
        Array([0.25], dtype=float32)
    """
    a, s = _active(adversarial), _active(source)
    if a.shape != s.shape:
        raise AdvjaxError(
            f"adversarial and source have shapes {jnp.shape(adversarial)} and {jnp.shape(source)}; "
            "give two batches of the same layer"
        )
    union = (a | s).sum(-1)
    return jnp.where(union > 0, (a & s).sum(-1) / jnp.maximum(union, 1), 1.0)


def _active(activations: Real[ArrayLike, "b *layer"]) -> Bool[Array, "b units"]:
    activations = jnp.asarray(activations)
    return (activations != 0).reshape(activations.shape[0], -1)
