"""Continuous batching: which pair is in which lane, and when the host looks."""

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from advjax.engine.problems import Problem, Run, prepared, without_batch
from advjax.engine.results import Pair, PairResult, Progress
from advjax.solvers import Box, ScipyLBFGSB, Status

CHUNK = 16  # steps between two looks of the host, at most
MOST_LANES, MOST_LANES_CPU = 1024, 16  # that batch_size="auto" chooses

Report = Callable[[Progress], bool | None]
"""Told after each chunk how far the stream is; when it answers true, the stream ends there."""


def solve(
    run: Run, pairs: Iterator[Pair], batch_size: int | None, report: Report
) -> Iterator[PairResult]:
    """Continuous batching: finished lanes are taken out and filled again, the others go on."""
    problems = prepared(run, pairs)
    waiting = list(itertools.islice(problems, 1))
    if not waiting:
        return
    devices = len(run.plan.devices)
    if batch_size is None:
        share = _lanes_that_fit(run, waiting[0].target)
    else:
        share = -(-batch_size // devices)  # lanes of one device
    lanes, occupants = None, []
    exhausted, done = False, 0
    while True:
        interrupted = None
        try:
            if lanes is None:
                lanes = run.empty_lanes(share * devices, waiting[0].target)
                occupants: list[Problem | None] = [None] * (share * devices)
            for lane, occupant in enumerate(occupants):
                if occupant is None and not exhausted:
                    problem = waiting.pop() if waiting else next(problems, None)
                    exhausted = problem is None
                    if problem is not None:
                        occupants[lane] = problem
                        lanes = run.insert(lanes, lane, problem)
            if not any(occupants):
                return
            # A device looks up when an eighth of its lanes can be filled again, and at the end of
            # the stream, when nothing is left to fill them with, only once all are done.
            idle = np.array([o is None for o in occupants]).reshape(devices, share).sum(1)
            enough = np.full(devices, share) if exhausted else idle + -(-share // 8)
            lanes, _ = run.programs.advance(
                run.net.params, lanes, np.int32(CHUNK), enough.astype(np.int32)
            )
            status = np.asarray(lanes.state.status)
        except KeyboardInterrupt as error:
            if lanes is None:
                raise
            interrupted, status = error, np.asarray(lanes.state.status)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or share == 1:
                raise
            # The lanes may be lost with the call that they were donated to: their pairs start anew.
            warnings.warn(
                f"out of memory with {share} pairs on a device; going on with {share // 2}",
                stacklevel=2,
            )
            waiting += [occupant for occupant in reversed(occupants) if occupant is not None]
            lanes, occupants, exhausted, share = None, [], False, share // 2
            continue
        finished = [
            (lane, problem)
            for lane, problem in enumerate(occupants)
            if problem is not None and status[lane] != Status.RUNNING
        ]
        done += len(finished)
        active = sum(occupant is not None for occupant in occupants)
        for lane, _ in finished:
            occupants[lane] = None
        running = np.asarray(lanes.state.evaluations)[[o is not None for o in occupants]]
        stop = report(Progress(done, int(running.sum()), active, len(occupants)))
        yield from run.harvest(lanes, finished)
        if interrupted:
            raise interrupted
        if stop:
            return


def _lanes_that_fit(run: Run, target: dict[str, np.ndarray]) -> int:
    """How many lanes of one device its free memory holds, from the compiled program's own account.

    A power of two, at most MOST_LANES, and on a CPU at most MOST_LANES_CPU: beyond that more lanes
    make nothing faster there.
    """
    device = run.plan.devices[0]
    most = MOST_LANES_CPU if device.platform == "cpu" else MOST_LANES
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    probe = min(8, most)
    devices = len(run.plan.devices)
    lanes = jax.eval_shape(lambda: run.empty_lanes(probe * devices, target))
    enough = jax.ShapeDtypeStruct((devices,), jnp.int32)
    limit = jax.ShapeDtypeStruct((), jnp.int32)
    program = run.programs.advance.lower(run.net.params, lanes, limit, enough).compile()
    account = program.memory_analysis()
    if account is None:
        return probe
    lane = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(lanes)) / devices
    each = (lane + account.temp_size_in_bytes) / probe
    fit = max(1.0, 0.8 * free / each)
    return int(min(most, 2 ** math.floor(math.log2(fit))))


def solve_on_host(
    run: Run, pairs: Iterator[Pair], batch_size: int | None, report: Report
) -> Iterator[PairResult]:
    """One pair after the other through SciPy; the objective and its gradient are compiled."""
    solver = run.plan.solver
    assert isinstance(solver, ScipyLBFGSB)
    for done, problem in enumerate(prepared(run, pairs)):
        scale, threshold, goal = run.goals(problem)
        labels, target = [], without_batch(problem.target)

        def evaluate(x, target=target, scale=scale, labels=labels):
            value, gradient, label = run.programs.evaluation(run.net.params, x, target, scale)
            labels.append(int(label))
            return value, gradient

        def stop(count, value, point, done=done, threshold=threshold, goal=goal, labels=labels):
            report(Progress(done, count, 1, 1))
            if value <= threshold:
                return Status.TARGET
            return Status.LABEL if run.plan.until_label and labels[-1] == goal else None

        bounds = Box(*(bound.reshape(-1) for bound in problem.box))
        found = solver.minimize(evaluate, problem.start.reshape(-1), bounds, stop)
        yield from run.measure(
            [problem],
            found.x[None],
            np.array([found.evaluations]),
            np.array([found.status]),
            np.sqrt(found.values / scale).astype(np.float32)[None],
        )
        if report(Progress(done + 1, 0, 1, 1)):
            return
