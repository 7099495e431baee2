"""The public names and the modules, each imported when it is first used."""

from . import (
    analysis as analysis,
    attacks as attacks,
    bank as bank,
    checkpoints as checkpoints,
    choices as choices,
    data as data,
    display as display,
    engine as engine,
    errors as errors,
    memory as memory,
    metrics as metrics,
    networks as networks,
    results as results,
    runs as runs,
    smoothing as smoothing,
    solvers as solvers,
    transfers as transfers,
    transforms as transforms,
)
from .analysis import Adversarial as Adversarial
from .analysis import Analysis as Analysis
from .analysis import Protocol as Protocol
from .analysis import analyse as analyse
from .attacks.feature import FeatureAway as FeatureAway
from .attacks.feature import FeatureContrast as FeatureContrast
from .attacks.feature import FeatureFgrad as FeatureFgrad
from .attacks.feature import FeatureOpt as FeatureOpt
from .attacks.inversion import Inversion as Inversion
from .attacks.label import LabelFgrad as LabelFgrad
from .attacks.label import LabelOpt as LabelOpt
from .attacks.linear import FeatureLinear as FeatureLinear
from .attacks.perceptual import Perceptual as Perceptual
from .attacks.until import Until as Until
from .data.imagenet import imagenet_classes as imagenet_classes
from .data.images import Preprocessing as Preprocessing
from .data.images import load_images as load_images
from .data.images import prepare as prepare
from .data.images import read_image as read_image
from .data.images import write_png as write_png
from .engine import AttackResult as AttackResult
from .engine import Pair as Pair
from .engine import PairResult as PairResult
from .engine import attack as attack
from .engine import attack_stream as attack_stream
from .engine.invert import InversionResult as InversionResult
from .engine.invert import invert as invert
from .errors import AdvjaxError as AdvjaxError
from .memory import keep_freed_memory as keep_freed_memory
from .networks.ensemble import ensemble as ensemble
from .networks.network import Network as Network
from .networks.zoo import load as load
from .runs import open_run as open_run
from .smoothing import Smoothing as Smoothing
from .solvers import ProjectedLBFGS as ProjectedLBFGS
from .solvers import ScipyLBFGSB as ScipyLBFGSB
from .solvers import SignMomentum as SignMomentum
from .solvers import Status as Status
from .transfers import TransferMatrix as TransferMatrix
from .transfers import TransferResult as TransferResult
from .transfers import survivors as survivors
from .transfers import transfer as transfer
from .transforms import Transforms as Transforms

__version__: str
