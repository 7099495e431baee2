"""The paper's protocol as numbers that can be changed, and the layers each network is shown at."""

import dataclasses
import math
from pathlib import Path
from typing import Literal, NamedTuple

from advjax import solvers
from advjax.analysis import Protocol
from advjax.choices import FigureFormat
from advjax.engine import Precision
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.imported import is_imported, short_name
from advjax.networks.options import DEFAULT, NetworkOptions

DRAWN = ("random", "orthonormal")  # weights that nobody has trained


class Layers(NamedTuple):
    """The layers at which a network is attacked and measured."""

    shown: tuple[str, ...]  # shallow to deep, for Figure 5; the last one is the network's own
    counted: tuple[str, ...]  # for Table 2: those with a ReLU


_CAFFENET = Layers(("conv2", "conv3", "pool5", "fc7"), ("conv1", "conv3", "conv5", "fc7"))
_CIFAR10 = Layers(("pool1", "pool2", "pool3", "ip1"), ("pool1", "conv2", "conv3"))
LAYERS = {
    **dict.fromkeys(
        ("caffenet", "alexnet", "vgg_cnn_s", "places205_alexnet", "places_hybrid", "flickr_style"),
        _CAFFENET,
    ),
    "googlenet": Layers(
        ("conv2/3x3", "inception_3b/output", "inception_4e/output", "pool5/7x7_s1"),
        ("conv1/7x7_s2", "inception_3b/output", "inception_4e/output", "pool5/7x7_s1"),
    ),
    "squeezenet": Layers(
        ("fire3/concat", "fire5/concat", "fire9/concat", "pool10"),
        ("conv1", "fire3/concat", "fire5/concat", "fire7/concat", "fire9/concat"),
    ),
    "efficientnet_lite0": Layers(("block4", "block9", "block15", "pool"), ("stem", "head")),
    "efficientnet_lite1": Layers(("block6", "block14", "block20", "pool"), ("stem", "head")),
    "efficientnet_lite2": Layers(("block6", "block14", "block20", "pool"), ("stem", "head")),
    "face_descriptor": Layers(
        ("conv32_3", "conv64_3", "conv128_2", "descriptor"),
        ("conv32_down", "conv32_3", "conv64_3", "conv128_2", "conv256_down_out"),
    ),
    "lenet": Layers(("pool1", "pool2", "ip1"), ("ip1",)),
    "cifar10_full": _CIFAR10,
    "cifar10_quick": _CIFAR10,
}


class TrainedNetwork(NamedTuple):
    """A network with its weights."""

    network: str
    weights: str | None

    @property
    def name(self) -> str:
        """Return the name for folders and tables.

        Example:
            >>> TrainedNetwork("squeezenet", "files/squeezenet_v1.0.caffemodel").name
            'squeezenet-squeezenet_v1.0'
        """
        if is_imported(self.network):
            return short_name(self.network)
        return self.network if self.weights is None else f"{self.network}-{Path(self.weights).stem}"

    @property
    def trained(self) -> bool:
        """Return True if the paper's numbers of the network of this name can stand beside it."""
        return self.weights not in DRAWN


