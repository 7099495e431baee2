"""Pairs that are solved several times: after each attempt a pair may get a new target."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from advjax.attacks.base import Attempt
from advjax.engine.results import Pair, Progress, ProgressCallback
from advjax.engine.stream import Problem, Stream, prepared
from advjax.results import PairResult

Solve = Callable[[Stream, Iterator[Any], int | None, ProgressCallback], Iterator[PairResult]]


class Attempts(NamedTuple):
    """The attempts on one pair so far."""

    problem: Problem  # with the target of the attempt under way
    attempts: tuple[Attempt, ...] = ()
    best: PairResult | None = None
    evaluations: int = 0
    traces: tuple[np.ndarray, ...] = ()


def solve_attempts(
    stream: Stream,
    pairs: Iterator[Pair],
    batch_size: int | None,
    callback: ProgressCallback,
    solve: Solve,
) -> Iterator[PairResult]:
    """Solve each pair until its attack has no next target.

    The next attempt on a pair enters the lanes before the pairs that have not begun, so that no
    lane waits. Attempts that follow after the last of these pairs go through the engine again.
    """
    fresh = prepared(stream, pairs)
    again: deque[Problem] = deque()
    under_way: dict[int, Attempts] = {}
    done, stopped = 0, False

    def problems() -> Iterator[Problem]:
        while (problem := again.popleft() if again else next(fresh, None)) is not None:
            under_way.setdefault(problem.index, Attempts(problem))
            yield problem

    def report(at: Progress) -> bool:
        nonlocal stopped
        earlier = sum(each.evaluations for each in under_way.values())
        stopped = bool(callback(at._replace(finished=done, running=at.running + earlier)))
        return stopped

    while True:
        for result in solve(stream, problems(), batch_size, report):
            each = _after(stream, under_way.pop(result.index), result)
            target = stream.attack.next_target(each.problem.target, each.attempts)
            if target is None:
                done += 1
                yield _result(each, stream.plan.trace)
            else:
                problem = each.problem._replace(target=target)
                under_way[result.index] = each._replace(problem=problem)
                again.append(problem)
        if stopped or not again:
            return


def _after(stream: Stream, each: Attempts, result: PairResult) -> Attempts:
    label = each.problem.label
    change = np.float64(result.adversarial) - np.float64(each.problem.source)
    attempt = Attempt(
        takes_label=result.label == label,
        takes_label_uint8=result.label_uint8 == label,
        change=float(np.linalg.norm(change)),
    )
    attempts = (*each.attempts, attempt)
    return Attempts(
        problem=each.problem,
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
