"""Two-metric projected L-BFGS: the paper's minimiser as a state machine, one evaluation a step."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from advjax.errors import AdvjaxError
from advjax.solvers.base import (
    Best,
    Box,
    Info,
    Objective,
    Status,
    freeze,
    project,
    projected_gradient_norm,
    update_best,
)


class LBFGSState(NamedTuple):
    """What the next step needs: iterate, point to evaluate next, curvature pairs."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]
    x: Float[Array, "n"]
    value: Float[Array, ""]
    gradient: Float[Array, "n"]
    s: Float[Array, "m n"]  # ring of moves, in slot order
    y: Float[Array, "m n"]  # ring of gradient changes, in slot order
    pushed: Int[Array, ""]  # pairs ever pushed since the last reset; the next slot is pushed % m
    step_size: Float[Array, ""]  # alpha of the trial
    backtracks: Int[Array, ""]  # rejected trials along the present direction


@dataclasses.dataclass(frozen=True)
class ProjectedLBFGS:
    """Box-constrained limited-memory BFGS (two-metric projection, projected Armijo search).

    The variables that sit at a bound with the gradient pushing outward are fixed; on the others the
    direction is `-H g`, H being the L-BFGS matrix of the last `history` pairs restricted to them
    (Nocedal and Wright, 2006, Algorithm 7.4, in the compact form of Byrd, Nocedal and Schnabel,
    1994, equation 3.1); the trial point is the projection of `x + alpha d` (Bertsekas, 1982), taken
    under Armijo's condition `f(trial) <= f(x) + c1 g.(trial - x)`, else `alpha` shrinks by
    safeguarded quadratic interpolation. The stopping rules and their defaults are those of
    SciPy's L-BFGS-B.

    Attributes:
        max_evaluations: Evaluations of the objective after which a lane ends.
        history: Number m of curvature pairs kept.
        ftol: Stop when `(f_k - f_{k+1}) / max(|f_k|, |f_{k+1}|, 1)` is at or under this.
        gtol: Stop when the max-norm of `P(x - g) - x` is at or under this.
        history_dtype: "float32" (the dtype of `x0`, so float64 stays float64) or "bfloat16".
        c1: Armijo's constant.
        shrink: Least and greatest factor by which a rejected step is shortened.
        max_backtracks: Rejected trials after which the search along a direction has failed: the
            history is dropped once, and the lane ends with `Status.LINE_SEARCH` if that fails too.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from advjax.solvers import Box, ProjectedLBFGS, Status, minimize
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> state = minimize(ProjectedLBFGS(), objective, jnp.zeros(2), box)
        >>> state.best.x.tolist(), Status(int(state.status)).name
        ([1.0, 3.0], 'GTOL')
    """

    max_evaluations: int = 500
    history: int = 10
    ftol: float = 2.220446049250313e-9  # SciPy's factr 1e7 times the epsilon of float64
    gtol: float = 1e-5
    history_dtype: str = "float32"
    c1: float = 1e-4
    shrink: tuple[float, float] = (0.1, 0.5)
    max_backtracks: int = 20

    def __post_init__(self):
        if self.history_dtype not in ("float32", "bfloat16"):
            raise AdvjaxError(
                f"history_dtype is {self.history_dtype!r}; give 'float32' or 'bfloat16'"
            )
        for name in ("max_evaluations", "history", "max_backtracks"):
            if getattr(self, name) < 1:
                raise AdvjaxError(f"{name} is {getattr(self, name)}; give 1 or more")

    def init(self, x0: Float[Array, "n"], box: Box) -> LBFGSState:
        """The state before the first evaluation, which will be at `x0` projected on the box."""
        x = project(x0, box)
        dtype = jnp.bfloat16 if self.history_dtype == "bfloat16" else x.dtype
        ring = jnp.zeros((self.history, x.size), dtype)
        count = jnp.zeros((), jnp.int32)
        infinity = jnp.full((), jnp.inf, x.dtype)
        return LBFGSState(
            trial=x,
            best=Best(x, infinity),
            status=count + Status.RUNNING,
            evaluations=count,
            x=x,
            value=infinity,
            gradient=jnp.zeros_like(x),
            s=ring,
            y=ring,
            pushed=count,
            step_size=jnp.ones((), x.dtype),
            backtracks=count,
        )

    def step(self, objective: Objective, state: LBFGSState, box: Box) -> tuple[LBFGSState, Info]:
        """Evaluates at `state.trial`; a state whose status is not RUNNING comes back unchanged."""
        value, gradient, aux = objective(state.trial)
        running = state.status == Status.RUNNING
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        first = state.evaluations == 0

        # Armijo on the projected arc, with the move that the projection left of alpha d.
        move = state.trial - state.x
        slope = jnp.vdot(state.gradient, move)
        decrease = (value <= state.value + self.c1 * slope) & (slope < 0)
        accept = running & finite & (first | decrease)
        x = jnp.where(accept, state.trial, state.x)
        new_value = jnp.where(accept, value, state.value)
        new_gradient = jnp.where(accept, gradient, state.gradient)
        s, y, pushed = _push(state, move, gradient - state.gradient, accept & ~first)

        # A rejected trial: shorter, or, the search having failed, afresh without the history.
        t = -slope / (2 * (value - state.value - slope))
        t = jnp.where((slope < 0) & (t > 0), jnp.clip(t, *self.shrink), self.shrink[1])
        backtracks = jnp.where(accept, 0, state.backtracks + 1)
        failed = ~accept & ((backtracks > self.max_backtracks) | (slope == 0))
        stuck = failed & (state.pushed == 0)
        pushed = jnp.where(failed, 0, pushed)
        backtracks = jnp.where(failed, 0, backtracks)
        step_size = jnp.where(accept | failed, 1.0, state.step_size * t)

        # The direction is a function of (x, gradient, history), so a rejected one is not stored.
        free = ~((x <= box.lower) & (new_gradient > 0) | (x >= box.upper) & (new_gradient < 0))
        d, pushed = _direction(new_value, jnp.where(free, new_gradient, 0), free, s, y, pushed)
        trial = project(x + step_size * d, box)

        pg_norm = projected_gradient_norm(x, new_gradient, box)
        scale = jnp.maximum(jnp.maximum(jnp.abs(state.value), jnp.abs(value)), 1)
        evaluations = state.evaluations + 1
        status = jnp.where(
            evaluations >= self.max_evaluations, Status.MAX_EVALUATIONS, state.status
        )
        status = jnp.where(stuck, Status.LINE_SEARCH, status)
        relative = (state.value - value) / scale
        status = jnp.where(accept & ~first & (relative <= self.ftol), Status.FTOL, status)
        status = jnp.where(accept & (pg_norm <= self.gtol), Status.GTOL, status)
        status = jnp.where(finite, status, Status.NON_FINITE)

        best, improved = update_best(state.best, state.trial, value, running & finite)
        moved = LBFGSState(
            trial=trial,
            best=best,
            status=status,
            evaluations=evaluations,
            x=x,
            value=new_value,
            gradient=new_gradient,
            s=s,
            y=y,
            pushed=pushed,
            step_size=step_size,
            backtracks=backtracks,
        )
        # The rings are left out: `_push` writes nothing for a frozen lane.
        rings = {"s": None, "y": None}
        kept = freeze(running, moved._replace(**rings), state._replace(**rings))
        info = Info(value, improved, pg_norm, state.step_size, aux)
        return kept._replace(s=s, y=y), info


