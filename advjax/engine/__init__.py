"""The engine: B lanes on the device, any number of pairs going through them.

Compiled chunks take a few steps of every lane (`programs`); in between the host takes out what has
finished and puts the next pairs into the free lanes (`loop`), which neither recompiles nor touches
the others. `stream` prepares pairs and measures results; `attempts` solves a pair several times;
`api` holds the public functions. The engine knows of an attack only `attacks/base.py`.
"""

from advjax.choices import Precision
from advjax.engine.api import (
    attack,
    attack_stream,
    choose_smoothing,
    make_plan,
    resolve,
)
from advjax.engine.results import Pair, Progress
from advjax.engine.stream import Stream
from advjax.results import AttackResult, PairResult

__all__ = [
    "AttackResult",
    "Pair",
    "PairResult",
    "Precision",
    "Progress",
    "Stream",
    "attack",
    "attack_stream",
    "choose_smoothing",
    "make_plan",
    "resolve",
]
