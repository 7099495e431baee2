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
    check_positive,
    evaluate,
    finish,
    project,
    projected_gradient_norm,
    start,
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

    A step is one evaluation. So an optimiser that evaluates the objective itself, for a line search
    (such as `optax.lbfgs`), cannot be used here: use `ProjectedLBFGS`.

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
        check_positive(self, "max_evaluations")

    def init(self, x0: Float[Array, "n"], box: Box) -> OptaxState:
        """Return the state before the first evaluation, which is at `x0` projected on the box."""
        first = start(x0, box)
        return OptaxState(**first, inner=self.optimizer.init(first["trial"]))

    def step(self, objective: Objective, state: OptaxState, box: Box) -> tuple[OptaxState, Info]:
        """Evaluate at `state.trial`; return a state whose status is not RUNNING unchanged."""
        at = evaluate(objective, state)

        update, inner = optax.with_extra_args_support(self.optimizer).update(
            at.gradient, state.inner, state.trial, value=at.value, grad=at.gradient
        )
        trial = project(jnp.asarray(optax.apply_updates(state.trial, update)), box)

        norm = projected_gradient_norm(state.trial, at.gradient, box)
        return finish(
            self,
            state,
            state._replace(trial=trial, inner=inner),
            at,
            step_size=jnp.max(jnp.abs(trial - state.trial)),
            projected_gradient=norm,
            stops=[(norm <= self.gtol, Status.GTOL)],
        )
