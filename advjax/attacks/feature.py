"""feature-opt: the image whose deep representation is the guide's (Sabour et al., section 2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Array, Float

from advjax.attacks.base import Activate, Attack, PairData, squared_distance
from advjax.smoothing import Smoothing
from advjax.solvers import ScipyLBFGSB, SignedStep, SignMomentum, Solver


@dataclasses.dataclass(frozen=True)
class FeatureOpt(Attack):
    """minimise sum_k w_k || phi_k(I) - phi_k(guide) ||^2 over the layers k (eq. 1).

    Attributes:
        layers: The layers to match; the paper takes one.
        weights: w_k; 1 for every layer when None.
        output: The layer whose largest value is the label; the network's when None.

    Example:
        >>> import numpy as np
        >>> attack = FeatureOpt(("fc7",))
        >>> attack.distance({"fc7": np.zeros((1, 2))}, {"fc7": np.array([[3.0, 4.0]])})
        array([5.])
    """

    name: ClassVar[str] = "feature-opt"
    squared: ClassVar[bool] = True

    @property
    def default_solver(self) -> Solver | ScipyLBFGSB:
        """Sign steps with momentum: with smoothed gradients the nearest to the guide of all."""
        return SignMomentum()

    @property
    def default_smoothing(self) -> Smoothing | None:
        """Widths from .7 to .014."""
        return Smoothing()

    def initial(self, pair: PairData, target: Any) -> float:
        """Return the objective at the source."""
        return float(self.distance(pair.features, pair.guide or {})[0]) ** 2

    def threshold(self, ratio: float, initial: float) -> float:
        """Return the squared distance that is `ratio` of the initial distance, squared."""
        return ratio**2 * initial

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """Compute the objective of each pair, and the activations at its image.

        Args:
            activate: Images to activations, of these layers at least.
            images: The points of evaluation, one for each pair.
            target: The guides' activations.
        """
        features = activate(images)
        return squared_distance(self.layers, self.weights, features, target), features


@dataclasses.dataclass(frozen=True)
class FeatureFgrad(FeatureOpt):
    """feature-fgrad: one signed step of delta down feature-opt's gradient at the start (S6).

    Every pixel moves to the bound of its box that the gradient's sign points to, and stays where
    the gradient is zero.
    """

    name: ClassVar[str] = "feature-fgrad"
    one_step: ClassVar[bool] = True

    @property
    def default_solver(self) -> SignedStep:
        """The signed step."""
        return SignedStep()

    @property
    def default_smoothing(self) -> None:
        """None: the gradient at the start is the paper's."""
        return None
