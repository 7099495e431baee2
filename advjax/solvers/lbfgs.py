"""Two-metric projected L-BFGS: the paper's minimiser as a state machine, one evaluation a step."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from advjax.errors import AdvjaxError
from advjax.solvers.base import (
    Best,
    Box,
    Evaluation,
    Info,
    Objective,
    Status,
    check_positive,
    evaluate,
    finish,
    project,
    projected_gradient_norm,
    start,
)

RAMP = 50  # pairs until the second factor of `scaling` counts in full


class History(NamedTuple):
    """The last m curvature pairs and their inner products, everything in slot order."""

    pairs: Float[Array, "m 2 n"]  # (s, y), the move and the change of the gradient
    minimum: Float[Array, "m"]  # curvature s_i'y_i under this is rounding error
    sy: Float[Array, "m m"]  # s_i'y_j; of use where pair j is not older than pair i
    yy: Float[Array, "m m"]  # y_i'y_j
    pushed: Int[Array, ""]  # pairs taken since the last reset; the next goes to slot pushed % m


class LBFGSState(NamedTuple):
    """The state between two steps."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]
    x: Float[Array, "n"]
    value: Float[Array, ""]
    gradient: Float[Array, "n"]  # reduced: zero for the variables that are fixed at a bound
    history: History
    first_move: Float[Array, ""]  # length of a move without history
    step_size: Float[Array, ""]  # alpha of the trial
    backtracks: Int[Array, ""]  # rejected trials along the present direction


