"""Exact nearest neighbours, and what the paper reads off them (Sabour et al., section 4.1, Table 1).

One block of points against all queries is a matrix product, which finds candidates; their
distances are then computed from differences, and a block that might hide a better one is searched
in full. So the result is exact up to the rounding of float32, however near or far from the origin
the points lie. `knn` takes points that are in memory, `knn_blocks` any number from disk.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from advjax.errors import AdvjaxError, UnknownName

Metric = Literal["euclidean", "cosine"]
SPARE = 8  # candidates of each block beyond k
MEMORY = 2**28  # bytes on the device for a block and what is computed of it


class Neighbours(NamedTuple):
    """The k nearest points of each query, nearest first; equal distances by lower row.

    Attributes:
        distances: |x - y| (euclidean) or 1 - <x, y> / (|x| |y|) (cosine); infinite where there is
            no such neighbour.
        indices: The points' rows; -1 where there is no such neighbour.
    """

    distances: Float[Array, "q k"]
    indices: Int[Array, "q k"]


class Neighbourhood(NamedTuple):
    """How an adversarial lies among a class's images, beside the guide (section 4.1, Table 1).

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


def knn(
    queries: Float[ArrayLike, "q d"],
    points: Float[ArrayLike, "n d"],
    k: int,
    *,
    metric: Metric = "euclidean",
    exclude: Int[ArrayLike, "q e"] | None = None,
) -> Neighbours:
    """The k nearest points of each query, exactly; pure, for use inside compiled programs.

    Distances are within a relative 1e-5 of float64; two neighbours whose distances differ by less
    may stand in the other order. A vector of zeros has cosine distance 1 to everything.

    Args:
        queries: Activations, float32.
        points: Those to search, float32, n of at least k; q x n numbers are held.
        k: How many.
        metric: "euclidean" or "cosine".
        exclude: Rows of `points` that are no neighbours of that query (the query itself where it
            is one of the points); -1 for none.

    Returns:
        With distance inf and index -1 where `exclude` (or NaN) leaves fewer than k.

    Raises:
        AdvjaxError: Fewer than k points, or shapes that do not fit.
        UnknownName: Another metric.

    Example:
        >>> points = jnp.array([[0.0], [1.0], [5.0]])
        >>> knn(points, points, 1, exclude=jnp.arange(3)[:, None]).indices.T
        Array([[1, 0, 1]], dtype=int32)
    """
    queries, exclude = _check(queries, k, metric, exclude)
    points = jnp.asarray(points, jnp.float32)
    _check_width(queries, points)
    if points.shape[0] < k:
        raise _too_few(k, points.shape[0])
    ids = jnp.arange(points.shape[0], dtype=jnp.int32)
    return _finish(_merge(_none(queries, k), queries, points, ids, exclude, metric), metric)


