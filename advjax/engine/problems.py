"""Pairs on their way to the lanes: read in a thread, sent to the network, and made problems."""

import contextlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from advjax.engine.results import Pair
from advjax.engine.stream import BLOCK, Begun, Problem, Stream

PATIENCE = 5.0  # seconds that the end of a stream waits for a source that is giving its next pair


class Problems:
    """The problems of pairs in their order, prepared by blocks, a little ahead.

    Pairs are taken from their iterator in a thread, which starts when the first one is wanted.

    Attributes:
        again: Problems that go into the lanes before all others.
    """

    def __init__(self, stream: Stream, pairs: Iterator[Pair], limit: int):
        self.again: deque[Problem] = deque()
        self._stream, self._pairs = stream, pairs
        self._begun: deque[Begun] = deque()
        self._ready: deque[Problem] = deque()
        self._read: queue.Queue[Any] = queue.Queue(-(-limit // BLOCK))
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._ended = False

    @property
    def exhausted(self) -> bool:
        """True if nothing is left of all that is known so far."""
        return self._ended and not (self.again or self._ready or self._begun)

    def take(self, *, wait: bool = True) -> Problem | None:
        """Return the next problem; None after the last one.

        Without `wait`, None, too, if the next pairs have not been read yet.
        """
        if self.again:
            return self.again.popleft()
        if not self._ready:
            if not self._begun and not self._begin(wait):
                return None
            self._complete()
        return self._ready.popleft()

    def prefetch(self, count: int, busy: Callable[[], bool]) -> None:
        """Make up to `count` problems ready while the device is busy, and wait for nothing.

        As many more are sent to the network. A device comes to them after what it is busy with, so
        that they can be made ready the next time.
        """
        while len(self._ready) + BLOCK * len(self._begun) < 2 * count and self._begin(wait=False):
            pass
        while len(self._ready) < count and self._begun and self._begun[0].is_ready() and busy():
            self._complete()

    def close(self) -> None:
        """End the thread, and wait for it: the source is not used any more after that.

        A source that gives nothing within `PATIENCE` is left alone with its thread.
        """
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            self._read.get_nowait()  # the thread may be waiting for room
        # Garbage is collected in any thread: an abandoned stream can be closed in the reader's own.
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(PATIENCE)

    def _begin(self, wait: bool) -> bool:
        """Send the next block of pairs to the network, if there is one."""
        if self._thread is None:
            # The thread is not given the stream: the last reference to a network's arrays, dropped
            # in a thread while Python ends, aborts the process (in JAX's C++ code).
            arguments = self._pairs, self._read, self._stop
            self._thread = threading.Thread(
                target=_read, args=arguments, name="advjax-reader", daemon=True
            )
            self._thread.start()
        if self._ended:
            return False
        try:
            block = self._read.get(wait)
        except queue.Empty:
            return False
        if isinstance(block, BaseException):
            raise block
        if not block:
            self._ended = True
            return False
        self._begun.append(self._stream.begin(block))
        return True

    def _complete(self) -> None:
        self._ready.extend(self._stream.complete(self._begun.popleft()))


def _read(pairs: Iterator[Pair], blocks: queue.Queue[Any], stop: threading.Event) -> None:
    """Read pairs by blocks, and an empty block at their end, until it is to stop."""
    numbered = enumerate(pairs)
    try:
        while not stop.is_set():
            block = list(itertools.islice(numbered, BLOCK))
            blocks.put(block)
            if not block:
                return
    except BaseException as error:  # whatever it is, it belongs to the consumer
        blocks.put(error)
