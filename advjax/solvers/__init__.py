"""Box-constrained minimisers that know nothing of images or networks."""

import dataclasses
from typing import Any

from advjax.errors import UnknownName
from advjax.solvers.base import (
    Best,
    Box,
    Info,
    Objective,
    Solver,
    Status,
    evaluate,
    finish,
    minimize,
    project,
    projected_gradient_norm,
    start,
)
from advjax.solvers.check import check_solver
from advjax.solvers.jaxopt_lbfgsb import JaxoptLBFGSB
from advjax.solvers.lbfgs import ProjectedLBFGS
from advjax.solvers.optax_projected import OptaxProjected
from advjax.solvers.scipy_lbfgsb import ScipyLBFGSB, ScipyResult
from advjax.solvers.sign import SignMomentum
from advjax.solvers.signed_step import SignedStep

BY_NAME = {"lbfgs": ProjectedLBFGS, "sign": SignMomentum, "scipy": ScipyLBFGSB}
"""The solvers that have a name on the command line."""


def choose(default: Any, name: str | None = None, max_evaluations: int | None = None) -> Any:
    """Return the solver of this name with this budget; for None take those of `default`.

    Args:
        default: A solver, such as an attack's `default_solver`.
        name: A name of `BY_NAME`.
        max_evaluations: The number of evaluations after which a pair ends.

    Raises:
        UnknownName: No solver has this name.
        AdvjaxError: `max_evaluations` is under 1.

    Example:
        >>> choose(ProjectedLBFGS(100), "sign").max_evaluations
        100
    """
    if name is not None and name not in BY_NAME:
        raise UnknownName("solver", name, BY_NAME)
    budget = default.max_evaluations if max_evaluations is None else max_evaluations
    if name is not None and not isinstance(default, BY_NAME[name]):
        return BY_NAME[name](max_evaluations=budget)
    return dataclasses.replace(default, max_evaluations=budget)


__all__ = [
    "BY_NAME",
    "Best",
    "Box",
    "Info",
    "JaxoptLBFGSB",
    "Objective",
    "OptaxProjected",
    "ProjectedLBFGS",
    "ScipyLBFGSB",
    "ScipyResult",
    "SignMomentum",
    "SignedStep",
    "Solver",
    "Status",
    "check_solver",
    "choose",
    "evaluate",
    "finish",
    "minimize",
    "project",
    "projected_gradient_norm",
    "start",
]
