"""Neighbours in common, and ranks within a class (Sabour et al., section 4.1, Table 1)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from advjax.errors import AdvjaxError
from advjax.metrics.neighbours import Neighbours, knn


class Neighbourhood(NamedTuple):
    """The neighbours and ranks of adversarial and guide in a class (section 4.1, Table 1).

    Attributes:
        common: |N_k(a) & N_k(g)|.
        rank_adversarial: r_k(a), a percentile.
        rank_guide: r_k(g).
        delta_rank: r_k(a) - r_k(g); negative where the adversarial lies closer to its neighbours.
    """

    common: Int[Array, "b"]
    rank_adversarial: Float[Array, "b"]
    rank_guide: Float[Array, "b"]
    delta_rank: Float[Array, "b"]


def intersection(x: Int[ArrayLike, "b k"], y: Int[ArrayLike, "b k"]) -> Int[Array, "b"]:
    """Count the common neighbours, |N(x) & N(y)| (section 4.1, Table 1).

    Args:
        x: Rows of neighbours, each at most once in a row; -1 for none.
        y: The same of the other point.

    Example:
        >>> intersection(jnp.array([[4, 7, 1]]), jnp.array([[1, 2, 4]]))
        Array([2], dtype=int32)
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    same = (x[:, :, None] == y[:, None, :]) & (x[:, :, None] >= 0)
    return same.any(-1).sum(-1)


def percentile_rank(
    scores: Float[ArrayLike, "b"],
    population: Float[ArrayLike, "n"],
    exclude: Int[ArrayLike, "b"] | Int[ArrayLike, "b e"] | None = None,
) -> Float[Array, "b"]:
    """Compute 100 (number below + half the number equal) / number in a population (section 4.1).

    It is the rank r_K of the paper when the scores are mean distances to K nearest neighbours. It
    depends on their order alone, not on the layer's units.

    Args:
        scores: Of the points to rank.
        population: The scores of a class, `neighbour_scores`.
        exclude: For each point, the row or rows of the population it is not compared with; -1 for
            none.

    Returns:
        0..100; NaN for a score of NaN, or where `exclude` leaves no row.

    Example:
        >>> percentile_rank(jnp.array([2.5]), jnp.array([1.0, 2.0, 3.0, 4.0]))
        Array([50.], dtype=float32)
    """
    scores = jnp.asarray(scores, jnp.float32)
    population = jnp.asarray(population, jnp.float32)
    skip = jnp.full(scores.shape, -1) if exclude is None else jnp.asarray(exclude)
    skip = skip.reshape(scores.shape[0], -1)
    rows = jnp.arange(population.shape[0])
    counted = (rows[None, None, :] != skip[:, :, None]).all(1)
    below = (population[None, :] < scores[:, None]) & counted
    equal = (population[None, :] == scores[:, None]) & counted
    rank = 100 * (below.sum(-1) + 0.5 * equal.sum(-1)) / counted.sum(-1)
    return jnp.where(jnp.isnan(scores), jnp.nan, rank).astype(jnp.float32)


def neighbour_scores(features: Float[ArrayLike, "n d"], k: int = 3) -> Float[Array, "n"]:
    """Compute each image's mean distance to the k nearest others of its class (section 4.1).

    Args:
        features: The class's activations, n of at least k + 1.
        k: Number of neighbours; the paper takes 3.

    Raises:
        AdvjaxError: Fewer than k + 1 images.

    Example:
        >>> neighbour_scores(jnp.array([[0.0], [1.0], [3.0]]), k=2)
        Array([2. , 1.5, 2.5], dtype=float32)
    """
    features = jnp.asarray(features, jnp.float32)
    if features.ndim == 2 and features.shape[0] <= k:
        raise _too_few(k, features)
    own = jnp.arange(features.shape[0])[:, None]
    return knn(features, features, k, exclude=own).distances.mean(-1)


def neighbourhood(
    adversarial: Float[ArrayLike, "b d"],
    guide: Float[ArrayLike, "b d"],
    features: Float[ArrayLike, "n d"],
    population: Float[ArrayLike, "n"],
    guide_row: Int[ArrayLike, "b"],
    k: int = 3,
) -> Neighbourhood:
    """Compute common neighbours, and ranks within the guides' class (section 4.1, Table 1).

    The guide is left out of its own and the adversarial's neighbours, and of those they are ranked
    among. The other images' scores stay as they are: the guide counts as a neighbour of theirs.

    Args:
        adversarial: Activations, whose guides all belong to one class.
        guide: Those of the guides.
        features: The training images of that class, n of at least k + 1.
        population: Their `neighbour_scores`.
        guide_row: The guides' rows among them; -1 for a guide that is not one of them.
        k: Number of neighbours; the paper takes 3.

    Raises:
        AdvjaxError: Fewer than k + 1 images.

    Example:
        >>> points = jnp.array([[0.0], [1.0], [3.0], [7.0], [8.0]])
        >>> scores = neighbour_scores(points, k=2)
        >>> near = neighbourhood([[0.6]], [[0.0]], points, scores, jnp.array([0]), k=2)
        >>> near.common.tolist(), near.rank_guide.tolist(), near.rank_adversarial.tolist()
        ([2], [25.0], [0.0])
    """
    features, guide_row = jnp.asarray(features, jnp.float32), jnp.asarray(guide_row)
    if features.shape[0] <= k:
        raise _too_few(k, features)
    of_a = knn(adversarial, features, k, exclude=guide_row[:, None])
    of_g = knn(guide, features, k, exclude=guide_row[:, None])
    return compare_neighbours(of_a, of_g, population, guide_row)


def compare_neighbours(
    adversarial: Neighbours,
    guide: Neighbours,
    population: Float[ArrayLike, "n"],
    exclude: Int[ArrayLike, "b"] | Int[ArrayLike, "b e"],
) -> Neighbourhood:
    """Compute `neighbourhood` from neighbours that are known already, as from `knn_blocks`.

    Args:
        adversarial: The k nearest of each adversarial, within the guide's class.
        guide: Those of the guide.
        population: `neighbour_scores` of the class.
        exclude: Rows of the population that are the pair's own images; -1 for none.
    """
    rank_a = percentile_rank(jnp.mean(adversarial.distances, -1), population, exclude)
    rank_g = percentile_rank(jnp.mean(guide.distances, -1), population, exclude)
    common = intersection(adversarial.indices, guide.indices)
    return Neighbourhood(common, rank_a, rank_g, rank_a - rank_g)


def _too_few(k: int, features: Array) -> AdvjaxError:
    return AdvjaxError(
        f"k is {k}, but a class of {features.shape[0]} images leaves {features.shape[0] - 1} "
        "neighbours; lower k or take a class with more images"
    )
