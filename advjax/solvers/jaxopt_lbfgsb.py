"""The L-BFGS-B of jaxopt with the interface of this package, for comparison only."""

import dataclasses
import warnings
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from advjax.errors import AdvjaxError
from advjax.solvers.base import (
    Best,
    Box,
    Evaluation,
    Info,
    Objective,
    Status,
    check_positive,
    finish,
    project,
    projected_gradient_norm,
    start,
)


class JaxoptState(NamedTuple):
    """The iterate, at which the next iteration starts, and jaxopt's own state."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]
    inner: Any


@dataclasses.dataclass(frozen=True)
class JaxoptLBFGSB:
    """`jaxopt.LBFGSB` with its own line search (zoom), for comparison.

    One step is one iteration of jaxopt, which evaluates the objective twice or more: once to begin
    the line search and once for each trial in it. `evaluations` is the true number for a lane, by
    jaxopt's count. A lane ends after the first iteration that reaches `max_evaluations`, so that
    the last iteration can exceed the budget. Under vmap every lane also waits for the line search
    of the slowest one, and computes both branches of each of its conditionals.

    jaxopt is no longer maintained. Its last version, 0.8.5, orders the pairs of its matrix by slot
    and not by time, so that after more than `history` iterations the matrix is not that of L-BFGS.

    Attributes:
        max_evaluations: Evaluations after which no further iteration begins.
        history: Number of curvature pairs.
        gtol: Stop when the max-norm of `P(x - g) - x` is at or under this.
        max_line_search: Trials in one line search.

    Example:
        >>> import jax.numpy as jnp
        >>> from advjax.solvers import Box, JaxoptLBFGSB, minimize
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> minimize(JaxoptLBFGSB(), objective, jnp.zeros(2), box).best.x.tolist()
        [1.0, 3.0]
    """

    max_evaluations: int = 500
    history: int = 10
    gtol: float = 1e-5
    max_line_search: int = 30

    compares_values: ClassVar[bool] = True
    # Not only at `state.trial`, and not only once: the engine must give it the objective itself.
    evaluates_elsewhere: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(self, "max_evaluations", "history", "max_line_search")

    def init(self, x0: Float[Array, "n"], box: Box) -> JaxoptState:
        """Return the state before the first evaluation, which is at `x0` projected on the box."""
        first = start(x0, box)

        def nothing(x: Float[Array, "n"]):
            return (jnp.full((), jnp.inf, x.dtype), None), jnp.zeros_like(x)

        # Made from an objective with no gradient, so that the first iteration moves nowhere:
        # it evaluates x0 in jaxopt's own code, and pushes no pair, there being no curvature.
        inner = self._solver(nothing).init_state(first["trial"], tuple(box))
        count = first["evaluations"]
        inner = _plain(inner._replace(num_fun_eval=count, num_grad_eval=count))
        return JaxoptState(**first, inner=inner)

    def step(self, objective: Objective, state: JaxoptState, box: Box) -> tuple[JaxoptState, Info]:
        """Do one iteration of jaxopt; return a state whose status is not RUNNING unchanged."""

        def value_and_grad(x: Float[Array, "n"]):
            # jaxopt's line search leaves the box by a rounding error.
            value, gradient, aux = objective(project(x, box))
            return (value, aux), gradient

        params, inner = self._solver(value_and_grad).update(state.trial, state.inner, tuple(box))
        x = project(params, box)
        at = Evaluation(
            x=x,
            value=inner.value,
            gradient=inner.grad,
            aux=inner.aux,
            running=state.status == Status.RUNNING,
            finite=jnp.isfinite(inner.value) & jnp.all(jnp.isfinite(inner.grad)),
        )
        norm = projected_gradient_norm(x, inner.grad, box)
        stuck = (state.evaluations > 0) & jnp.all(x == state.trial)
        return finish(
            self,
            state,
            state._replace(trial=x, inner=_plain(inner)),
            at,
            step_size=inner.stepsize,
            projected_gradient=norm,
            stops=[(stuck, Status.LINE_SEARCH), (norm <= self.gtol, Status.GTOL)],
            evaluations=inner.num_fun_eval.astype(jnp.int32),
        )

    def _solver(self, value_and_grad: Any) -> Any:
        with warnings.catch_warnings():
            # The import announces that jaxopt is no longer maintained; the docstring says it.
            warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
            try:
                import jaxopt
            except ImportError:
                raise AdvjaxError(
                    "JaxoptLBFGSB needs jaxopt: run pip install 'advjax[bench]'"
                ) from None
        return jaxopt.LBFGSB(
            fun=value_and_grad,
            value_and_grad=True,
            has_aux=True,
            history_size=self.history,
            maxls=self.max_line_search,
            jit=True,
        )


def _plain(inner: Any) -> Any:
    """Return the state of jaxopt as arrays of fixed dtypes, without aux (which is in Info)."""
    counts = ("num_fun_eval", "num_grad_eval", "num_linesearch_iter", "iter_num", "num_updates")
    numbers = {name: jnp.asarray(getattr(inner, name), jnp.int32) for name in counts}
    dtype = inner.grad.dtype
    floats = ("value", "stepsize", "error", "theta")
    numbers |= {name: jnp.asarray(getattr(inner, name), dtype) for name in floats}
    return inner._replace(aux=None, **numbers)
