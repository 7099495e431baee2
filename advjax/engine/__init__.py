"""The engine: B lanes on the device, any number of pairs going through them.

`attack` (arrays) and `attack_stream` (an iterator) are two doors to the same thing. Compiled chunks
take a few steps of every lane (`programs`); in between the host takes out what has finished and
puts the next pairs into the free lanes (`loop`), which neither recompiles nor touches the others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Literal

import jax
import numpy as np

from advjax.attacks.box import check_delta
from advjax.attacks.feature import FeatureOpt
from advjax.engine.loop import Report, solve, solve_on_host
from advjax.engine.problems import BLOCK, Run, read_ahead
from advjax.engine.programs import Plan
from advjax.engine.results import AttackResult, Pair, PairResult, Progress, stack
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.network import Network
from advjax.solvers import ProjectedLBFGS, ScipyLBFGSB, Solver

__all__ = ["AttackResult", "Pair", "PairResult", "Progress", "attack", "attack_stream"]

PRECISIONS = ("highest", "tensorfloat32", "bfloat16")


def attack_stream(
    net: Network,
    pairs: Iterable[Pair | tuple[Any, ...]],
    *,
    layer: str | Sequence[str] | None = None,
    layer_weights: Sequence[float] | None = None,
    delta: float = 10.0,
    solver: Solver | ScipyLBFGSB | None = None,
    batch_size: int | Literal["auto"] = 32,
    target_ratio: float | None = None,
    until_label: bool = False,
    start: Literal["source", "random"] = "source",
    seed: int = 0,
    trace: bool = False,
    ordered: bool = True,
    precision: str = "highest",
    devices: Sequence[Any] | None = None,
    progress: bool | Callable[[Progress], bool | None] | None = False,
) -> Iterator[PairResult]:
    """Attacks a stream of pairs of any length, `batch_size` at a time, in constant memory.

    A pair's result does not depend on the other pairs, on its place in the stream (with the start
    at the source) or on its lane. Ctrl-C ends the stream with KeyboardInterrupt once the pairs that
    are finished have been yielded.

    Args:
        net: The network.
        pairs: `(source, guide)`, or a `Pair` with a `delta` or `target_ratio` of its own. Images
            are [h, w, c], 0..255, or paths of image files, which `net.preprocessing` brings to the
            network's size. They are read in a thread of their own, a little ahead.
        layer: The layer to match, or several; the network's customary one when None.
        layer_weights: One number for each layer; 1 when None.
        delta: Half-width of the box in levels of 255.
        solver: `advjax.ProjectedLBFGS()` when None; see `advjax.solvers`.
        batch_size: Lanes, over all devices; "auto": as many as the devices' memory holds. A batch
            that turns out too large is halved, with a warning.
        target_ratio: A pair is done when its distance is this share of the initial one.
        until_label: A pair is done when the network gives it the guide's label.
        start: Where a pair starts: its source, or a random point of the box, drawn from `seed` and
            the pair's place.
        seed: See `start`.
        trace: Keep the distance at each evaluation.
        ordered: Yield in the order of `pairs`; else as they finish.
        precision: Of matrix products while solving: "highest" (float32), "tensorfloat32" or
            "bfloat16". Reported distances are evaluated again at "highest".
        devices: Where the lanes live; the first local device when None.
        progress: Show a bar on standard error; None: if it is a terminal. Or a function that is
            told after each chunk how far the stream is; when it answers true, the stream ends once
            the pairs that are finished have been yielded.

    Yields:
        One result per pair.

    Raises:
        AdvjaxError: An argument or an image that cannot be used.
        UnknownName: A layer that the network does not have.

    Example:
        >>> import advjax
        >>> net = advjax.load("lenet", "orthonormal")
        >>> source, guide = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
        >>> solver = advjax.ProjectedLBFGS(max_evaluations=5)
        >>> for result in attack_stream(net, [(source, guide)], delta=20.0, solver=solver):
        ...     print(result.index, result.ratio < 1, result.status.name)
        0 True MAX_EVALUATIONS
    """
    layers = net.check_layers(layer)
    spec = FeatureOpt(layers, None if layer_weights is None else tuple(layer_weights))
    solver = ProjectedLBFGS() if solver is None else solver
    if solver.max_evaluations < 1:
        raise AdvjaxError(f"max_evaluations is {solver.max_evaluations}; give 1 or more")
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise AdvjaxError(f"batch_size is {batch_size!r}; give 1 or more, or 'auto'")
    if target_ratio is not None and not 0 < target_ratio < 1:
        raise AdvjaxError(f"target_ratio is {target_ratio}; give a share between 0 and 1")
    if start not in ("source", "random"):
        raise UnknownName("start", start, ("source", "random"))
    if seed < 0:
        raise AdvjaxError(f"seed is {seed}; give a whole number, 0 or more")
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    if until_label and net.output is None:
        raise AdvjaxError(f"until_label needs an output layer, and {net.name} names none")
    plan = Plan(
        function=net.function,
        with_params=net.params is not None,
        spec=spec,
        solver=solver,
        input_shape=net.input_shape,
        output=net.output,
        until_label=until_label,
        trace=trace,
        precision=precision,
        devices=tuple(devices) if devices else (jax.local_devices()[0],),
    )
    run = Run(net, plan, check_delta(delta), target_ratio, start, seed)
    total = len(pairs) if isinstance(pairs, Sized) else None
    lanes = None if batch_size == "auto" else batch_size
    if total is not None and total < (lanes or BLOCK):
        lanes = max(1, total)
    source = read_ahead(net, pairs, 2 * max(lanes or BLOCK, BLOCK))
    report, close = _report(plan, total, progress)
    run_pairs = solve_on_host if isinstance(solver, ScipyLBFGSB) else solve
    results = run_pairs(run, source, lanes, report)
    return _finally(close, _in_order(results) if ordered else results)


def _finally(close: Callable[[], None], results: Iterator[PairResult]) -> Iterator[PairResult]:
    try:
        yield from results
    finally:
        close()


def _in_order(results: Iterator[PairResult]) -> Iterator[PairResult]:
    early: dict[int, PairResult] = {}
    following = 0
    for result in results:
        early[result.index] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _report(
    plan: Plan, total: int | None, progress: bool | Report | None
) -> tuple[Report, Callable[[], None]]:
    """A bar that counts evaluations: what to call after each chunk, and at the end."""
    if callable(progress):
        return progress, (lambda: None)
    if progress is False:
        return (lambda at: None), (lambda: None)
    from tqdm import tqdm

    budget = plan.solver.max_evaluations
    bar = tqdm(
        total=None if total is None else total * budget,
        unit="evaluation",
        unit_scale=True,
        disable=None if progress is None else False,
    )

    def report(at: Progress) -> None:
        # A pair that ended early counts as its whole budget, so that the bar ends at its end.
        bar.set_postfix_str(f"{at.finished} pairs done", refresh=False)
        bar.update(at.finished * budget + at.running - bar.n)

    return report, bar.close


def attack(
    net: Network,
    sources: Any,
    guides: Any,
    *,
    delta: float | Sequence[float] = 10.0,
    progress: bool | None = None,
    **settings: Any,
) -> AttackResult:
    """Finds, in a small box around each source, an image whose representation is the guide's.

    Minimises || phi(I) - phi(guide) ||^2 subject to |I - source| <= delta and 0 <= I <= 255 for
    each pair (Sabour et al. 2016, eqs. 1 and 2). The box holds exactly, also after rounding.

    Args:
        net: The network.
        sources: [n, h, w, c], uint8 or float32, 0..255; or one image.
        guides: As `sources`, one for each.
        delta: Half-width of the box in levels of 255; one for all pairs or one for each.
        progress: Show a bar on standard error; None: if it is a terminal.
        **settings: `layer`, `solver`, `batch_size`, `target_ratio`, ...: see `attack_stream`.

    Returns:
        The results, in the order of the pairs.

    Raises:
        AdvjaxError: An argument or an image that cannot be used.

    Example:
        >>> import advjax
        >>> net = advjax.load("lenet", "orthonormal")
        >>> images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
        >>> result = attack(net, images, images[::-1], solver=advjax.ProjectedLBFGS(5), delta=20.0)
        >>> result.adversarial.shape, bool((result.ratio < 1).all())
        ((2, 28, 28, 1), True)
    """
    batches = []
    for name, images in (("sources", sources), ("guides", guides)):
        images = images if isinstance(images, jax.Array) else np.asarray(images)
        images = images[None] if images.shape == net.input_shape else images
        batches.append(np.asarray(net.check_images(images, name)))
    if len(batches[0]) != len(batches[1]):
        raise AdvjaxError(
            f"sources has {len(batches[0])} images and guides has {len(batches[1])}; give one "
            "guide for each source"
        )
    if not len(batches[0]):
        raise AdvjaxError("sources is empty; give at least one pair")
    deltas = [check_delta(d) for d in np.atleast_1d(np.asarray(delta, object))]
    if len(deltas) not in (1, len(batches[0])):
        raise AdvjaxError(
            f"delta has {len(deltas)} values for {len(batches[0])} pairs; give one or one for each"
        )
    deltas = deltas * len(batches[0]) if len(deltas) == 1 else deltas
    pairs = list(zip(*batches, deltas, strict=True))
    results = list(attack_stream(net, pairs, progress=progress, **settings))
    return stack(results)