class Search(NamedTuple):
    """The line search after an evaluation, and the iterate that it leaves."""

    accept: Bool[Array, ""]  # the trial becomes the iterate
    failed: Bool[Array, ""]  # no step along this direction was accepted
    first: Bool[Array, ""]  # the evaluation of the start, which is always accepted
    move: Float[Array, "n"]  # from the old iterate to the trial
    slope: Float[Array, ""]  # g'(trial - x) at the old iterate
    x: Float[Array, "n"]
    value: Float[Array, ""]
    gradient: Float[Array, "n"]  # reduced
    step_size: Float[Array, ""]  # alpha of the next trial
    backtracks: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class ProjectedLBFGS:
    """Box-constrained limited-memory BFGS (two-metric projection, projected Armijo search).

    A variable is fixed if it is at a bound and a step along -g would leave the box: its part of the
    gradient is set to zero. On the other variables the direction is `d = -H g`. H is the L-BFGS
    matrix of the last `history` changes of x and of that reduced gradient (Nocedal and Wright,
    2006, Algorithm 7.4, in the compact form of Byrd, Nocedal and Schnabel, 1994, equation 3.1). The
    trial point is the projection of `x + alpha d` (Bertsekas, 1982). It is accepted if it satisfies
    Armijo's condition `f(trial) <= f(x) + c1 g.(trial - x)`; else `alpha` shrinks by safeguarded
    quadratic interpolation. The stopping rules and their defaults are those of SciPy's L-BFGS-B.

    The matrix that the pairs update is a multiple of the identity: `scaling` times the sum of s'y
    over the sum of y'y. Shanno's multiple is s'y / y'y of the last pair. Here the sums are over all
    pairs, because a single pair is noisy. The factor `scaling` corrects for the kinks of a network
    of ReLUs: they enter y'y and not s'y, so that the quotient is too small along directions that no
    pair contains yet.

    Smoothed gradients (`advjax.Smoothing`) are not those of the values that the search compares: it
    shortens its steps to nothing where they disagree, and the lane ends early. For them there is
    `line_search=False`: every trial with a finite value becomes the iterate, and the best one is
    the answer.

    Attributes:
        max_evaluations: Evaluations of the objective after which a lane ends.
        history: Number m of curvature pairs kept.
        ftol: Stop when `(f_k - f_{k+1}) / max(|f_k|, |f_{k+1}|, 1)` is at or under this.
        gtol: Stop when the max-norm of `P(x - g) - x` is at or under this.
        history_dtype: "float32" (the dtype of `x0`, so float64 stays float64) or "bfloat16", which
            halves the memory of the history, by far the largest part of the state.
        scaling: The factor on the multiple of the identity: with the first pair, and from the
            `RAMP`-th on; (1, 1) for smooth objectives.
        first_move: Length of the first move, before the projection, as a fraction of half the box's
            diagonal. If a bound is infinite there is no diagonal, and Polyak's step is taken.
        c1: Armijo's constant.
        shrink: Smallest and largest factor by which a rejected step is multiplied.
        max_backtracks: Number of rejected trials after which the search along a direction has
            failed. The history is then dropped once; if the search without it fails too, the lane
            ends with `Status.LINE_SEARCH`.
        line_search: If False, take every step as it is, and do not stop by `ftol`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from advjax.solvers import Box, ProjectedLBFGS, Status, minimize
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> state = minimize(ProjectedLBFGS(), objective, jnp.zeros(2), box)
        >>> state.best.x.tolist(), Status(int(state.status)).name
        ([1.0, 3.0], 'GTOL')
    """

    compares_values: ClassVar[bool] = True

    max_evaluations: int = 500
    history: int = 10
    ftol: float = 2.220446049250313e-9  # SciPy's factr 1e7 times the epsilon of float64
    gtol: float = 1e-5
    history_dtype: str = "float32"
    scaling: tuple[float, float] = (1.5, 3.0)
    first_move: float = 0.5
    c1: float = 1e-4
    shrink: tuple[float, float] = (0.1, 0.5)
    max_backtracks: int = 20
    line_search: bool = True

    @property
    def accepts_smoothing(self) -> bool:
        """No line search compares values along the gradient."""
        return not self.line_search

    def __post_init__(self):
        if self.history_dtype not in ("float32", "bfloat16"):
            raise AdvjaxError(
                f"history_dtype is {self.history_dtype!r}; give 'float32' or 'bfloat16'"
            )
        check_positive(self, "max_evaluations", "history", "max_backtracks")
        if not min(self.scaling) > 0:
            raise AdvjaxError(f"scaling is {self.scaling}; give two positive factors")

    def init(self, x0: Float[Array, "n"], box: Box) -> LBFGSState:
        """Return the state before the first evaluation, which is at `x0` projected on the box."""
        first = start(x0, box)
        x = first["trial"]
        dtype = jnp.bfloat16 if self.history_dtype == "bfloat16" else x.dtype
        return LBFGSState(
            **first,
            x=x,
            value=first["best"].value,
            gradient=jnp.zeros_like(x),
            history=empty_history(self.history, x, dtype),
            first_move=self.first_move * jnp.linalg.norm(0.5 * (box.upper - box.lower)),
            step_size=jnp.ones((), x.dtype),
            backtracks=jnp.int32(0),
        )

    def step(self, objective: Objective, state: LBFGSState, box: Box) -> tuple[LBFGSState, Info]:
        """Evaluate at `state.trial`; return a state whose status is not RUNNING unchanged."""
        at = evaluate(objective, state)
        search = self._search(state, at, box)
        history, descent = self._direction(state, search, box)
        norm = projected_gradient_norm(search.x, search.gradient, box)
        new = state._replace(
            trial=project(search.x - search.step_size * descent, box),
            x=search.x,
            value=search.value,
            gradient=search.gradient,
            # What `push` writes is nothing where the lane has ended, the count is set here.
            history=history._replace(
                pushed=jnp.where(at.running, history.pushed, state.history.pushed)
            ),
            step_size=search.step_size,
            backtracks=search.backtracks,
        )
        return finish(
            self,
            state,
            new,
            at,
            step_size=state.step_size,
            projected_gradient=norm,
            stops=self._stops(state, search, at, norm),
            frozen=("x", "value", "gradient", "history", "first_move"),
        )

    def _search(self, state: LBFGSState, at: Evaluation, box: Box) -> Search:
        """Accept the trial by Armijo's condition, or shorten the step along the same direction."""
        # The slope is along the move that the projection left of alpha d.
        move = at.x - state.x
        slope = jnp.vdot(state.gradient, move)
        decrease = (at.value <= state.value + self.c1 * slope) & (slope < 0)
        first = state.evaluations == 0
        accept = at.running & at.finite & (first | decrease | (not self.line_search))

        # The minimum of the parabola through both values with this slope at the old one.
        t = -slope / (2 * (at.value - state.value - slope))
        t = jnp.where((slope < 0) & (t > 0), jnp.clip(t, *self.shrink), self.shrink[1])
        backtracks = jnp.where(accept, 0, state.backtracks + 1)
        failed = ~accept & ((backtracks > self.max_backtracks) | (slope == 0))
        reduced = jnp.where(is_outward(at.x, at.gradient, box), 0, at.gradient)
        return Search(
            accept=accept,
            failed=failed,
            first=first,
            move=move,
            slope=slope,
            x=jnp.where(accept, at.x, state.x),
            value=jnp.where(accept, at.value, state.value),
            gradient=jnp.where(accept, reduced, state.gradient),
            step_size=jnp.where(accept | failed, 1.0, state.step_size * t),
            backtracks=jnp.where(failed, 0, backtracks),
        )

    def _direction(
        self, state: LBFGSState, search: Search, box: Box
    ) -> tuple[History, Float[Array, "n"]]:
        """Update the history with an accepted move, and compute H g on the free variables.

        The direction is a function of x and the history. After a rejected trial both are the same,
        so that the direction is computed again and need not be stored. A search that failed begins
        again without the history.
        """
        g = search.gradient
        history, along = push(
            state.history._replace(pushed=jnp.where(search.failed, 0, state.history.pushed)),
            search.move,
            g - state.gradient,
            g,
            -jnp.finfo(g.dtype).eps * search.slope,
            search.accept & ~search.first,
        )
        squared = jnp.vdot(g, g)
        initial = steepest_step(state.first_move, search.value, squared)
        few, many = self.scaling
        factor = few + (many - few) * jnp.minimum(history.pushed / RAMP, 1)
        hg, pushed = times_gradient(history, g, along, squared, initial, factor)
        fixed = (g == 0) & ((search.x <= box.lower) | (search.x >= box.upper))
        return history._replace(pushed=pushed), jnp.where(fixed, 0, hg)

    def _stops(
        self, state: LBFGSState, search: Search, at: Evaluation, norm: Float[Array, ""]
    ) -> list[tuple[Bool[Array, ""], Status]]:
        """Return the reasons to stop; a later one overrides an earlier one."""
        scale = jnp.maximum(jnp.maximum(jnp.abs(state.value), jnp.abs(at.value)), 1)
        small = (state.value - at.value) / scale <= self.ftol
        stops = [
            (search.failed & (state.history.pushed == 0), Status.LINE_SEARCH),
            (search.accept & ~search.first & small, Status.FTOL),
            (search.accept & (norm <= self.gtol), Status.GTOL),
        ]
        return stops if self.line_search else stops[2:]


