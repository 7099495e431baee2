"""Progress: bars on terminals and in notebooks, nothing in logs, moving from the first step on."""

import io
import sys
import types

import numpy as np
import pytest

import advjax
from advjax.display import progress_bar
from advjax.runs.pipeline import Tally
from advjax.runs.progress import Display

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 1), np.uint8)
NET = advjax.Network(lambda images: {"mean": images.mean((2, 3))}, (4, 4, 1), name="rows")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("where", "shown", "drawn"),
    [
        ("log", None, False),
        ("log", True, True),
        ("terminal", None, True),
        ("terminal", False, False),
        ("notebook", None, True),
    ],
)
def test_where_a_bar_is_drawn(where, shown, drawn, monkeypatch):
    stream = Terminal() if where == "terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}} if where == "notebook" else {})
    module = types.SimpleNamespace(get_ipython=lambda: kernel)
    monkeypatch.setitem(sys.modules, "IPython", module)
    with progress_bar(shown, total=3, desc="pictures") as bar:
        bar.update(2)
    assert ("pictures" in stream.getvalue()) is drawn


def test_a_stream_is_looked_at_after_its_first_step():
    seen = []
    advjax.attack(NET, *PIXELS, max_evaluations=40, progress=seen.append)
    assert seen[0].running == seen[0].lanes == 3  # evaluations: one of each lane
    assert (seen[-1].finished, seen[-1].running) == (3, 0)


def test_slow_steps_are_looked_at_one_by_one(monkeypatch):
    """However slow they are, results do not depend on when the host looks."""
    usual = advjax.attack(NET, *PIXELS, max_evaluations=10)
    monkeypatch.setattr("advjax.engine.loop.LOOK", 0.0)
    seen = []
    slow = advjax.attack(NET, *PIXELS, max_evaluations=10, progress=seen.append)
    assert {int(n) for n in np.diff([0, *(at.steps for at in seen)])} == {3}  # one of each lane
    np.testing.assert_array_equal(slow.adversarial, usual.adversarial)


def test_a_runs_bar_counts_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    display = Display(tmp_path / "note", total=20, done=4, failed=1, budget=100, bar=None)
    counts = [display.bar.n]
    for tally in (Tally(0, 0, 16, 0.5), Tally(0, 0, 900, 0.5), Tally(16, 2, 0, 0.1)):
        display(tally)
        counts.append(display.bar.n)
    assert counts == [400, 416, 1300, 2000]
    assert display.bar.total == 2000
    assert "20 of 20 pairs done, 3 failed" in display.bar.postfix
    display.close()
