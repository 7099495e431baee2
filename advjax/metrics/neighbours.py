"""Exact nearest neighbours (Sabour et al., sections 4.1 and 4.2).

One block of points against all queries is a matrix product, which finds candidates; their
distances are then computed from differences, and a block that might hide a better one is searched
in full. So the result is exact up to the rounding of float32, however near or far from the origin
the points lie. `knn` takes points that are in memory, `knn_blocks` any number from disk.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from advjax.display import progress_bar
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


def knn(
    queries: Float[ArrayLike, "q d"],
    points: Float[ArrayLike, "n d"],
    k: int,
    *,
    metric: Metric = "euclidean",
    exclude: Int[ArrayLike, "q e"] | None = None,
) -> Neighbours:
    """Find the k nearest points of each query, exactly; pure, for use inside compiled programs.

    Distances are within a relative 1e-5 of float64; two neighbours whose distances differ by less
    may stand in the other order. A vector of zeros has cosine distance 1 to everything.

    Args:
        queries: Activations, float32.
        points: Those to search, float32, n of at least k; q x n numbers are held.
        k: Number of neighbours.
        metric: "euclidean" or "cosine".
        exclude: Rows of `points` that are no neighbours of that query (the query itself where it
            is one of the points); -1 for none.

    Returns:
        The neighbours, with distance inf and index -1 where `exclude` (or NaN) leaves fewer than k.

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
        raise AdvjaxError(
            f"k is {k}, but there are {points.shape[0]} points to search; lower k or give more"
        )
    ids = jnp.arange(points.shape[0], dtype=jnp.int32)
    return _finish(_step(_none(queries, k), queries, points, ids, exclude, metric), metric)


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
    """Find neighbours as `knn` does, in one pass over points that need not fit in memory.

    The device holds the queries, two blocks and the running result, whatever the number of points.

    Args:
        queries: Activations, float32.
        points: An array, memory-mapped or not, or an iterable of blocks of rows.
        k: Number of neighbours.
        metric: "euclidean" or "cosine".
        exclude: As in `knn`.
        rows: Search these rows of an array alone (a class, say); indices and `exclude` are rows of
            the whole array all the same.
        memory: Bytes on the device for a block and what is computed of it.
        progress: Show a bar on standard error.

    Returns:
        The neighbours, as NumPy arrays.

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
    total = None
    if isinstance(points, np.ndarray | jax.Array):
        rows = _check_rows(rows, len(points))
        total = len(rows)
        # Powers of two, so that classes of many sizes share a few programs.
        blocks = _of_rows(points, rows, min(size, power_of_two(len(rows))))
    elif rows is None:
        blocks = _of_blocks(points, size)
    else:
        raise AdvjaxError("rows needs points as an array; give one, or only the blocks you mean")
    top = _none(queries, k)
    with progress_bar(progress, total=total, desc="neighbours", unit="point") as bar:
        for ids, block in blocks:
            _check_width(queries, block)
            previous, top = top, _step(top, queries, block, ids, exclude, metric)
            # While the device works on this block the host reads the next one, but no further:
            # blocks waiting in a queue would be on the device too.
            jax.block_until_ready(previous)
            bar.update(int((ids >= 0).sum()))
    distances, indices = (np.asarray(part) for part in _finish(top, metric))
    counts = (indices >= 0).sum(1)
    if (counts < k).any():
        query = int((counts < k).argmax())
        raise AdvjaxError(
            f"k is {k}, but query {query} has {counts[query]} neighbours among these points, less "
            "those excluded; lower k or take a class with more images"
        )
    return Neighbours(distances, indices)  # pyright: ignore[reportArgumentType]


def squared_distances(
    x: Float[ArrayLike, "q d"], y: Float[ArrayLike, "n d"]
) -> Float[Array, "q n"]:
    """Compute |x - y|^2 = |x|^2 + |y|^2 - 2 <x, y>, about the mean of x, for every x and y.

    Fast, and off by up to some 1e-6 sqrt(d) (|x|^2 + |y|^2) of the centred vectors, so that near
    neighbours lose their digits.

    Example:
        >>> squared_distances(jnp.array([[0.0], [2.0]]), jnp.array([[1.0], [3.0]]))
        Array([[1., 9.],
               [1., 1.]], dtype=float32)
    """
    square, _ = _by_products(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    return jnp.maximum(square, 0)


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is no less than `count`, or 1."""
    return 1 << max(0, count - 1).bit_length()


def _by_products(
    x: Float[Array, "q d"], y: Float[Array, "n d"]
) -> tuple[Float[Array, "q n"], Float[Array, "q n"]]:
    """Return |x - y|^2 by a matrix product, and a bound of its error.

    Rounding errors of a sum of d terms add up like a random walk: sqrt(d) eps instead of the worst
    case d eps (Higham and Mary 2019); the factor 4 makes going past it unlikely beyond doubt.
    """
    center = jnp.where(jnp.isfinite(x), x, 0).mean(0)[None, :]  # NaN stays in its own row
    x, y = x - center, y - center
    norms = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)[None, :]
    products = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    bound = 4 * (math.sqrt(x.shape[1]) + 4) * jnp.finfo(jnp.float32).eps
    return norms - 2 * products, bound * norms


