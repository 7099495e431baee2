"""The attack interface: everything that the engine asks of an attack is in this file."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from advjax.attacks.box import PixelBox, pixel_box
from advjax.attacks.perceptual import Perceptual
from advjax.attacks.tokens import unit
from advjax.errors import AdvjaxError
from advjax.networks.network import Network
from advjax.smoothing import Smoothing
from advjax.solvers import ProjectedLBFGS, ScipyLBFGSB, Solver

Activate = Callable[[Float[Array, "b h w c"]], Mapping[str, Array]]
"""Images to named activations; differentiable in reverse mode alone (`jax.grad`, `jax.vjp`)."""

Features = dict[str, np.ndarray]
"""The activations of one image, [1, ...] each."""


class PairData(NamedTuple):
    """The data of one pair from which an attack builds its box and its target."""

    source: np.ndarray  # [h, w, c], uint8 or float32, 0..255 whatever the network's bounds
    features: Features  # the source's activations
    guide: Features | None  # the guide's activations; None for a pair that has a label alone
    label: int | None  # the label to take


class Attempt(NamedTuple):
    """The outcome of one attempt on a pair."""

    takes_label: bool  # the adversarial has the pair's label
    takes_label_uint8: bool  # the 8-bit adversarial has it, too
    change: float  # Euclidean norm of adversarial - source, in levels


@dataclasses.dataclass(frozen=True)
class Attack(abc.ABC):
    """An objective over images, a box, and the rules of a pair's start and end.

    Images are in levels here, 0..255: the engine converts the units of a network with other bounds.
    A subclass is a frozen dataclass that names itself and gives `loss`; everything else has a
    default that fits an attack on the activations of a guide. Equal attacks share their compiled
    programs. `loss` is pure, over a leading batch axis of rows that are independent.

    Attributes:
        layers: The layers where the distance to the guide is measured; the network's default layer
            when ().
        weights: One number above 0 for each layer; 1 when None.
        output: The layer whose largest value is the label; the network's `output` when None.
        perceptual: How like its source an image must look, beside the box; the engine adds its
            penalty to `loss`.
        name: The attack's name on the command line and in results.
        one_step: The gradient is taken once, at the start; the attack accepts no solver.
        to_label: The attack aims at a label: the pair's own or the guide's.
        bounded: delta bounds the change of a pixel.
        exact: The objective contains derivatives of the network, so that they must not be smoothed.
        direction: -1 if the attack lowers `distance`, so that a pair may end at one; 1 if it raises
            it; 0 if the distance is measured and not aimed at.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Brighter(Attack):
        ...     name = "brighter"
        ...
        ...     def loss(self, activate, images, target):
        ...         return -jnp.mean(images, (1, 2, 3)), activate(images)
        >>> Brighter().attempts
        1
    """

    layers: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    output: str | None = None
    perceptual: Perceptual | None = dataclasses.field(default=None, kw_only=True)

    name: ClassVar[str]
    one_step: ClassVar[bool] = False
    to_label: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    direction: ClassVar[int] = -1

    def __post_init__(self):
        if self.layers:
            check_weights(self.layers, self.weights)
        if self.perceptual is not None and not isinstance(self.perceptual, Perceptual):
            raise AdvjaxError(
                f"perceptual is {self.perceptual!r}; give advjax.Perceptual(ssim=0.95) or the like"
            )
        if self.perceptual is not None and self.one_step:
            raise AdvjaxError(
                f"perceptual is given, and {self.name} takes one step, whatever it looks like; "
                "give none, or an attack of several steps"
            )

    @abc.abstractmethod
    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """Compute the objective of each row, and the activations at its image.

        Args:
            activate: Images to activations, of the layers in `needs` at least.
            images: The points of evaluation, 0..255 whatever the network's bounds.
            target: What `target` gave for each pair, stacked.
        """

    def for_network(self, net: Network) -> Self:
        """Return this attack with everything filled in that the network decides.

        Raises:
            UnknownName: A layer that the network does not have.
            AdvjaxError: A setting that does not fit the network.
        """
        layers = net.check_layers(self.layers or None)
        check_weights(layers, self.weights)
        output = self.output or net.output
        if output is not None:
            net.check_layers(output)
        if self.perceptual is not None:
            self.perceptual.check(net)
        return dataclasses.replace(self, layers=layers, output=output)

    @property
    def squared(self) -> bool:
        """True if the objective is the square of a Euclidean distance, so that its root is one."""
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        """The activations that the host keeps of sources, guides and results."""
        return self.layers

    @property
    def default_solver(self) -> Solver | ScipyLBFGSB:
        """The solver that runs when none is given; `max_evaluations` is of one attempt."""
        return ProjectedLBFGS()

    @property
    def default_smoothing(self) -> Smoothing | None:
        """The smoothing of gradients with a solver that accepts it, unless another is given."""
        return None

    @property
    def guides(self) -> int | None:
        """The number of images that a guide is, whose activations [1, k, ...] are kept apart.

        None: a guide is any number of images, whose activations [1, ...] are averaged.
        """
        return None

    @property
    def attempts(self) -> int:
        """The number of times that a pair is solved, each time with another target."""
        return 1

    def next_target(self, target: Any, attempts: Sequence[Attempt]) -> Any | None:
        """Return the target of the attempt after these; None when the pair is done.

        The engine asks only where `attempts` is above 1.
        """
        return None

    def is_best(self, attempts: Sequence[Attempt]) -> bool:
        """Return True if the last of these attempts is the pair's result so far."""
        return True

    def box(self, pair: PairData, delta: float) -> PixelBox:
        """Return the bounds: |I - source| <= delta and 0 <= I <= 255 (Sabour et al., eq. 2)."""
        return pixel_box(pair.source, delta)

    def target(self, pair: PairData) -> Any:
        """Return what `loss` needs of the pair: a pytree of arrays [1, ...]."""
        assert pair.guide is not None
        return pair.guide

    def initial(self, pair: PairData, target: Any) -> float:
        """Return the objective's natural size: its value at the source, unless overridden."""
        source = jnp.asarray(pair.source, jnp.float32)[None]
        features: Any = pair.features
        return float(self.loss(lambda images: features, source, target)[0][0])

    def relative_distance(self, pair: PairData) -> float:
        """Return the distance between source and guide as a fraction of their activations' size.

        It is || s - g || / sqrt(|| s ||^2 + || g ||^2) in `layers`: 1 where the two have nothing in
        common, and 1 without a guide. The widths of smoothed kinks are multiplied by it: an
        activation moves about as far as it must come nearer to the guide's.
        """
        if pair.guide is None:
            return 1.0
        zero = dict.fromkeys(self.layers, np.float32(0))
        mean = {k: g.mean(1) for k, g in pair.guide.items()} if self.guides else pair.guide
        pairs = (pair.features, zero), (mean, zero), (pair.features, mean)
        source, guide, moved = (distance(self.layers, self.weights, *both)[0] for both in pairs)
        with np.errstate(all="ignore"):  # activations may be all zero, or overflow
            relative = float(moved / np.hypot(source, guide))
        return relative if np.isfinite(relative) else 1.0

    def distance(self, features: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """Return the distance of each row to the guide's: Euclidean, in `layers`.

        It is called with arrays of NumPy, and of JAX inside of compiled programs.
        """
        return distance(self.layers, self.weights, features, guide)


def check_weights(layers: tuple[str, ...], weights: tuple[float, ...] | None) -> None:
    """Raise AdvjaxError unless there is one finite number above 0 for each layer."""
    if weights is not None and (
        len(weights) != len(layers) or not all(0 < w < float("inf") for w in weights)
    ):
        raise AdvjaxError(
            f"weights is {weights} for the layers {layers}; give one number above 0 for each layer"
        )


def squared_distance(
    layers: tuple[str, ...],
    weights: tuple[float, ...] | None,
    features: Mapping[str, Any],
    target: Mapping[str, Any],
) -> Any:
    """Return sum_k w_k || features_k - target_k ||^2 of each row."""
    terms = zip(layers, weights or (1.0,) * len(layers), strict=True)
    return sum(
        w * ((features[k] - target[k]) ** 2).reshape(len(features[k]), -1).sum(1) for k, w in terms
    )


def distance(
    layers: tuple[str, ...],
    weights: tuple[float, ...] | None,
    features: Mapping[str, Any],
    guide: Mapping[str, Any],
) -> Any:
    """Return the root of `squared_distance`; infinite or NaN, silently, where that overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return squared_distance(layers, weights, features, guide) ** 0.5


def cosine_distance(
    layers: tuple[str, ...],
    weights: tuple[float, ...] | None,
    features: Mapping[str, Any],
    guide: Mapping[str, Any],
) -> Any:
    """Return sum_k w_k (1 - cos(features_k, guide_k)) of each row.

    It is computed as half the squared distance of the unit vectors, which is the same number and
    keeps its digits where the two are near. An activation that is zero everywhere stays zero.
    """
    names = zip(layers, weights or (1.0,) * len(layers), strict=True)
    return sum(w * ((_unit(features[k]) - _unit(guide[k])) ** 2).sum(1) / 2 for k, w in names)


def _unit(activation: Any) -> Any:
    return unit(activation.reshape(len(activation), -1))
