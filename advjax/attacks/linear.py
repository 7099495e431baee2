"""feature-linear: feature-opt on the network's linearisation at the source (section 4.3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from advjax.attacks.base import Activate, PairData
from advjax.attacks.feature import FeatureOpt
from advjax.solvers import ProjectedLBFGS


@dataclasses.dataclass(frozen=True)
class FeatureLinear(FeatureOpt):
    """minimise sum_k w_k || phi_k(Is) + J_k (I - Is) - phi_k(guide) ||^2, J_k being phi_k' at Is.

    If feature adversaries came of the network's linearity in high dimensions, this would find them
    (Sabour et al., section 4.3: it does not). A result's `distance` is the network's own; the root
    of its `objective` is what the linear map promises.

    Attributes:
        layers: The layers to match.
        weights: w_k; 1 for every layer when None.
        metric: As of `FeatureOpt`, of the linearised activations.

    Example:
        >>> FeatureLinear(("fc7",)).name
        'feature-linear'
    """

    name: ClassVar[str] = "feature-linear"
    exact: ClassVar[bool] = True

    @property
    def default_solver(self) -> ProjectedLBFGS:
        """Projected L-BFGS: the objective is a quadratic."""
        return ProjectedLBFGS()

    @property
    def default_smoothing(self) -> None:
        """None: the linear map is the network's own derivative."""
        return None

    def target(self, pair: PairData) -> Any:
        """Return the guide's activations and the source, where the network is linearised."""
        return {
            "guide": super().target(pair),
            "source": np.asarray(pair.source, np.float32)[None],
        }

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """Compute the objective of each pair, and the network's own activations at its image."""

        def features(images):
            named = activate(images)
            return {name: named[name] for name in self.layers}

        # J d as the transpose of d' J: a layer whose derivative is known in reverse mode alone (a
        # custom_vjp) has it too, and it costs what jvp costs.
        base, pullback = jax.vjp(features, target["source"])
        _, forward = jax.vjp(lambda u: pullback(u)[0], jax.tree.map(jnp.zeros_like, base))
        (moved,) = forward(images - target["source"])
        linear = jax.tree.map(jnp.add, base, moved)
        return self.objective(linear, target["guide"]), activate(images)
