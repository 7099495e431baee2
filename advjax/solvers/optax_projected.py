"""Any optax optimiser, followed by projection on the box."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

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


class OptaxState(NamedTuple):
    """The point to evaluate next and the optimiser's own state."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]
    inner: Any


@dataclasses.dataclass(frozen=True)
class OptaxProjected:
    """x <- P(x + update) with the update of any `optax.GradientTransformation`; the best is kept.

    Optimisers that evaluate the objective themselves (those with a line search, such as
    `optax.lbfgs`) have no place here: a step is one evaluation. Use `ProjectedLBFGS`.

    Attributes:
        optimizer: For instance `optax.adam(1.0)`; the step is in the units of the box.
        max_evaluations: Evaluations of the objective after which a lane ends.
        gtol: Stop when the max-norm of `P(x - g) - x` is at or under this.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from advjax.solvers import Box, OptaxProjected, minimize
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> minimize(OptaxProjected(optax.sgd(0.5)), objective, jnp.zeros(2), box).best.x.tolist()
        [1.0, 3.0]
    """

    optimizer: optax.GradientTransformation
    max_evaluations: int = 500
    gtol: float = 1e-5

    def __post_init__(self):
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise AdvjaxError(
                f"optimizer is {self.optimizer!r}; give an optax.GradientTransformation, "
                "such as optax.adam(1.0)"
            )
        if self.max_evaluations < 1:
            raise AdvjaxError(f"max_evaluations is {self.max_evaluations}; give 1 or more")

    def init(self, x0: Float[Array, "n"], box: Box) -> OptaxState:
        """The state before the first evaluation, which will be at `x0` projected on the box."""
        x = project(x0, box)
        count = jnp.zeros((), jnp.int32)
        return OptaxState(
            trial=x,
            best=Best(x, jnp.full((), jnp.inf, x.dtype)),
            status=count + Status.RUNNING,
            evaluations=count,
            inner=self.optimizer.init(x),
        )

    def step(self, objective: Objective, state: OptaxState, box: Box) -> tuple[OptaxState, Info]:
        """Evaluates at `state.trial`; a state whose status is not RUNNING comes back unchanged."""
        value, gradient, aux = objective(state.trial)
        running = state.status == Status.RUNNING
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        update, inner = optax.with_extra_args_support(self.optimizer).update(
            gradient, state.inner, state.trial, value=value, grad=gradient
        )
        trial = project(jnp.asarray(optax.apply_updates(state.trial, update)), box)

        pg_norm = projected_gradient_norm(state.trial, gradient, box)
        evaluations = state.evaluations + 1
        status = jnp.where(
            evaluations >= self.max_evaluations, Status.MAX_EVALUATIONS, state.status
        )
        status = jnp.where(pg_norm <= self.gtol, Status.GTOL, status)
        status = jnp.where(finite, status, Status.NON_FINITE)
        best, improved = update_best(state.best, state.trial, value, running & finite)
        moved = OptaxState(trial, best, status, evaluations, inner)
        info = Info(value, improved, pg_norm, jnp.max(jnp.abs(trial - state.trial)), aux)
        return freeze(running, moved, state), info