def _push(
    state: LBFGSState, s: Float[Array, "n"], y: Float[Array, "n"], accept: Bool[Array, ""]
) -> tuple[Float[Array, "m n"], Float[Array, "m n"], Int[Array, ""]]:
    """The rings with (s, y) in the next slot, or as they were if there is no curvature to keep."""
    s, y = s.astype(state.s.dtype), y.astype(state.y.dtype)
    wide = (s.astype(state.x.dtype), y.astype(state.x.dtype))
    eps = jnp.finfo(state.x.dtype).eps
    curvature = jnp.vdot(*wide)
    keep = accept & (curvature > eps * jnp.linalg.norm(wide[0]) * jnp.linalg.norm(wide[1]))
    m = state.s.shape[0]
    # Out of range is not written: no `where` over the whole ring, and no copy of it.
    slot = jnp.where(keep, state.pushed % m, m)
    return (
        state.s.at[slot].set(s, mode="drop"),
        state.y.at[slot].set(y, mode="drop"),
        state.pushed + keep,
    )


def _direction(
    value: Float[Array, ""],
    gradient: Float[Array, "n"],
    free: Bool[Array, "n"],
    s: Float[Array, "m n"],
    y: Float[Array, "m n"],
    pushed: Int[Array, ""],
) -> tuple[Float[Array, "n"], Int[Array, ""]]:
    """-H g on the free variables, and `pushed`, which falls to 0 if H is not positive along g.

    One pass over the rings for the inner products, m-dimensional algebra, one pass for the sum.
    """
    m, dtype = s.shape[0], gradient.dtype
    s, y = s.astype(dtype), y.astype(dtype)
    yf = jnp.where(free, y, 0)  # masking one side of every product is enough
    rows = jnp.concatenate([yf, gradient[None]])  # (m + 1, n)
    highest = jax.lax.Precision.HIGHEST
    sr = jnp.matmul(s, rows.T, precision=highest)  # (m, m + 1)
    yr = jnp.matmul(y, rows.T, precision=highest)  # (m, m + 1)
    newest = pushed - 1
    order = (newest - jnp.arange(m)[::-1]) % m  # slots from the oldest pair to the newest
    valid = jnp.arange(m) >= m - jnp.minimum(pushed, m)
    sy, sg = sr[:, :m][order][:, order], sr[order, m]
    yy, yg = yr[:, :m][order][:, order], yr[order, m]
    gg = jnp.vdot(gradient, gradient)
    a, c, gamma, descent = compact(sy, yy, sg, yg, gg, valid, first_step(value, gg))
    inverse = jnp.argsort(order)
    a, c = a[inverse], c[inverse]
    hg = gamma * (gradient - jnp.matmul(a, y, precision=highest))
    hg = hg + jnp.matmul(c, s, precision=highest)
    initial = first_step(value, gg) * gradient
    return -jnp.where(free, jnp.where(descent, hg, initial), 0), jnp.where(descent, pushed, 0)


