"""Statistics of a class for section 4.1 of Sabour et al., computed once for all its pairs.

They are the numbers of `neighbour_scores`, `mean_nearest_distance` and `mean_pairwise_distance`,
for classes that need not fit on the device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from advjax.errors import AdvjaxError
from advjax.metrics.neighbours import MEMORY, knn_blocks, power_of_two, squared_distances


class ClassStatistics(NamedTuple):
    """The statistics of a class's images at one layer.

    Attributes:
        scores: Each image's mean distance to its k nearest others: the population of rank r_k.
        mean_nearest: The mean distance to the nearest other image.
        mean_pairwise: The mean distance of two different images.
    """

    scores: Float[np.ndarray, "n"]
    mean_nearest: float
    mean_pairwise: float


def class_statistics(
    features: Float[np.ndarray, "n d"],
    k: int = 3,
    *,
    rows: Int[np.ndarray, "m"] | None = None,
    memory: int = MEMORY,
) -> ClassStatistics:
    """Compute a class's scores and mean distances, a block against a block at a time.

    Args:
        features: Activations, memory-mapped or not.
        k: Number of neighbours whose mean distance is a score; the paper takes 3.
        rows: The class's rows, rising; all when None.
        memory: Bytes on the device for two blocks and what is computed of them.

    Returns:
        Scores in the order of `rows`, within a relative 1e-5 of float64; the mean distances within
        1e-4.

    Raises:
        AdvjaxError: A class of fewer than k + 1 images.

    Example:
        >>> statistics = class_statistics(np.array([[0.0], [1.0], [3.0]], np.float32), k=2)
        >>> statistics.scores.tolist(), statistics.mean_pairwise
        ([2.0, 1.5, 2.5], 2.0)
    """
    rows = np.arange(len(features)) if rows is None else np.asarray(rows)
    n = len(rows)
    if n <= k:
        raise AdvjaxError(
            f"k is {k}, but a class of {n} images leaves {max(0, n - 1)} neighbours; lower k or "
            "take a class with more images"
        )
    # Two blocks, their centred copies, and the squares of a pair of blocks.
    size = max(1, min(power_of_two(n), memory // (20 * features.shape[1])))
    starts = range(0, n, size)
    scores, nearest, pairwise = [], [], 0.0
    for start in starts:
        own = rows[start : start + size]
        block = _filled(features[own], size)
        exclude = _filled(own, size)[:, None]
        near = knn_blocks(block, features, k, rows=rows, exclude=exclude, memory=memory)
        scores.append(near.distances[: len(own)].mean(-1))
        nearest.append(near.distances[: len(own), 0])
        for other in range(start, n, size):
            theirs = rows[other : other + size]
            total = _sum_of_distances(
                block, _filled(features[theirs], size), len(own), len(theirs), other == start
            )
            pairwise += float(total) * (1 if other == start else 2)
    return ClassStatistics(
        scores=np.concatenate(scores),
        mean_nearest=float(np.concatenate(nearest).mean(dtype=np.float64)),
        mean_pairwise=pairwise / (n * (n - 1)),
    )


@jax.jit
def _sum_of_distances(x: Array, y: Array, of_x, of_y, same) -> Float[Array, ""]:
    """Sum |x_i - y_j| over the first `of_x` and `of_y` rows, without i = j of one block."""
    i, j = jnp.arange(x.shape[0])[:, None], jnp.arange(y.shape[0])[None, :]
    counted = (i < of_x) & (j < of_y) & ~(same & (i == j))
    return jnp.where(counted, jnp.sqrt(squared_distances(x, y)), 0).sum(-1).sum()


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last row up to `size` rows, so that a short block needs no program of its own."""
    missing = size - len(rows)
    return rows if not missing else np.concatenate([rows, np.repeat(rows[-1:], missing, 0)])
