"""advjax: feature adversaries in JAX, batched (Sabour et al., ICLR 2016).

The public names. Everything else may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from advjax.transfers import TransferResult as TransferResult
    from advjax.transfers import transfer as transfer

__version__ = "0.1.0"

# The modules of the public names, which are imported when a name is first used: JAX takes a second,
# and the command line's help does without it.
_HOMES = {
    "Adversarial": "advjax.analysis",
    "Analysis": "advjax.analysis",
    "Protocol": "advjax.analysis",
    "analyse": "advjax.analysis",
    "FeatureFgrad": "advjax.attacks.feature",
    "FeatureOpt": "advjax.attacks.feature",
    "Inversion": "advjax.attacks.inversion",
    "LabelFgrad": "advjax.attacks.label",
    "LabelOpt": "advjax.attacks.label",
    "FeatureLinear": "advjax.attacks.linear",
    "imagenet_classes": "advjax.data.imagenet",
    "Preprocessing": "advjax.data.images",
    "load_images": "advjax.data.images",
    "prepare": "advjax.data.images",
    "read_image": "advjax.data.images",
    "write_png": "advjax.data.images",
    "AttackResult": "advjax.engine",
    "Pair": "advjax.engine",
    "PairResult": "advjax.engine",
    "attack": "advjax.engine",
    "attack_stream": "advjax.engine",
    "InversionResult": "advjax.engine.invert",
    "invert": "advjax.engine.invert",
    "AdvjaxError": "advjax.errors",
    "Network": "advjax.networks.network",
    "load": "advjax.networks.zoo",
    "open_run": "advjax.runs",
    "Smoothing": "advjax.smoothing",
    "ProjectedLBFGS": "advjax.solvers",
    "ScipyLBFGSB": "advjax.solvers",
    "SignMomentum": "advjax.solvers",
    "Status": "advjax.solvers",
    "TransferResult": "advjax.transfers",
    "transfer": "advjax.transfers",
}


def __getattr__(name: str) -> Any:
    """Return a public name, or a module of the package."""
    if home := _HOMES.get(name):
        value = getattr(importlib.import_module(home), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'advjax' has no attribute {name!r}")
    else:
        try:
            value = importlib.import_module(f"advjax.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"advjax.{name}":
                raise
            raise AttributeError(f"module 'advjax' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