def trained_network(word: str) -> TrainedNetwork:
    """Return the network that NAME, NAME=WEIGHTS or MODULE:FUNCTION stands for.

    Example:
        >>> trained_network("caffenet=orthonormal")
        TrainedNetwork(network='caffenet', weights='orthonormal')
    """
    network, _, weights = word.partition("=")
    if network not in LAYERS and not is_imported(network):
        raise UnknownName("network", network, LAYERS)
    return TrainedNetwork(network, weights or None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a reproduction; the defaults are the paper's protocol.

    Attributes:
        targets: Names of figures and tables, or 'all'; without any they are listed.
        out: Where everything is kept. The same command again goes on where it stopped.
        network: The network of all targets but 'failures'.
        images: The training images, in folders by class: the guides, and among which neighbours are
            searched. Without neighbours (fig1, fig2, fig5, tableS2, figS3) tfds:NAME:SPLIT as well.
        validation: Other images in folders of the same names: further guides of fig4.
        sources: A folder, or tfds:NAME:SPLIT, of sources; 'images' when not given.
        networks: Further networks of table1, as NAME, NAME=WEIGHTS or MODULE:FUNCTION.
        layers: The layers of the figures, shallow to deep; most figures are of the last one. Of a
            network of your own its default layer when not given.
        counted_layers: The layers where table2 counts active units.
        pairs: The number of pairs, drawn from the sources and the guides; each source in turn.
        source_count: The number of sources drawn.
        guide_count: The number of guides drawn, spread over the classes.
        delta: The maximum change of a pixel, in levels of 255.
        deltas: The maximum changes of a pixel that fig5 compares.
        solver: The minimiser; the paper's is 'lbfgs'.
        smoothing: Exact gradients, as the paper's, when 'off'; smoothed ones, where the attack and
            the solver allow them, when 'auto'.
        max_evaluations: The number of evaluations of the network and its gradient, for each pair.
        linear_evaluations: The evaluations of feature-linear; max_evaluations when not given.
        label_evaluations: The evaluations of label-opt for each of the 8 c that it tries;
            max_evaluations when not given.
        invert_evaluations: The evaluations of each inversion of fig2.
        invert_jitter: The pixels by which an inversion of fig2 is shifted at most, anew at each
            evaluation, with 'sign' as the solver (Mahendran and Vedaldi, 2016); the paper's is 0.
        rows: The number of pairs shown in fig1.
        inverted: The number of pairs shown in fig2.
        judge: Another network, as NAME or NAME=WEIGHTS, that labels the inversions of fig2; the
            network itself when not given.
        protocol: The numbers of the analysis; its seed is that of pairs and random weights as well.
        failures: Networks that the attack fails on, as NAME=WEIGHTS=FOLDER, the folder's images in
            folders by class.
        failure_deltas: The maximum changes of a pixel of the target 'failures'.
        precision: The precision of matrix products; highest is float32.
        batch_size: The number of pairs attacked at once.
        format: The format of figures' files.
    """

    targets: tuple[str, ...] = ()
    out: Path = Path("advjax-reproduce")
    network: NetworkOptions = NetworkOptions("caffenet")
    images: str | None = None
    validation: str | None = None
    sources: str | None = None
    networks: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    counted_layers: tuple[str, ...] = ()
    pairs: int = 1000
    source_count: int = 20
    guide_count: int = 3000
    delta: float = 10.0
    deltas: tuple[float, ...] = (5.0, 10.0, 15.0, 20.0, 25.0)
    solver: solvers.SolverName = "lbfgs"
    smoothing: Literal["off", "auto"] = "off"
    max_evaluations: int = 500
    linear_evaluations: int | None = None
    label_evaluations: int | None = None
    invert_evaluations: int = 500
    invert_jitter: int = 0
    rows: int = 4
    inverted: int = 1
    judge: str | None = None
    protocol: Protocol = Protocol()
    failures: tuple[str, ...] = ()
    failure_deltas: tuple[float, ...] = (5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 150.0)
    precision: Precision = "highest"
    batch_size: int = 32
    format: FigureFormat = "png"

    def __post_init__(self):
        if self.model.network not in LAYERS and not is_imported(self.model.network):
            raise UnknownName("network", self.model.network, LAYERS)
        if self.solver not in solvers.BY_NAME:
            raise UnknownName("solver", self.solver, solvers.BY_NAME)
        if self.smoothing not in ("off", "auto"):
            raise UnknownName("smoothing", self.smoothing, ("off", "auto"))
        if self.judge is not None:
            trained_network(self.judge)
        for name in (
            "pairs",
            "source_count",
            "guide_count",
            "max_evaluations",
            "linear_evaluations",
            "label_evaluations",
            "invert_evaluations",
            "rows",
            "inverted",
            "batch_size",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise AdvjaxError(f"{name} is {value}; give 1 or more")
        if self.invert_jitter < 0:
            raise AdvjaxError(f"invert_jitter is {self.invert_jitter}; give 0 or more pixels")
        if not self.deltas or not self.failure_deltas:
            raise AdvjaxError("deltas or failure_deltas is empty; give one or more")
        for delta in (self.delta, *self.deltas, *self.failure_deltas):
            if not 0 < delta < math.inf:
                raise AdvjaxError(f"delta is {delta}; give a number of levels above 0")

    @property
    def model(self) -> TrainedNetwork:
        """Return the network of all targets but 'failures'."""
        return TrainedNetwork(self.network.network or DEFAULT, self.network.weights)

    @property
    def seed(self) -> int:
        """Return the seed of pairs, random weights and the draw of reference neighbours."""
        return self.protocol.seed

    def evaluations(self, attack: str) -> int:
        """Return the solver's budget for an attack."""
        own = {"feature-linear": self.linear_evaluations, "label-opt": self.label_evaluations}
        return own.get(attack) or self.max_evaluations