def is_outward(x: Float[Array, "n"], gradient: Float[Array, "n"], box: Box) -> Bool[Array, "n"]:
    """Return True for a variable at a bound if a step along -gradient would leave the box."""
    return ((x <= box.lower) & (gradient > 0)) | ((x >= box.upper) & (gradient < 0))


def steepest_step(
    length: Float[Array, ""], value: Float[Array, ""], squared: Float[Array, ""]
) -> Float[Array, ""]:
    """Return the step t for which the move -t g has this length; a guess if it is infinite.

    The guess is Polyak's |f| / |g|^2, which does not depend on the units of f and x either. For a
    value f of zero it is SciPy's 1 / |g|.
    """
    norm = jnp.sqrt(jnp.where(squared > 0, squared, 1))
    guess = jnp.where(value != 0, jnp.abs(value) / norm, 1)
    return jnp.where(jnp.isfinite(length), length, guess) / norm


def empty_history(m: int, x: Float[Array, "n"], dtype: jnp.dtype) -> History:
    """Return a history without pairs; pairs have the dtype `dtype`, inner products that of x."""
    square = jnp.zeros((m, m), x.dtype)
    return History(jnp.zeros((m, 2, x.size), dtype), square[0], square, square, jnp.int32(0))


def push(
    history: History,
    s: Float[Array, "n"],
    y: Float[Array, "n"],
    g: Float[Array, "n"],
    minimum: Float[Array, ""],
    take: Bool[Array, ""],
) -> tuple[History, Float[Array, "m 2"]]:
    """Put (s, y) into the next slot if `take`; compute every (s_i'g, y_i'g) as well.

    The inner products of the older pairs are known, so that one pass over the pairs is enough.
    """
    m, _, n = history.pairs.shape
    # Out of range is not written. XLA does this in place; a `where` would rewrite everything.
    slot = jnp.where(take, history.pushed % m, m)
    s, y = s.astype(history.pairs.dtype), y.astype(history.pairs.dtype)
    pairs = history.pairs.at[slot, 0].set(s, mode="drop").at[slot, 1].set(y, mode="drop")
    with_y, with_g = _products(pairs.reshape(2 * m, n).astype(g.dtype), y.astype(g.dtype), g)
    s_y, y_y = with_y.reshape(m, 2).T
    return (
        History(
            pairs,
            history.minimum.at[slot].set(minimum, mode="drop"),
            history.sy.at[:, slot].set(s_y, mode="drop"),
            history.yy.at[:, slot].set(y_y, mode="drop").at[slot].set(y_y, mode="drop"),
            history.pushed + take,
        ),
        with_g.reshape(m, 2),
    )


