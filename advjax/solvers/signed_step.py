"""The fast gradient method as a solver: one gradient, one step to the bounds, one evaluation."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from advjax.solvers.base import (
    Best,
    Box,
    Info,
    Objective,
    evaluate,
    finish,
    freeze,
    projected_gradient_norm,
    start,
)


class SignedState(NamedTuple):
    """The point to evaluate next: the start, then the corner to which its gradient points."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class SignedStep:
    """One step of each variable to the bound against its gradient's sign.

    In a box of +-delta around the start this is the signed step of delta, clipped to 0..255
    (Goodfellow et al., 2015). The second evaluation measures the value there; the step is the
    answer even if the value grew.

    Example:
        >>> from advjax.solvers import Box, minimize, SignedStep
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> minimize(SignedStep(), objective, jnp.zeros(2), box).best.x.tolist()
        [1.0, 5.0]
    """

    max_evaluations: int = 2

    def init(self, x0: Float[Array, "n"], box: Box) -> SignedState:
        """Return the state before the first evaluation, which is at `x0` projected on the box."""
        return SignedState(**start(x0, box))

    def step(self, objective: Objective, state: SignedState, box: Box) -> tuple[SignedState, Info]:
        """Evaluate at `state.trial`; return a state whose status is not RUNNING unchanged."""
        at = evaluate(objective, state)
        first = state.evaluations == 0

        bound = jnp.where(at.gradient > 0, box.lower, box.upper)
        corner = jnp.where(at.gradient == 0, state.trial, bound)
        trial = jnp.where(first & at.finite, corner, state.trial)

        new, info = finish(
            self,
            state,
            state._replace(trial=trial),
            at,
            step_size=jnp.where(first, 1.0, 0.0),
            projected_gradient=projected_gradient_norm(state.trial, at.gradient, box),
        )
        # The corner is the answer even if the start was better.
        best = Best(trial, jnp.where(at.finite, at.value, state.best.value))
        new = new._replace(best=freeze(at.running, best, state.best))
        return new, info._replace(improved=at.running & ~first & at.finite)
