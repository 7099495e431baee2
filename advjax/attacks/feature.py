"""feature-opt: the image whose deep representation is the guide's (Sabour et al., section 2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from advjax.attacks.base import Activate, Attack, PairData, cosine_distance, squared_distance
from advjax.attacks.tokens import mean_token, nearest
from advjax.choices import Metric, Tokens
from advjax.errors import AdvjaxError, UnknownName, whole
from advjax.smoothing import Smoothing
from advjax.solvers import ScipyLBFGSB, SignedStep, SignMomentum, Solver


@dataclasses.dataclass(frozen=True)
class FeatureOpt(Attack):
    """minimise sum_k w_k || phi_k(I) - phi_k(guide) ||^2 over the layers k (eq. 1).

    With `metric="cosine"`: sum_k w_k (1 - cos(phi_k(I), phi_k(guide))), as encoders whose
    embeddings are compared by their angle ask for.

    With `guide_weights` a guide is several images, and the objective sum_j v_j of what it is for
    guide j; without them, a guide of several images is the mean of their activations.

    Attributes:
        layers: The layers to match; the paper takes one.
        weights: w_k; 1 for every layer when None.
        output: The layer whose largest value is the label; the network's when None.
        metric: "l2" or "cosine". Distances, ratios and target ratios of results are in this metric.
        tokens: "all": a layer is compared as a whole; "mean": by the mean of its tokens, which are
            its vectors along the last axis; "nearest": each token with the nearest of the guide's.
        guide_weights: v_j, one number above 0 for each image of a guide.

    Raises:
        UnknownName: Another metric, or another way to compare tokens.
        AdvjaxError: A weight that is not above 0.

    Example:
        >>> import numpy as np
        >>> source, guide = {"fc7": np.array([[5.0, 0.0]])}, {"fc7": np.array([[3.0, 4.0]])}
        >>> FeatureOpt(("fc7",)).distance(source, guide)
        array([4.47213595])
        >>> FeatureOpt(("fc7",), metric="cosine").distance(source, guide)
        array([0.4])
    """

    metric: Metric = "l2"
    tokens: Tokens = "all"
    guide_weights: tuple[float, ...] | None = None

    name: ClassVar[str] = "feature-opt"

    def __post_init__(self):
        super().__post_init__()
        if self.metric not in get_args(Metric):
            raise UnknownName("metric", self.metric, get_args(Metric))
        if self.tokens not in get_args(Tokens):
            raise UnknownName("tokens", self.tokens, get_args(Tokens))
        given = self.guide_weights
        if given is not None and not (given and all(0 < v < float("inf") for v in given)):
            raise AdvjaxError(f"guide_weights is {given}; give one number above 0 for each image")

    @property
    def squared(self) -> bool:
        """True with the metric "l2", and no penalty beside it."""
        return self.metric == "l2" and self.perceptual is None

    @property
    def guides(self) -> int | None:
        """As many as there are `guide_weights`."""
        return None if self.guide_weights is None else len(self.guide_weights)

    @property
    def default_solver(self) -> Solver | ScipyLBFGSB:
        """Sign steps with momentum: with smoothed gradients the nearest to the guide of all."""
        return SignMomentum()

    @property
    def default_smoothing(self) -> Smoothing | None:
        """The widths that are best for sign steps (docs/benchmarks.md)."""
        return Smoothing()

    def initial(self, pair: PairData, target: Any) -> float:
        """Return the objective at the source; infinite or NaN, silently, where it overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(self.objective(pair.features, pair.guide or {})[0])

    def distance(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the distance of each row to the guide's, in this metric."""
        with np.errstate(over="ignore", invalid="ignore"):
            value = self.dissimilarity(features, guide)
            return value**0.5 if self.metric == "l2" else value

    def dissimilarity(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the squared Euclidean distance, or the cosine distance, of each row."""
        if self.guide_weights is None:
            return self.to_one(features, guide)
        return sum(
            v * self.to_one(features, {k: guide[k][:, j] for k in self.layers})
            for j, v in enumerate(self.guide_weights)
        )

    def to_one(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the same, to the activations of one guide."""
        if self.tokens == "nearest":
            terms = zip(self.layers, self.weights or (1.0,) * len(self.layers), strict=True)
            return sum(
                w * nearest(features[k], guide[k], self.metric == "cosine") for k, w in terms
            )
        if self.tokens == "mean":
            features, guide = (
                {k: mean_token(each[k]) for k in self.layers} for each in (features, guide)
            )
        measure = squared_distance if self.metric == "l2" else cosine_distance
        return measure(self.layers, self.weights, features, guide)

    def objective(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the objective of each row: what is minimised, of activations."""
        return self.dissimilarity(features, guide)

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


@dataclasses.dataclass(frozen=True)
class FeatureAway(FeatureOpt):
    """maximise the distance to the guide: untargeted, as robustness of encoders is evaluated.

    Without a guide it is the source itself that the image goes away from. At the source that
    distance has no gradient: whatever `start` says, the attack begins at a random point of the box.

    Attributes:
        layers: As of `FeatureOpt`, like `weights`, `output`, `metric`, `tokens` and
            `guide_weights`.

    Example:
        >>> FeatureAway(metric="cosine").direction
        1
    """

    name: ClassVar[str] = "feature-away"
    direction: ClassVar[int] = 1

    @property
    def squared(self) -> bool:
        """False: the objective is below 0."""
        return False

    @property
    def default_smoothing(self) -> None:
        """None: exact gradients."""
        return None

    def initial(self, pair: PairData, target: Any) -> float:
        """Return the objective's natural size: how far from the guide zero activations would be."""
        zero = {k: np.zeros_like(pair.features[k]) for k in self.layers}
        return float(self.dissimilarity(zero, target)[0])

    def objective(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the squared Euclidean distance, or the cosine distance, with a minus sign."""
        return -self.dissimilarity(features, guide)


@dataclasses.dataclass(frozen=True)
class FeatureContrast(FeatureOpt):
    """minimise InfoNCE: -log(exp(s_0 / t) / sum_j exp(s_j / t)), s_j the cosine to image j.

    A guide is several images (or activations): the first is the one to come near to, the others
    are negatives, to stay away from. The objective is van den Oord et al. (2018), eq. 4, summed
    over the layers with their weights. Distances and ratios of results are to the first, by
    default in the cosine.

    Attributes:
        layers: As of `FeatureOpt`, like `weights`, `output`, `metric` (of distances alone) and
            `tokens`.
        negatives: How many there are beside the guide.
        temperature: t, above 0.

    Raises:
        AdvjaxError: `negatives` is not a whole number above 0, `temperature` is not above 0, or
            there are `guide_weights`.

    Example:
        >>> one = np.eye(3)[:1]
        >>> attack = FeatureContrast(("fc",), negatives=2, temperature=1.0)
        >>> value = attack.objective({"fc": one}, {"fc": np.eye(3)[None]})
        >>> print(f"{value[0]:.3f} {np.log(1 + 2 / np.e):.3f}")
        0.551 0.551
    """

    metric: Metric = "cosine"
    negatives: int = 1
    temperature: float = 0.1

    name: ClassVar[str] = "feature-contrast"

    def __post_init__(self):
        super().__post_init__()
        if whole(self.negatives, 1) is None:
            raise AdvjaxError(f"negatives is {self.negatives!r}; give a whole number, 1 or more")
        if not 0 < self.temperature < float("inf"):
            raise AdvjaxError(f"temperature is {self.temperature}; give a number above 0")
        if self.guide_weights is not None:
            raise AdvjaxError("guide_weights have no part in feature-contrast; give none")

    @property
    def squared(self) -> bool:
        """False: the objective is no distance."""
        return False

    @property
    def guides(self) -> int:
        """The guide and its negatives."""
        return 1 + self.negatives

    def dissimilarity(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return how far each row is from the first guide."""
        return self.to_one(features, {k: guide[k][:, 0] for k in self.layers})

    def objective(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return InfoNCE of each row."""
        cosine, total = dataclasses.replace(self, metric="cosine", weights=None), 0.0
        for k, w in zip(self.layers, self.weights or (1.0,) * len(self.layers), strict=True):
            one = dataclasses.replace(cosine, layers=(k,))
            # 1 - cos keeps its digits; the 1 falls out of the difference.
            logits = [
                -one.to_one(features, {k: guide[k][:, j]}) / self.temperature
                for j in range(self.guides)
            ]
            rows = jnp.stack(logits, 1)
            total = total + w * jax.nn.logsumexp(rows - rows[:, :1], 1)
        return total
