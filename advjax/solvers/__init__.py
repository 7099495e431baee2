"""Box-constrained minimisers that know nothing of images or networks."""

from advjax.solvers.base import (
    Best,
    Box,
    Info,
    Objective,
    Solver,
    Status,
    minimize,
    project,
    projected_gradient_norm,
)
from advjax.solvers.jaxopt_lbfgsb import JaxoptLBFGSB
from advjax.solvers.lbfgs import ProjectedLBFGS
from advjax.solvers.optax_projected import OptaxProjected
from advjax.solvers.scipy_lbfgsb import ScipyLBFGSB, ScipyResult
from advjax.solvers.sign import SignMomentum

BY_NAME = {"lbfgs": ProjectedLBFGS, "sign": SignMomentum, "scipy": ScipyLBFGSB}
"""The solvers that the command line offers."""

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
    "Solver",
    "Status",
    "minimize",
    "project",
    "projected_gradient_norm",
]
