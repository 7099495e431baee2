"""feature-opt: the image whose deep representation is the guide's (Sabour et al., section 2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import numpy as np
from jaxtyping import Array, Float

from advjax.attacks.base import Activate, Attack, PairData, cosine_distance, squared_distance
from advjax.choices import Metric
from advjax.errors import UnknownName
from advjax.smoothing import Smoothing
from advjax.solvers import ScipyLBFGSB, SignedStep, SignMomentum, Solver


@dataclasses.dataclass(frozen=True)
class FeatureOpt(Attack):
    """minimise sum_k w_k || phi_k(I) - phi_k(guide) ||^2 over the layers k (eq. 1).

    With `metric="cosine"`: sum_k w_k (1 - cos(phi_k(I), phi_k(guide))), as encoders whose
    embeddings are compared by their angle ask for.

    Attributes:
        layers: The layers to match; the paper takes one.
        weights: w_k; 1 for every layer when None.
        output: The layer whose largest value is the label; the network's when None.
        metric: "l2" or "cosine". Distances, ratios and target ratios of results are in this metric.

    Raises:
        UnknownName: Another metric.

    Example:
        >>> import numpy as np
        >>> source, guide = {"fc7": np.array([[5.0, 0.0]])}, {"fc7": np.array([[3.0, 4.0]])}
        >>> FeatureOpt(("fc7",)).distance(source, guide)
        array([4.47213595])
        >>> FeatureOpt(("fc7",), metric="cosine").distance(source, guide)
        array([0.4])
    """

    metric: Metric = "l2"

    name: ClassVar[str] = "feature-opt"

    def __post_init__(self):
        super().__post_init__()
        if self.metric not in get_args(Metric):
            raise UnknownName("metric", self.metric, get_args(Metric))

    @property
    def squared(self) -> bool:
        """True with the metric "l2"."""
        return self.metric == "l2"

    @property
    def default_solver(self) -> Solver | ScipyLBFGSB:
        """Sign steps with momentum: with smoothed gradients the nearest to the guide of all."""
        return SignMomentum()

    @property
    def default_smoothing(self) -> Smoothing | None:
        """Widths from .7 to .014."""
        return Smoothing()

    def initial(self, pair: PairData, target: Any) -> float:
        """Return the objective at the source; infinite or NaN, silently, where it overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(self.objective(pair.features, pair.guide or {})[0])

    def distance(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the distance of each row to the guide's, in this metric."""
        if self.squared:
            return super().distance(features, guide)
        return self.objective(features, guide)

    def objective(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the squared Euclidean distance, or the cosine distance, of each row."""
        measure = squared_distance if self.squared else cosine_distance
        return measure(self.layers, self.weights, features, guide)

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
        return self.objective(features, target), features


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
