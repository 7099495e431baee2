"""The values that go into the engine and come out of it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from advjax.solvers import Status


class Pair(NamedTuple):
    """The source and the guide of one attack: images [h, w, c] as the network takes them.

    The guide may also be several images [k, h, w, c], whose activations are averaged. Or it is the
    activations themselves, a dict of one array for each layer. An attack on labels needs no guide.
    """

    source: np.ndarray
    guide: Any
    delta: float | None = None  # the stream's own when None
    target_ratio: float | None = None  # likewise
    index: int | None = None  # seeds a random start; the pair's index in the stream when None
    label: int | None = None  # to take; the guide's when None


class Progress(NamedTuple):
    """The progress of a stream, after each chunk of steps."""

    finished: int  # pairs
    running: int  # evaluations, so far, of the pairs that are not finished
    active: int  # lanes that had a pair to work on
    lanes: int
    steps: int  # of all lanes together, also those they idled through


ProgressCallback = Callable[[Progress], bool | None]
"""Called after each chunk; if it returns True, the stream ends there."""


class PairResult(NamedTuple):
    """The result of one pair; its distances are computed by the attack at `highest` precision."""

    index: int  # of the pair in the stream, from 0
    adversarial: Float[np.ndarray, "h w c"]
    adversarial_uint8: UInt8[np.ndarray, "h w c"]
    ratio: float  # distance / initial_distance
    distance: float  # of the adversarial to the guide; NaN without a guide
    initial_distance: float  # of the source to the guide
    distance_uint8: float
    evaluations: int
    status: Status
    source_label: int | None  # None where the network has no `output`
    guide_label: int | None
    label: int | None
    label_uint8: int | None
    trace: Float[np.ndarray, "e"] | None  # the objective at each evaluation
    # The attack's objective at the adversarial, in the solver's precision. feature-opt: the squared
    # distance; feature-linear: that of the linear map.
    objective: float = math.nan


class AttackResult(NamedTuple):
    """The results of n pairs in their order; the fields are those of `PairResult`."""

    adversarial: Float[np.ndarray, "n h w c"]
    adversarial_uint8: UInt8[np.ndarray, "n h w c"]
    ratio: Float[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    initial_distance: Float[np.ndarray, "n"]
    distance_uint8: Float[np.ndarray, "n"]
    evaluations: Int[np.ndarray, "n"]
    status: Int[np.ndarray, "n"]  # advjax.Status
    source_label: Int[np.ndarray, "n"] | None
    guide_label: Int[np.ndarray, "n"] | None
    label: Int[np.ndarray, "n"] | None
    label_uint8: Int[np.ndarray, "n"] | None
    trace: Float[np.ndarray, "n e"] | None  # NaN after a pair's last evaluation
    objective: Float[np.ndarray, "n"] | None = None


def stack(results: Sequence[PairResult]) -> AttackResult:
    """Stack the results of single pairs into arrays over them."""
    longest = max((len(r.trace) for r in results if r.trace is not None), default=0)

    def column(name: str) -> Any:
        values = [getattr(result, name) for result in results]
        if any(value is None for value in values):
            return None
        if name == "trace":
            values = [np.pad(v, (0, longest - len(v)), constant_values=np.nan) for v in values]
        return np.asarray(values, np.float32 if isinstance(values[0], float) else None)

    return AttackResult(**{name: column(name) for name in AttackResult._fields})