def knn_blocks(
    queries: Float[ArrayLike, "q d"],
    points: Float[np.ndarray, "n d"] | Iterable[Float[np.ndarray, "_ d"]],
    k: int,
    *,
    metric: Metric = "euclidean",
    exclude: Int[ArrayLike, "q e"] | None = None,
    rows: Int[np.ndarray, "r"] | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> Neighbours:
    """`knn` over points that need not fit in memory, in one pass.

    The device holds the queries, two blocks and the running result, whatever the number of points.

    Args:
        queries: Activations, float32.
        points: An array, memory-mapped or not, or an iterable of blocks of rows.
        k: How many.
        metric: "euclidean" or "cosine".
        exclude: As in `knn`.
        rows: Search these rows of an array alone (a class, say); indices and `exclude` are rows of
            the whole array all the same.
        memory: Bytes on the device for a block and what is computed of it.
        progress: Show a bar on standard error.

    Returns:
        NumPy arrays.

    Raises:
        AdvjaxError: A query with fewer than k neighbours or with NaN, or shapes that do not fit.
        UnknownName: Another metric.

    Example:
        >>> points = np.arange(10.0, dtype=np.float32)[:, None]
        >>> knn_blocks([[2.2]], (points[i : i + 4] for i in (0, 4, 8)), 2).indices
        array([[2, 3]], dtype=int32)
    """
    queries, exclude = _check(queries, k, metric, exclude)
    if not bool(jnp.isfinite(queries).all()):
        raise AdvjaxError("queries has NaN or infinite numbers; give finite activations")
    # Points, their centred or normalised copy, and the bounds with what sorting needs.
    size = max(1, memory // (4 * (2 * queries.shape[1] + 3 * queries.shape[0])))
    step = jax.jit(_merge, static_argnames="metric")
    top, seen = _none(queries, k), 0
    for ids, block in _bar(_blocks(points, rows, size), points, rows, size, progress):
        _check_width(queries, block)
        seen += int((ids >= 0).sum())
        previous, top = top, step(top, queries, block, ids, exclude, metric=metric)
        # While the device works on this block the host reads the next one, but no further: blocks
        # waiting in a queue would be on the device too.
        jax.block_until_ready(previous)
    distances, indices = (np.asarray(part) for part in _finish(top, metric))
    if (indices < 0).any():
        query = int((indices < 0).any(1).argmax())
        raise _too_few(k, seen, query, int((indices[query] >= 0).sum()))
    return Neighbours(distances, indices)  # pyright: ignore[reportArgumentType]


def intersection(x: Int[ArrayLike, "b k"], y: Int[ArrayLike, "b k"]) -> Int[Array, "b"]:
    """|N(x) & N(y)|, the number of common neighbours (section 4.1, Table 1).

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
    exclude: Int[ArrayLike, "b"] | None = None,
) -> Float[Array, "b"]:
    """100 (number below + half the number equal) / number, within a population (section 4.1).

    The rank r_K of the paper when the scores are mean distances to K nearest neighbours: it
    depends on their order alone, not on the layer's units.

    Args:
        scores: Of the points to rank.
        population: The scores of a class, `neighbour_scores`.
        exclude: For each point, the row of the population it is not compared with; -1 for none.

    Returns:
        0..100; NaN for a score of NaN, or where nobody is left.

    Example:
        >>> percentile_rank(jnp.array([2.5]), jnp.array([1.0, 2.0, 3.0, 4.0]))
        Array([50.], dtype=float32)
    """
    scores, population = jnp.asarray(scores), jnp.asarray(population)
    skip = jnp.full(scores.shape, -1) if exclude is None else jnp.asarray(exclude)
    counted = jnp.arange(population.shape[0])[None, :] != skip[:, None]
    below = (population[None, :] < scores[:, None]) & counted
    equal = (population[None, :] == scores[:, None]) & counted
    rank = 100 * (below.sum(-1) + 0.5 * equal.sum(-1)) / counted.sum(-1)
    return jnp.where(jnp.isnan(scores), jnp.nan, rank)


def neighbour_scores(features: Float[ArrayLike, "n d"], k: int = 3) -> Float[Array, "n"]:
    """Each image's mean Euclidean distance to the k nearest others of its class (section 4.1).

    Args:
        features: The class's activations, n of at least k + 1.
        k: How many neighbours; the paper takes 3.

    Raises:
        AdvjaxError: Fewer than k + 1 images.

    Example:
        >>> neighbour_scores(jnp.array([[0.0], [1.0], [3.0]]), k=2)
        Array([2. , 1.5, 2.5], dtype=float32)
    """
    features = jnp.asarray(features, jnp.float32)
    if features.ndim == 2 and features.shape[0] <= k:
        raise _too_few(k, features.shape[0] - 1)
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
    """Common neighbours, and ranks within the guides' class (section 4.1, Table 1).

    The guide is left out of its own and the adversarial's neighbours, and of those they are ranked
    among. The other images' scores stay as they are: the guide counts as a neighbour of theirs.

    Args:
        adversarial: Activations, whose guides all belong to one class.
        guide: Those of the guides.
        features: The training images of that class, n of at least k + 1.
        population: Their `neighbour_scores`.
        guide_row: The guides' rows among them; -1 for a guide that is not one of them.
        k: How many neighbours; the paper takes 3.

    Raises:
        AdvjaxError: Fewer than k + 1 images.

    Example:
        >>> points = jnp.array([[0.0], [1.0], [3.0], [7.0], [8.0]])
        >>> scores = neighbour_scores(points, k=2)
        >>> found = neighbourhood([[0.4]], [[0.0]], points, scores, jnp.array([0]), k=2)
        >>> found.common.tolist(), found.rank_guide.tolist(), found.rank_adversarial.tolist()
        ([2], [25.0], [0.0])
    """
    features, guide_row = jnp.asarray(features, jnp.float32), jnp.asarray(guide_row)
    if features.shape[0] <= k:
        raise _too_few(k, features.shape[0] - 1)
    of_a = knn(adversarial, features, k, exclude=guide_row[:, None])
    of_g = knn(guide, features, k, exclude=guide_row[:, None])
    rank_a = percentile_rank(of_a.distances.mean(-1), population, guide_row)
    rank_g = percentile_rank(of_g.distances.mean(-1), population, guide_row)
    return Neighbourhood(
        intersection(of_a.indices, of_g.indices), rank_a, rank_g, rank_a - rank_g
    )


def squared_distances(
    x: Float[ArrayLike, "q d"], y: Float[ArrayLike, "n d"]
) -> Float[Array, "q n"]:
    """|x - y|^2 = |x|^2 + |y|^2 - 2 <x, y>, about the mean of x, for every x and y.

    Fast, and off by up to some 1e-6 sqrt(d) (|x|^2 + |y|^2) of the centred vectors, so that near
    neighbours lose their digits.

    Example:
        >>> squared_distances(jnp.array([[0.0], [2.0]]), jnp.array([[1.0], [3.0]]))
        Array([[1., 9.],
               [1., 1.]], dtype=float32)
    """
    square, _ = _by_products(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    return jnp.maximum(square, 0)


def _by_products(
    x: Float[Array, "q d"], y: Float[Array, "n d"]
) -> tuple[Float[Array, "q n"], Float[Array, "q n"]]:
    """|x - y|^2 by a matrix product, and a bound of its error.

    Rounding errors of a sum of d terms add up like a random walk: sqrt(d) eps instead of the worst
    case d eps (Higham and Mary 2019); the factor 4 makes going past it unlikely beyond doubt.
    """
    center = x.mean(0)[None, :]
    x, y = x - center, y - center
    norms = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)[None, :]
    products = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    bound = 4 * (math.sqrt(x.shape[1]) + 4) * jnp.finfo(jnp.float32).eps
    return norms - 2 * products, bound * norms


def _unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    norm = jnp.sqrt(jnp.square(x).sum(-1))[:, None]
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)


def _exact(query: Float[Array, "d"], points: Float[Array, "n d"]) -> Float[Array, "n"]:
    """|x - y|^2 from the differences, infinite for NaN."""
    square = jnp.square(points - query[None, :]).sum(-1)
    return jnp.where(jnp.isnan(square), jnp.inf, square)


def _none(queries: Float[Array, "q d"], k: int) -> Neighbours:
    shape = (queries.shape[0], k)
    return Neighbours(jnp.full(shape, jnp.inf), jnp.full(shape, -1, jnp.int32))


def _merge(
    top: Neighbours,
    queries: Float[Array, "q d"],
    block: Float[Array, "n d"],
    ids: Int[Array, "n"],
    exclude: Int[Array, "q e"],
    metric: Metric,
) -> Neighbours:
    """The nearest k of those so far and a block; the distances are squared (of units: cosine).

    Args:
        top: The nearest so far.
        queries: One a row.
        block: Points.
        ids: Their rows among all points; -1 for padding.
        exclude: Rows that do not count.
        metric: "euclidean" or "cosine".
    """
    k, n = top.indices.shape[1], block.shape[0]
    if metric == "cosine":
        queries, block = _unit(queries), _unit(block)
    square, slack = _by_products(queries, block)
    hidden = (ids < 0)[None, :] | (exclude[:, :, None] == ids[None, None, :]).any(1)
    lower = jnp.where(hidden | jnp.isnan(square), jnp.inf, square - slack)  # (q, n)
    candidates = min(n, k + SPARE)

    def one(lane):
        top, query, lower = lane

        def nearest(points, ids, lower):
            square = jnp.where(jnp.isinf(lower), jnp.inf, _exact(query, points))
            distances = jnp.concatenate([top.distances, square])
            indices = jnp.where(jnp.isinf(distances), -1, jnp.concatenate([top.indices, ids]))
            # By distance, then by row, so that ties do not depend on the order of the blocks.
            distances, indices = jax.lax.sort((distances, indices), num_keys=2)
            return Neighbours(distances[:k], indices[:k])

        bounds, near = jax.lax.top_k(-lower, candidates)
        found = nearest(block[near], ids[near], lower[near])
        # Whoever is no candidate is at least as far as the last candidate's bound.
        certain = -bounds[-1] >= found.distances[-1]
        if candidates == n:
            return found
        return jax.lax.cond(certain, lambda: found, lambda: nearest(block, ids, lower))

    # One query after the other: under vmap `cond` would search every block in full.
    return jax.lax.map(one, (top, queries, lower))


def _finish(top: Neighbours, metric: Metric) -> Neighbours:
    if metric == "euclidean":
        return Neighbours(jnp.sqrt(top.distances), top.indices)
    return Neighbours(top.distances / 2, top.indices)  # 1 - <u, v> = |u - v|^2 / 2 of units


def _blocks(points, rows, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids, block) pairs, each padded to the size of the largest before it: few compilations."""
    if isinstance(points, np.ndarray | jax.Array):
        rows = np.arange(len(points)) if rows is None else np.asarray(rows)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(points)):
            raise AdvjaxError(
                f"rows goes from {rows.min()} to {rows.max()}, but there are {len(points)} points"
            )
        size = min(size, max(1, len(rows)))
        parts = (rows[i : i + size] for i in range(0, len(rows), size))
        # Neighbouring rows as a slice, which reads a memory map without a second copy.
        pairs = ((r, points[_span(r)]) for r in parts)
    elif rows is not None:
        raise AdvjaxError("rows needs points as an array; give one, or only the blocks you mean")
    else:
        pairs, size = _numbered(points, size), 1
    for ids, block in pairs:
        block = np.asarray(block, np.float32)
        size = max(size, len(ids))
        missing = size - len(ids)
        if missing:
            block = np.concatenate([block, np.zeros((missing, *block.shape[1:]), np.float32)])
            ids = np.concatenate([ids, np.full(missing, -1)])
        yield ids.astype(np.int32), block


def _span(rows: np.ndarray) -> slice | np.ndarray:
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows) and (np.diff(rows) == 1).all():
        return slice(first, last + 1)
    return rows


