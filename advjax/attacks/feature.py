"""feature-opt: the image whose deep representation is the guide's (Sabour et al., section 2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from advjax.attacks.base import Activate, Features, Given
from advjax.attacks.box import PixelBox, pixel_box
from advjax.errors import AdvjaxError


@dataclasses.dataclass(frozen=True)
class FeatureOpt:
    """minimise sum_k w_k || phi_k(I) - phi_k(guide) ||^2 over the layers k (eq. 1).

    Attributes:
        layers: The layers to match; the paper takes one.
        weights: w_k; 1 for every layer when None.

    Example:
        >>> import numpy as np
        >>> spec = FeatureOpt(("fc7",))
        >>> spec.distance({"fc7": np.zeros((1, 2))}, {"fc7": np.array([[3.0, 4.0]])})
        array([5.])
    """

    layers: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    name: ClassVar[str] = "feature-opt"
    one_step: ClassVar[bool] = False
    to_label: ClassVar[bool] = False

    def __post_init__(self):
        if not self.layers:
            raise AdvjaxError("layers is (); name at least one layer to match")
        check_weights(self.layers, self.weights)

    @property
    def needs(self) -> tuple[str, ...]:
        """The layers, and no more."""
        return self.layers

    def box(self, source: np.ndarray, delta: float) -> PixelBox:
        """|I - source| <= delta and 0 <= I <= 255 (eq. 2)."""
        return pixel_box(source, delta)

    def target(self, given: Given) -> Any:
        """The guide's activations."""
        assert given.guide is not None
        return given.guide

    def initial(self, target: Any, found: Features) -> float:
        """The objective at the source."""
        return float(self.distance(found, target)[0]) ** 2

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """The objective of each pair, and the activations at its image.

        Args:
            activate: Images to activations, of these layers at least.
            images: The points of evaluation, one for each pair.
            target: The guides' activations.
        """
        found = activate(images)
        return squared_distance(self.layers, self.weights, found, target), found

    def distance(self, found: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """The Euclidean distance of each row, sqrt of the objective; of JAX's or NumPy's arrays.

        Of activations that overflow it is infinite or NaN, without a warning.
        """
        return distance(self.layers, self.weights, found, guide)


@dataclasses.dataclass(frozen=True)
class FeatureFgrad(FeatureOpt):
    """feature-fgrad: one signed step of delta down feature-opt's gradient at the start (S6).

    Every pixel moves to the bound of its box that the gradient's sign points to, and stays where
    the gradient is zero.
    """

    name: ClassVar[str] = "feature-fgrad"
    one_step: ClassVar[bool] = True


def check_weights(layers: tuple[str, ...], weights: tuple[float, ...] | None) -> None:
    """Raises AdvjaxError unless there is one finite number above 0 for each layer."""
    if weights is not None and (
        len(weights) != len(layers) or not all(0 < w < float("inf") for w in weights)
    ):
        raise AdvjaxError(
            f"weights is {weights} for the layers {layers}; give one number above 0 for each layer"
        )


def squared_distance(
    layers: tuple[str, ...],
    weights: tuple[float, ...] | None,
    found: Mapping[str, Any],
    target: Mapping[str, Any],
) -> Any:
    """sum_k w_k || found_k - target_k ||^2 of each row."""
    terms = zip(layers, weights or (1.0,) * len(layers), strict=True)
    return sum(
        w * ((found[k] - target[k]) ** 2).reshape(len(found[k]), -1).sum(1) for k, w in terms
    )


def distance(
    layers: tuple[str, ...],
    weights: tuple[float, ...] | None,
    found: Mapping[str, Any],
    guide: Mapping[str, Any],
) -> Any:
    """The root of `squared_distance`; infinite or NaN, without a warning, where that overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return squared_distance(layers, weights, found, guide) ** 0.5
