"""The fast gradient method as a solver: one gradient, one step to the bounds, one more look."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from advjax.solvers import Best, Box, Info, Objective, Status, project, projected_gradient_norm


class SignedState(NamedTuple):
    """The point to evaluate next: the start, then where its gradient points to."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class SignedStep:
    """Each variable goes to the bound against its gradient's sign, whatever becomes of the value.

    In a box of +-delta around the start that is the signed step of delta, clipped to 0..255
    (Goodfellow et al., 2015). The second evaluation only tells the value there.

    Example:
        >>> from advjax.solvers import minimize
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> minimize(SignedStep(), objective, jnp.zeros(2), box).best.x.tolist()
        [1.0, 5.0]
    """

    max_evaluations: int = 2

    def init(self, x0: Float[Array, "n"], box: Box) -> SignedState:
        """The state before the first evaluation, which will be at `x0` projected on the box."""
        x = project(x0, box)
        count = jnp.int32(0)
        return SignedState(x, Best(x, jnp.full((), jnp.inf, x.dtype)), count, count)

    def step(self, objective: Objective, state: SignedState, box: Box) -> tuple[SignedState, Info]:
        """Evaluates at `state.trial`; a state whose status is not RUNNING comes back unchanged."""
        value, gradient, aux = objective(state.trial)
        running = state.status == Status.RUNNING
        first = running & (state.evaluations == 0)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        corner = jnp.where(gradient > 0, box.lower, jnp.where(gradient < 0, box.upper, state.trial))
        trial = jnp.where(first & finite, corner, state.trial)
        status = jnp.where(first, Status.RUNNING, Status.MAX_EVALUATIONS)
        status = jnp.where(finite, status, Status.NON_FINITE)
        new = SignedState(
            trial=trial,
            best=Best(trial, jnp.where(running & finite, value, state.best.value)),
            status=jnp.where(running, status, state.status).astype(state.status.dtype),
            evaluations=state.evaluations + running,
        )
        step_size = jnp.where(first, 1.0, 0.0)
        pg_norm = projected_gradient_norm(state.trial, gradient, box)
        return new, Info(value, running & ~first & finite, pg_norm, step_size, aux)