def _products(
    rows: Float[Array, "k n"], y: Float[Array, "n"], g: Float[Array, "n"]
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Compute the two products rows @ y and rows @ g."""

    def twice(rows, y, g):
        # XLA's CPU has a fast matrix-vector product, and none for a few columns.
        return tuple(jnp.matmul(rows, v, precision=jax.lax.Precision.HIGHEST) for v in (y, g))

    def at_once(rows, y, g):
        columns = jnp.stack([y, g], axis=1)
        return tuple(jnp.matmul(rows, columns, precision=jax.lax.Precision.HIGHEST).T)

    return jax.lax.platform_dependent(rows, y, g, cpu=twice, default=at_once)


def times_gradient(
    history: History,
    g: Float[Array, "n"],
    along: Float[Array, "m 2"],
    squared: Float[Array, ""],
    initial: Float[Array, ""],
    factor: Float[Array, ""],
) -> tuple[Float[Array, "n"], Int[Array, ""]]:
    """Return H g and `history.pushed`; if g'H g is not positive, `initial` g and 0 instead.

    Args:
        history: The pairs.
        g: The gradient.
        along: (s_i'g, y_i'g) of every slot.
        squared: g'g.
        initial: H is `initial` times the identity while there is no pair.
        factor: The factor on the multiple of the identity (see `compact`).
    """
    m, _, n = history.pairs.shape
    order = (history.pushed + jnp.arange(m)) % m  # slots, from the oldest pair to the newest
    recent = jnp.arange(m) >= m - history.pushed
    a, c, gamma = compact(
        history.minimum[order],
        history.sy[order][:, order],
        history.yy[order][:, order],
        along[order, 0],
        along[order, 1],
        recent,
        initial,
        factor,
    )
    # g'H g without another pass: y and s enter by their products with g.
    decrease = gamma * (squared - jnp.dot(along[order, 1], a)) + jnp.dot(along[order, 0], c)
    positive = decrease > 0
    weights = jnp.stack([c, -gamma * a], axis=1)  # (m, 2)
    weights = jnp.zeros_like(weights).at[order].set(weights).reshape(2 * m)
    rows = history.pairs.reshape(2 * m, n).astype(g.dtype)
    hg = gamma * g + jnp.matmul(weights, rows, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(positive, hg, initial * g), jnp.where(positive, history.pushed, 0)


def compact(
    minimum: Float[Array, "m"],
    sy: Float[Array, "m m"],
    yy: Float[Array, "m m"],
    sg: Float[Array, "m"],
    yg: Float[Array, "m"],
    recent: Bool[Array, "m"],
    initial: Float[Array, ""],
    factor: Float[Array, ""],
) -> tuple[Float[Array, "m"], Float[Array, "m"], Float[Array, ""]]:
    """Compute a, c, gamma of H g = gamma (g - Y a) + S c, the compact form of the recursion.

    With R the upper triangle of S'Y in the order of time and D its diagonal,
    `R a = S'g` and `R' c = D a - gamma (Y'g - Y'Y a)` (Byrd, Nocedal and Schnabel, 1994, eq. 3.1).
    gamma is `factor` times the sum of all s'y over the sum of all y'y. Pairs are left out if they
    are not `recent`, or if their curvature is not above `minimum`.
    """
    m = len(minimum)
    curvature, size = jnp.diagonal(sy), jnp.diagonal(yy)
    used = recent & (curvature > minimum)
    both = used[:, None] & used[None, :]
    r = jnp.where(both & jnp.triu(jnp.ones((m, m), bool)), sy, 0)
    r = r + jnp.diag(jnp.where(used, 0, 1).astype(sy.dtype))
    sg, yg = jnp.where(used, sg, 0), jnp.where(used, yg, 0)
    total = jnp.sum(jnp.where(used, size, 0))
    quotient = jnp.sum(jnp.where(used, curvature, 0)) / jnp.where(total > 0, total, 1)
    gamma = jnp.where(total > 0, factor * quotient, initial)
    a = solve_triangular(r, sg)
    b = jnp.where(used, curvature, 0) * a - gamma * (yg - jnp.where(both, yy, 0) @ a)
    c = solve_triangular(r, b, trans="T")
    return a, c, gamma