def first_step(value: Float[Array, ""], gg: Float[Array, ""]) -> Float[Array, ""]:
    """|f| / |g|^2, Polyak's step for a minimum of zero: free of the scales of f and of x."""
    return jnp.where(gg > 0, jnp.maximum(jnp.abs(value), jnp.finfo(gg.dtype).tiny) / gg, 0)


def compact(
    sy: Float[Array, "m m"],
    yy: Float[Array, "m m"],
    sg: Float[Array, "m"],
    yg: Float[Array, "m"],
    gg: Float[Array, ""],
    valid: Bool[Array, "m"],
    initial: Float[Array, ""],
) -> tuple[Float[Array, "m"], Float[Array, "m"], Float[Array, ""], Bool[Array, ""]]:
    """The two-loop recursion in coordinates: H g = gamma (g - Y a) + S c.

    With R the upper triangle of S'Y in the order of time and D its diagonal,
    `R a = S'g` and `R' c = D a - gamma (Y'g - Y'Y a)` (Byrd, Nocedal and Schnabel, 1994, eq. 3.1).
    Pairs that are not `valid`, or whose curvature is not positive, take no part.
    """
    m = sy.shape[0]
    diagonal = jnp.diagonal(sy)
    valid = valid & (diagonal > 0)
    both = valid[:, None] & valid[None, :]
    r = jnp.where(both & jnp.triu(jnp.ones((m, m), bool)), sy, 0)
    d = jnp.where(valid, diagonal, 1)
    r = r + jnp.diag(jnp.where(valid, 0, 1).astype(sy.dtype))
    yy = jnp.where(both, yy, 0)
    sg, yg = jnp.where(valid, sg, 0), jnp.where(valid, yg, 0)
    newest = m - 1 - jnp.argmax(valid[::-1])
    gamma = jnp.where(jnp.any(valid), diagonal[newest] / jnp.diagonal(yy)[newest], initial)
    a = solve_triangular(r, sg)
    c = solve_triangular(r, d * a - gamma * (yg - yy @ a), trans="T")
    decrease = gamma * (gg - jnp.dot(yg, a)) + jnp.dot(sg, c)  # g'H g
    return a, c, gamma, decrease > 0
