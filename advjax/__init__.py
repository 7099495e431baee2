"""advjax: feature adversaries in JAX, batched (Sabour et al., ICLR 2016).

The public names. Everything else may change.
"""

from advjax.analysis import Adversarial as Adversarial
from advjax.analysis import Analysis as Analysis
from advjax.analysis import Protocol as Protocol
from advjax.analysis import analyse as analyse
from advjax.attacks.feature import FeatureFgrad as FeatureFgrad
from advjax.attacks.feature import FeatureOpt as FeatureOpt
from advjax.attacks.inversion import Inversion as Inversion
from advjax.attacks.label import LabelFgrad as LabelFgrad
from advjax.attacks.label import LabelOpt as LabelOpt
from advjax.attacks.linear import FeatureLinear as FeatureLinear
from advjax.data.imagenet import imagenet_classes as imagenet_classes
from advjax.data.images import Preprocessing as Preprocessing
from advjax.data.images import load_images as load_images
from advjax.data.images import prepare as prepare
from advjax.data.images import read_image as read_image
from advjax.data.images import write_png as write_png
from advjax.engine import AttackResult as AttackResult
from advjax.engine import Pair as Pair
from advjax.engine import PairResult as PairResult
from advjax.engine import attack as attack
from advjax.engine import attack_stream as attack_stream
from advjax.engine.invert import InversionResult as InversionResult
from advjax.engine.invert import invert as invert
from advjax.errors import AdvjaxError as AdvjaxError
from advjax.networks.network import Network as Network
from advjax.networks.zoo import load as load
from advjax.runs import open_run as open_run
from advjax.smoothing import Smoothing as Smoothing
from advjax.solvers import ProjectedLBFGS as ProjectedLBFGS
from advjax.solvers import ScipyLBFGSB as ScipyLBFGSB
from advjax.solvers import SignMomentum as SignMomentum
from advjax.solvers import Status as Status
from advjax.transfer import TransferResult as TransferResult
from advjax.transfer import transfer as transfer

__version__ = "0.1.0"
