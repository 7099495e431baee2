"""Pairs that are solved several times: after each attempt a pair may get a new target."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from advjax.attacks.base import Attempt
from advjax.engine.loop import Solved
from advjax.engine.problems import Problems
from advjax.engine.results import Progress, ProgressCallback
from advjax.engine.stream import Problem, Stream
from advjax.results import PairResult

Solve = Callable[[Stream, Problems, int | None, ProgressCallback], Iterator[Solved]]


class Attempts(NamedTuple):
    """The attempts on one pair so far."""

    attempts: tuple[Attempt, ...] = ()
    best: PairResult | None = None
    evaluations: int = 0
    traces: tuple[np.ndarray, ...] = ()


def solve_attempts(
    stream: Stream,
    problems: Problems,
    batch_size: int | None,
    callback: ProgressCallback,
    solve: Solve,
) -> Iterator[Solved]:
    """Solve each pair until its attack has no next target.

    The next attempt on a pair enters the lanes before the pairs that have not begun, so that no
    lane waits.
    """
    under_way: dict[int, Attempts] = {}
    done = 0

    def report(at: Progress) -> bool:
        earlier = sum(each.evaluations for each in under_way.values())
        return bool(callback(at._replace(finished=done, running=at.running + earlier)))

    for problem, result in solve(stream, problems, batch_size, report):
        before = under_way.pop(problem.index, Attempts())
        each = _after(stream, problem, before, result)
        target = stream.attack.next_target(problem.target, each.attempts)
        if target is None:
            done += 1
            yield problem, _result(each, stream.plan.trace)
        else:
            under_way[problem.index] = each
            problems.again.append(stream.place(problem._replace(target=target)))


def _after(stream: Stream, problem: Problem, each: Attempts, result: PairResult) -> Attempts:
    label = problem.label
    change = np.float64(result.adversarial) - np.float64(problem.source)
    attempt = Attempt(
        takes_label=result.label == label,
        takes_label_uint8=result.label_uint8 == label,
        change=float(np.linalg.norm(change)),
    )
    attempts = (*each.attempts, attempt)
    return Attempts(
        attempts=attempts,
        best=result if stream.attack.is_best(attempts) else each.best,
        evaluations=each.evaluations + result.evaluations,
        traces=each.traces + (() if result.trace is None else (result.trace,)),
    )


def _result(each: Attempts, trace: bool) -> PairResult:
    assert each.best is not None
    return each.best._replace(
        evaluations=each.evaluations, trace=np.concatenate(each.traces) if trace else None
    )