def _unit(x: Float[Array, "n d"], side: int) -> Float[Array, "n d+2"]:
    """Return vectors of length 1, whose |u - v|^2 is twice the cosine distance.

    A vector of zeros gets a direction of its own, at a right angle to every other: one among the
    queries (side 0), one among the points (side 1).
    """
    norm = jnp.sqrt(jnp.square(x).sum(-1))[:, None]
    zero = norm == 0
    alone = zero & (jnp.arange(2) == side)[None, :]
    return jnp.concatenate([x / jnp.where(zero, 1, norm), alone.astype(x.dtype)], -1)


def _exact(query: Float[Array, "d"], points: Float[Array, "n d"]) -> Float[Array, "n"]:
    """Return |x - y|^2 from the differences, infinite for NaN."""
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
    """Return the nearest k of those so far and a block; distances are squared (of units: cosine).

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
        queries, block = _unit(queries, 0), _unit(block, 1)
    square, slack = _by_products(queries, block)
    hidden = (ids < 0)[None, :] | (exclude[:, :, None] == ids[None, None, :]).any(1)
    lower = jnp.where(hidden | jnp.isnan(square), jnp.inf, square - slack)  # (q, n)
    candidates = min(n, k + SPARE)
    # The indices alone: with its values sliced, XLA's CPU compiler sorts whole rows instead.
    _, near = jax.lax.top_k(-lower, candidates)

    def one(lane):
        top, query, lower, near = lane

        def nearest(points, ids, lower):
            square = jnp.where(jnp.isinf(lower), jnp.inf, _exact(query, points))
            distances = jnp.concatenate([top.distances, square])
            indices = jnp.where(jnp.isinf(distances), -1, jnp.concatenate([top.indices, ids]))
            # By distance, then by row, so that ties do not depend on the order of the blocks.
            distances, indices = jax.lax.sort((distances, indices), num_keys=2)
            return Neighbours(distances[:k], indices[:k])

        best = nearest(block[near], ids[near], lower[near])
        if candidates == n:
            return best
        # A point that is no candidate is at least as far as the last candidate's bound.
        certain = lower[near[-1]] >= best.distances[-1]
        return jax.lax.cond(certain, lambda: best, lambda: nearest(block, ids, lower))

    # One query after the other: under vmap `cond` would search every block in full.
    return jax.lax.map(one, (top, queries, lower, near))


_step = jax.jit(_merge, static_argnums=5)


def _finish(top: Neighbours, metric: Metric) -> Neighbours:
    if metric == "euclidean":
        return Neighbours(jnp.sqrt(top.distances), top.indices)
    return Neighbours(top.distances / 2, top.indices)  # 1 - <u, v> = |u - v|^2 / 2 of units


def _of_rows(points, rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids, block) of an array's rows, `size` at a time."""
    for start in range(0, len(rows), size):
        ids = rows[start : start + size]
        first, last = int(ids[0]), int(ids[-1])
        one_piece = last - first + 1 == len(ids) and bool((np.diff(ids) == 1).all())
        # A slice reads a memory map without a second copy.
        yield _padded(ids, points[first : last + 1] if one_piece else points[ids], size)


def _of_blocks(blocks, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids, block) of blocks whose rows are numbered through, at most `size` at a time."""
    first = largest = 0
    for block in blocks:
        for start in range(0, len(block), size):
            part = block[start : start + size]
            largest = max(largest, len(part))
            yield _padded(np.arange(first, first + len(part)), part, largest)
            first += len(part)


def _padded(ids: np.ndarray, block, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad both to `size` rows, so that a short last block needs no program of its own."""
    block, missing = np.asarray(block, np.float32), size - len(ids)
    if missing:
        block = np.concatenate([block, np.zeros((missing, *block.shape[1:]), np.float32)])
        ids = np.concatenate([ids, np.full(missing, -1)])
    return ids.astype(np.int32), block


def _check_rows(rows, count: int) -> np.ndarray:
    rows = np.arange(count) if rows is None else np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (rows < 0).any() or (rows >= count).any():
        raise AdvjaxError(
            f"rows is {rows.dtype}{list(rows.shape)}; give row numbers from 0 to {count - 1}"
        )
    return rows


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
    return queries, exclude


def _check_width(queries, points) -> None:
    if points.ndim != 2 or points.shape[1] != queries.shape[1]:
        raise AdvjaxError(
            f"points has shape {points.shape}, but queries has {queries.shape[1]} features; "
            "give the same layer, flattened"
        )
