"""One contract for all solvers, and a check that notices each way to break it."""

import dataclasses

import jax.numpy as jnp
import optax
import pytest

from advjax.errors import AdvjaxError
from advjax.solvers import (
    PUBLISHED,
    JaxoptLBFGSB,
    OptaxProjected,
    ProjectedLBFGS,
    SignedStep,
    SignMomentum,
    check_solver,
)
from advjax.solvers.base import freeze

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("module_optimised")]


@pytest.mark.parametrize(
    "solver",
    [
        ProjectedLBFGS(12),
        ProjectedLBFGS(12, history_dtype="bfloat16"),
        ProjectedLBFGS(12, line_search=False),
        SignMomentum(12),
        OptaxProjected(optax.adam(0.1), 12),
        JaxoptLBFGSB(20),
        SignedStep(),
        *(rule(12) for rule in PUBLISHED.values()),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_solver_keeps_the_contract(solver):
    check_solver(solver, keeps_best=not isinstance(solver, SignedStep))


@dataclasses.dataclass(frozen=True)
class Broken:
    """A good solver whose states or steps are tampered with."""

    breaks: str
    max_evaluations: int = 6

    @property
    def inner(self):
        return SignMomentum(self.max_evaluations)

    def init(self, x0, box):
        state = self.inner.init(x0, box)
        return state._replace(trial=x0) if self.breaks == "start" else state

    def step(self, objective, state, box):
        if self.breaks == "twice":
            objective(state.trial)
        new, info = self.inner.step(objective, state, box)
        if self.breaks == "box":
            new = new._replace(trial=new.trial + 5)
        if self.breaks == "best":
            first = state.evaluations == 0
            new = new._replace(best=freeze(first, new.best, state.best))
        if self.breaks == "frozen":
            new = new._replace(velocity=new.velocity + 1)
        if self.breaks == "budget":
            new = new._replace(status=jnp.zeros_like(new.status))
        if self.breaks == "finite":
            new = new._replace(status=jnp.where(new.status == 7, 1, new.status))
        return new, info


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("start", "projects the start"),
        ("twice", "evaluates the objective once, not 2"),
        ("box", "all points are in the box"),
        ("best", "the best point seen is kept"),
        ("frozen", "has ended unchanged"),
        ("budget", "max_evaluations"),
        ("finite", "NON_FINITE"),
    ],
)
def test_a_broken_solver_is_named(breaks, message):
    with pytest.raises(AdvjaxError, match=message):
        check_solver(Broken(breaks))