def _numbered(blocks, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of an iterable of blocks counted through, in parts of at most `size`."""
    first = 0
    for block in blocks:
        for start in range(0, len(block), size):
            part = block[start : start + size]
            yield np.arange(first, first + len(part)), part
            first += len(part)


def _bar(pairs, points, rows, size: int, progress: bool):
    if not progress:
        return pairs
    from tqdm import tqdm

    n = None if not hasattr(points, "__len__") else len(points if rows is None else rows)
    total = None if n is None or not hasattr(points, "shape") else -(-n // size)
    return tqdm(pairs, total=total, desc="neighbours", unit="block")


def _check(queries, k, metric, exclude) -> tuple[Float[Array, "q d"], Int[Array, "q e"]]:
    queries = jnp.asarray(queries, jnp.float32)
    if queries.ndim != 2:
        raise AdvjaxError(f"queries has shape {queries.shape}; give [q, d], layers flattened")
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise AdvjaxError(f"k is {k!r}; give a number of neighbours, 1 or more")
    if metric not in Metric.__args__:
        raise UnknownName("metric", metric, Metric.__args__)
    if exclude is None:
        return queries, jnp.full((queries.shape[0], 1), -1, jnp.int32)
    exclude = jnp.asarray(exclude)
    if exclude.ndim != 2 or exclude.shape[0] != queries.shape[0] or exclude.dtype.kind not in "iu":
        raise AdvjaxError(
            f"exclude is {exclude.dtype}{list(exclude.shape)}; give row numbers "
            f"[{queries.shape[0]}, e], those of each query"
        )
    return queries, jnp.where(exclude < 0, -2, exclude)  # -1 is the padding's


def _check_width(queries, points) -> None:
    if points.ndim != 2 or points.shape[1] != queries.shape[1]:
        raise AdvjaxError(
            f"points has shape {points.shape}, but queries has {queries.shape[1]} features; "
            "give the same layer, flattened"
        )


def _too_few(k: int, points: int, query: int | None = None, left: int | None = None) -> AdvjaxError:
    whose = "" if query is None else f"query {query} has {left} of them: "
    return AdvjaxError(
        f"k is {k}, but {whose}only {points} points are there to search, less those excluded; "
        "lower k or take a class with more images"
    )
