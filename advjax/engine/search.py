"""label-opt's search over c: pairs that are not done go through the lanes again."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from advjax.attacks.label import LabelOpt, Search
from advjax.engine.problems import Problem, Run, prepared
from advjax.engine.results import Pair, PairResult

Report = Callable[[int, int], None]
Solve = Callable[[Run, Iterator[Any], int | None, Report], Iterator[PairResult]]


class Attempts(NamedTuple):
    """What a pair has had so far."""

    problem: Problem
    search: Search
    best: PairResult | None = None
    size: float = np.inf  # of the best one's perturbation, if it took the label
    evaluations: int = 0
    traces: tuple[np.ndarray, ...] = ()


def search(
    run: Run, pairs: Iterator[Pair], batch_size: int | None, report: Report, solve: Solve
) -> Iterator[PairResult]:
    """Attempts with one c after the other, each pair with its own, the lanes never waiting.

    A finished attempt's successor goes before the pairs that have not begun. What is left when
    these have run out goes through the engine once more.
    """
    spec = run.spec
    assert isinstance(spec, LabelOpt)
    fresh = prepared(run, pairs)
    again: deque[Problem] = deque()
    going: dict[int, Attempts] = {}
    done = 0

    def problems() -> Iterator[Problem]:
        while (problem := again.popleft() if again else next(fresh, None)) is not None:
            if problem.index not in going:
                problem = _begun(problem)
                going[problem.index] = Attempts(problem, Search(spec.c))
            yield problem

    def tell(_, running: int) -> None:
        report(done, running + sum(each.evaluations for each in going.values()))

    while True:
        for found in solve(run, problems(), batch_size, tell):
            each = _after(spec, going.pop(found.index), found)
            if each.search.attempts == spec.attempts or each.size == 0:
                done += 1
                yield _result(each, run.plan.trace)
            else:
                going[found.index] = each
                again.append(_next(each))
        if not again:
            return


def _begun(problem: Problem) -> Problem:
    """A source that has the label already is its own answer: its box gets no width."""
    if problem.source_label != problem.label:
        return problem
    source = np.asarray(problem.source, np.float32)
    return problem._replace(box=type(problem.box)(source, source), start=source)


def _next(each: Attempts) -> Problem:
    c = np.array([each.search.c], np.float32)
    return each.problem._replace(target=each.problem.target | {"c": c})


def _after(spec: LabelOpt, each: Attempts, found: PairResult) -> Attempts:
    problem = each.problem
    taken = found.label == problem.label
    if spec.rounded:
        taken = taken and found.label_uint8 == problem.label
    change = np.float64(found.adversarial) - np.float64(problem.source)
    size = float(np.linalg.norm(change)) if taken else np.inf
    # While none has taken the label, the latest is the nearest to it: its c is the least.
    better = size < each.size if taken else each.size == np.inf
    return Attempts(
        problem=problem,
        search=each.search.after(taken),
        best=found if better else each.best,
        size=min(size, each.size),
        evaluations=each.evaluations + found.evaluations,
        traces=each.traces + (() if found.trace is None else (found.trace,)),
    )


def _result(each: Attempts, trace: bool) -> PairResult:
    assert each.best is not None
    return each.best._replace(
        evaluations=each.evaluations, trace=np.concatenate(each.traces) if trace else None
    )
