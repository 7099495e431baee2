"""The names among which a user chooses, for type checkers, help and completion, without JAX.

The things that they name stand in `advjax.attacks.BY_NAME`, `advjax.solvers.BY_NAME` and so on.
"""

from typing import Literal

AttackName = Literal[
    "feature-opt", "feature-linear", "feature-fgrad", "feature-away", "label-opt", "label-fgrad"
]
Metric = Literal["l2", "cosine"]
Tokens = Literal["all", "mean", "nearest"]
SolverName = Literal[
    "lbfgs", "sign", "scipy", "sign-pgd", "mi-fgsm", "m-attack", "adam", "nightshade", "apgd"
]
Precision = Literal["highest", "tensorfloat32", "bfloat16"]
"""The precision of matrix products; "highest" is float32."""
Start = Literal["source", "random"]
Pairing = Literal["all", "paper", "random"]
FigureFormat = Literal["png", "svg", "pdf"]
