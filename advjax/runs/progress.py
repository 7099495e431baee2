"""A run's progress: a bar on a terminal, a line a minute elsewhere, a file for other shells."""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advjax import files
from advjax.display import progress_bar
from advjax.errors import AdvjaxError

if TYPE_CHECKING:
    from advjax.runs.pipeline import Tally

LOGGED, NOTED = 60.0, 5.0  # seconds between two lines without a terminal, two notes for others


class Display:
    """The progress of the work, shown and noted in a file.

    Args:
        note: The file for `advjax run status`; removed at the end.
        total: Number of pairs of this process.
        done: Number of these that earlier processes have done.
        failed: Number of the done ones that failed.
        budget: Maximum number of evaluations of a pair.
        bar: None: a bar on a terminal, lines elsewhere. False: neither.
    """

    def __init__(
        self, note: Path, total: int, done: int, failed: int, budget: int, bar: bool | None
    ):
        self.note, self.total, self.done, self.failed = note, total, done, failed
        self.budget, self.begun = budget, time.monotonic()
        # It counts evaluations: it moves long before the first pair is done, and steadily.
        self.bar = progress_bar(
            bar, total=total * budget, initial=done * budget, unit="evaluation", unit_scale=True
        )
        self.lines = bar is None and self.bar.disable
        self.logged = self.noted = self.begun

    def __call__(self, tally: "Tally") -> None:
        """Show and note the progress since this object was made."""
        now = time.monotonic()
        at = self.figures(tally)
        if not self.bar.disable:
            self.bar.set_postfix_str(
                f"{at['pairs']:,} of {at['total']:,} pairs done, {at['failed']:,} failed",
                refresh=False,
            )
            # A pair that ended early counts as its whole budget, so that the bar ends at its end.
            self.bar.update(at["pairs"] * self.budget + tally.running - self.bar.n)
        if self.lines and now - self.logged > LOGGED:
            self.logged = now
            print(f"advjax: {described(at)}", file=sys.stderr, flush=True)
        if now - self.noted > NOTED:
            self.noted = now
            with contextlib.suppress(AdvjaxError):  # the writer of shards reports a full disk
                files.write_text(self.note, json.dumps(at))

    def figures(self, tally: "Tally") -> dict[str, Any]:
        """Return the progress at this moment, as JSON values."""
        seconds = time.monotonic() - self.begun
        # Pairs in the lanes count as the part of their budget that they have used.
        rate = (tally.rows + tally.running / self.budget) / max(seconds, 1e-9)
        pairs = self.done + tally.rows
        left = (self.total - pairs - tally.running / self.budget) / rate if rate else None
        return {
            "pairs": pairs,
            "total": self.total,
            "failed": self.failed + tally.failed,
            "active": tally.active,
            "pairs_per_second": rate,
            "seconds_left": None if left is None else max(left, 0.0),
            "process": os.getpid(),
            "host": socket.gethostname(),
            "time": time.time(),
        }

    def close(self) -> None:
        """Remove the bar and the note."""
        self.bar.close()
        with contextlib.suppress(OSError):
            self.note.unlink()


def described(at: dict[str, Any]) -> str:
    """Return one line with the values of `Display.figures`."""
    left = at["seconds_left"]
    return (
        f"{at['pairs']:,} of {at['total']:,} pairs, {at['failed']:,} failed, "
        f"{at['pairs_per_second']:.3g} pairs/s, {at['active']:.0%} of lanes active, "
        + ("time left unknown" if left is None else f"{duration(left)} left")
    )


def duration(seconds: float) -> str:
    """Return a duration as text, in its two largest units.

    Example:
        >>> duration(3700), duration(59.4), duration(200_000)
        ('1 h 2 min', '59 s', '2 d 8 h')
    """
    for unit, size, part, small in (
        ("d", 24, 3600, "h"),
        ("h", 60, 60, "min"),
        ("min", 60, 1, "s"),
    ):
        large, rest = divmod(round(seconds / part), size)
        if large:
            return f"{large} {unit} {rest} {small}"
    return f"{round(seconds)} s"
