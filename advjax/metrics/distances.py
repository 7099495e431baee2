"""Distances at a layer, and the three ratios of Sabour et al., section 4.1, Figure 3."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from advjax.errors import AdvjaxError
from advjax.metrics.neighbours import knn, squared_distances


def euclidean(x: Real[ArrayLike, "b *layer"], y: Real[ArrayLike, "b *layer"]) -> Float[Array, "b"]:
    """Compute d(x, y) = |x - y|_2 over the flattened layer, row by row.

    In float32, within a relative 1e-6 of float64 up to 290,400 units.

    Args:
        x: Activations, any shape after the batch axis.
        y: The same shape.

    Raises:
        AdvjaxError: The shapes differ.

    Example:
        >>> euclidean(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]))
        Array([5.], dtype=float32)
    """
    x, y = _same_layer(x, y)
    return jnp.sqrt(jnp.square(x - y).reshape(x.shape[0], -1).sum(-1))


def cosine(x: Real[ArrayLike, "b *layer"], y: Real[ArrayLike, "b *layer"]) -> Float[Array, "b"]:
    """Compute <x, y> / (|x| |y|) over the flattened layer, row by row.

    In float32, within 1e-6 of float64 up to 290,400 units.

    Args:
        x: Activations, any shape after the batch axis.
        y: The same shape.

    Returns:
        -1..1; 0 where x or y is zero everywhere.

    Raises:
        AdvjaxError: The shapes differ.

    Example:
        >>> cosine(jnp.array([[5.0, 0.0]]), jnp.array([[3.0, 4.0]]))
        Array([0.6], dtype=float32)
    """
    x, y = _same_layer(x, y)
    zero = jnp.zeros_like(x)
    lengths = euclidean(x, zero) * euclidean(y, zero)
    along = (x * y).reshape(x.shape[0], -1).sum(-1)
    return jnp.clip(along / jnp.where(lengths == 0, 1, lengths), -1, 1)


def distance_ratio(
    adversarial: Real[ArrayLike, "b *layer"],
    source: Real[ArrayLike, "b *layer"],
    guide: Real[ArrayLike, "b *layer"],
) -> Float[Array, "b"]:
    """Compute d(a, g) / d(s, g): 0 at the guide, 1 at the source (section 4.1, Figure 3a).

    Under 0.5 the adversarial is nearer to the guide than to the source, whatever the way it took.

    Args:
        adversarial: Activations a, any shape after the batch axis.
        source: s, the same shape.
        guide: g, the same shape.

    Returns:
        The ratio; 0 where source and guide have the same activations, as in the engine's results:
        nothing was to be done there.

    Example:
        >>> a, s, g = jnp.array([[1.0]]), jnp.array([[4.0]]), jnp.array([[0.0]])
        >>> distance_ratio(a, s, g)
        Array([0.25], dtype=float32)
    """
    initial = euclidean(source, guide)
    there = initial == 0
    return jnp.where(there, 0, euclidean(adversarial, guide) / jnp.where(there, 1, initial))


def nearest_ratio(
    adversarial: Real[ArrayLike, "b *layer"],
    guide: Real[ArrayLike, "b *layer"],
    mean_nearest: Float[ArrayLike, "b"],
) -> Float[Array, "b"]:
    """Divide d(a, g) by the mean nearest distance in the guide's class (section 4.1, Figure 3b).

    Under 1 the adversarial is nearer to the guide than training images of that class are to their
    nearest neighbours.

    Args:
        adversarial: Activations a.
        guide: g, the same shape.
        mean_nearest: `mean_nearest_distance` of each guide's class.

    Example:
        >>> nearest_ratio(jnp.array([[1.0]]), jnp.array([[0.0]]), jnp.array([2.0]))
        Array([0.5], dtype=float32)
    """
    return euclidean(adversarial, guide) / jnp.asarray(mean_nearest, jnp.float32)


def pairwise_ratio(
    adversarial: Real[ArrayLike, "b *layer"],
    source: Real[ArrayLike, "b *layer"],
    mean_pairwise: Float[ArrayLike, "b"],
) -> Float[Array, "b"]:
    """Divide d(a, s) by the mean pairwise distance in the source's class (section 4.1, Figure 3c).

    Over 1 the adversarial is further from the source than two images of that class are on average.

    Args:
        adversarial: Activations a.
        source: s, the same shape.
        mean_pairwise: `mean_pairwise_distance` of each source's class.

    Example:
        >>> pairwise_ratio(jnp.array([[3.0]]), jnp.array([[0.0]]), jnp.array([2.0]))
        Array([1.5], dtype=float32)
    """
    return euclidean(adversarial, source) / jnp.asarray(mean_pairwise, jnp.float32)


def mean_pairwise_distance(features: Float[ArrayLike, "n d"]) -> Float[Array, ""]:
    """Compute the mean of d(x, y) over the pairs of different images of a class.

    By the Gram matrix of the centred features, in float32: within a relative 1e-4 of float64. A
    pair of near duplicates is the worst case; its own distance is off by up to about 1e-3 of the
    class's spread.

    Args:
        features: The class's activations, n of at least 2; n x n numbers are held.

    Raises:
        AdvjaxError: Fewer than two images.

    Example:
        >>> mean_pairwise_distance(jnp.array([[0.0], [1.0], [3.0]]))
        Array(2., dtype=float32)
    """
    features = _of_class(features)
    n = features.shape[0]
    square = squared_distances(features, features)
    apart = ~jnp.eye(n, dtype=bool)
    return jnp.where(apart, jnp.sqrt(square), 0).sum(-1).sum() / (n * (n - 1))


def mean_nearest_distance(features: Float[ArrayLike, "n d"]) -> Float[Array, ""]:
    """Compute the mean distance of a class's images to their nearest other image of the class.

    Each image is left out of its own search by its row, never by a distance of zero; the distances
    are computed from differences, within a relative 1e-5 of float64.

    Args:
        features: The class's activations, n of at least 2.

    Raises:
        AdvjaxError: Fewer than two images.

    Example:
        >>> mean_nearest_distance(jnp.array([[0.0], [1.0], [3.0]]))
        Array(1.3333334, dtype=float32)
    """
    features = _of_class(features)
    own = jnp.arange(features.shape[0])[:, None]
    return knn(features, features, 1, exclude=own).distances.mean()


def _of_class(features: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
    features = jnp.asarray(features, jnp.float32)
    if features.ndim != 2 or features.shape[0] < 2:
        raise AdvjaxError(
            f"features has shape {features.shape}; give [n, d] with two or more images of a class"
        )
    return features


def _same_layer(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    if x.shape != y.shape or x.ndim == 0:
        raise AdvjaxError(
            f"x has shape {x.shape} and y has shape {y.shape}; give two batches of the same layer"
        )
    return x, y
