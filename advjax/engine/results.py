"""The pairs that go into the engine, and its progress; `advjax.results` is what comes out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


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
