"""The engine: B lanes on the device, any number of pairs going through them.

`attack` (arrays) and `attack_stream` (an iterator) are two doors to the same thing. Compiled chunks
take a few steps of every lane (`programs`); in between the host takes out what has finished and
puts the next pairs into the free lanes (`loop`), which neither recompiles nor touches the others.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Literal

import jax
import numpy as np

from advjax.attacks.box import check_delta
from advjax.attacks.feature import FeatureFgrad, FeatureOpt
from advjax.attacks.inversion import Inversion
from advjax.attacks.label import LabelFgrad, LabelOpt
from advjax.attacks.linear import FeatureLinear
from advjax.engine.loop import solve, solve_on_host
from advjax.engine.problems import BLOCK, Run, read_ahead
from advjax.engine.programs import Plan
from advjax.engine.results import AttackResult, Pair, PairResult, stack
from advjax.engine.search import search
from advjax.engine.signed_step import SignedStep
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.network import Network
from advjax.solvers import ProjectedLBFGS, ScipyLBFGSB, Solver

__all__ = ["AttackResult", "Pair", "PairResult", "attack", "attack_stream"]

PRECISIONS = ("highest", "tensorfloat32", "bfloat16")
ATTACKS = {
    kind.name: kind for kind in (FeatureOpt, FeatureLinear, FeatureFgrad, LabelOpt, LabelFgrad)
}
LABEL_SOLVER = ProjectedLBFGS(max_evaluations=100)
Attack = FeatureOpt | FeatureLinear | FeatureFgrad | LabelOpt | LabelFgrad | Inversion


def attack_stream(
    net: Network,
    pairs: Iterable[Pair | tuple[Any, ...]],
    *,
    attack: str | Attack = "feature-opt",
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
    progress: bool | None = False,
) -> Iterator[PairResult]:
    """Attacks a stream of pairs of any length, `batch_size` at a time, in constant memory.

    A pair's result does not depend on the other pairs, on its place in the stream (with the start
    at the source) or on its lane. Ctrl-C ends the stream with KeyboardInterrupt once the pairs that
    are finished have been yielded.

    Args:
        net: The network.
        pairs: `(source, guide)`, or a `Pair` with a `delta`, `target_ratio` or `label` of its own.
            Images are [h, w, c], 0..255, or paths of image files, which `net.preprocessing` brings
            to the network's size. They are read in a thread of their own, a little ahead. A guide
            may also be several images, whose activations are averaged, or activations by layer.
        attack: "feature-opt", "feature-linear", "feature-fgrad", "label-opt" or "label-fgrad"; or
            one of these with settings of its own, such as `advjax.LabelOpt(attempts=12)`.
        layer: The layer to match, or several; the network's customary one when None.
        layer_weights: One number for each layer; 1 when None.
        delta: Half-width of the box in levels of 255.
        solver: `advjax.ProjectedLBFGS()` when None, for label-opt with 100 evaluations for each c;
            see `advjax.solvers`. The fast gradients take none.
        batch_size: Lanes, over all devices; "auto": as many as the devices' memory holds. A batch
            that turns out too large is halved, with a warning.
        target_ratio: A pair is done when its distance is this share of the initial one.
        until_label: A pair is done when the network gives it its label, or else the guide's.
        start: Where a pair starts: its source, or a random point of the box, drawn from `seed` and
            the pair's place.
        seed: See `start`.
        trace: Keep the root of the objective (feature-opt's distance) at each evaluation.
        ordered: Yield in the order of `pairs`; else as they finish.
        precision: Of matrix products while solving: "highest" (float32), "tensorfloat32" or
            "bfloat16". Reported distances are evaluated again at "highest".
        devices: Where the lanes live; the first local device when None.
        progress: Show a bar on standard error; None: if it is a terminal.

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
    spec = _specified(net, attack, layer, layer_weights)
    solver = _solver(spec, solver)
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise AdvjaxError(f"batch_size is {batch_size!r}; give 1 or more, or 'auto'")
    if target_ratio is not None and not isinstance(spec, FeatureOpt):
        raise AdvjaxError(f"target_ratio is {target_ratio}, and {spec.name} has no ratio to reach")
    if target_ratio is not None and not 0 < target_ratio < 1:
        raise AdvjaxError(f"target_ratio is {target_ratio}; give a share between 0 and 1")
    if start not in ("source", "random"):
        raise UnknownName("start", start, ("source", "random"))
    if seed < 0:
        raise AdvjaxError(f"seed is {seed}; give a whole number, 0 or more")
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    output = spec.output if isinstance(spec, LabelOpt | LabelFgrad) else net.output
    if until_label and output is None:
        raise AdvjaxError(f"until_label needs an output layer, and {net.name} names none")
    plan = Plan(
        function=net.function,
        with_params=net.params is not None,
        spec=spec,
        solver=solver,
        input_shape=net.input_shape,
        output=output,
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
    source = read_ahead(net, plan, pairs, 2 * max(lanes or BLOCK, BLOCK))
    attempts = spec.attempts if isinstance(spec, LabelOpt) else 1
    report, close = _report(plan.solver.max_evaluations * attempts, total, progress)
    run_pairs = solve_on_host if isinstance(solver, ScipyLBFGSB) else solve
    if isinstance(spec, LabelOpt):
        results = search(run, source, lanes, report, run_pairs)
    else:
        results = run_pairs(run, source, lanes, report)
    return _finally(close, _in_order(results) if ordered else results)


def _specified(
    net: Network,
    attack: str | Attack,
    layer: str | Sequence[str] | None,
    weights: Sequence[float] | None,
) -> Attack:
    """The attack with its layers, and its output if it is on labels, checked."""
    given: dict[str, Any] = {} if weights is None else {"weights": tuple(weights)}
    if isinstance(attack, str):
        if attack not in ATTACKS:
            raise UnknownName("attack", attack, ATTACKS)
        spec = ATTACKS[attack](net.check_layers(layer), **given)
    elif not isinstance(attack, Attack):
        raise AdvjaxError(f"attack is {attack!r}; give {', '.join(ATTACKS)} or advjax.LabelOpt()")
    elif attack.layers and layer is not None:
        raise AdvjaxError(f"layer is {layer!r}, and attack has {attack.layers}; give one of them")
    else:
        layers = net.check_layers(attack.layers or layer)
        spec = dataclasses.replace(attack, layers=layers, **given)
    if isinstance(spec, LabelOpt | LabelFgrad):
        output = spec.output or net.output
        if output is None:
            raise AdvjaxError(f"{spec.name} needs an output layer, and {net.name} names none")
        net.check_layers(output)
        if len(net.layers[output]) != 1:
            raise AdvjaxError(f"output {output!r} has shape {net.layers[output]}; give (classes,)")
        spec = dataclasses.replace(spec, output=output)
    return spec


def _solver(spec: Attack, solver: Solver | ScipyLBFGSB | None) -> Solver | ScipyLBFGSB:
    if spec.one_step:
        if solver is not None:
            raise AdvjaxError(f"solver is {solver}, and {spec.name} takes one step; give none")
        return SignedStep()
    if solver is None:
        solver = LABEL_SOLVER if isinstance(spec, LabelOpt) else ProjectedLBFGS()
    if solver.max_evaluations < 1:
        raise AdvjaxError(f"max_evaluations is {solver.max_evaluations}; give 1 or more")
    return solver


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
    budget: int, total: int | None, progress: bool | None
) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    """A bar that counts evaluations: what to call after each chunk, and at the end."""
    if progress is False:
        return (lambda finished, running: None), (lambda: None)
    from tqdm import tqdm

    bar = tqdm(
        total=None if total is None else total * budget,
        unit="evaluation",
        unit_scale=True,
        disable=None if progress is None else False,
    )

    def report(finished: int, running: int) -> None:
        # A pair that ended early counts as its whole budget, so that the bar ends at its end.
        bar.set_postfix_str(f"{finished} pairs done", refresh=False)
        bar.update(finished * budget + running - bar.n)

    return report, bar.close


def attack(
    net: Network,
    sources: Any,
    guides: Any = None,
    *,
    labels: Any = None,
    delta: float | Sequence[float] = 10.0,
    progress: bool | None = None,
    **settings: Any,
) -> AttackResult:
    """Finds, in a small box around each source, an image whose representation is the guide's.

    Minimises || phi(I) - phi(guide) ||^2 subject to |I - source| <= delta and 0 <= I <= 255 for
    each pair (Sabour et al. 2016, eqs. 1 and 2), or does what the setting `attack` says. The box
    holds exactly, also after rounding.

    Args:
        net: The network.
        sources: [n, h, w, c], uint8 or float32, 0..255; or one image.
        guides: As `sources`, one for each; or [n, k, h, w, c]: k images for each source, whose
            activations are averaged; or activations, a dict of [n, ...] by layer; or None for
            attacks on labels that are given.
        labels: The class to take, one for all sources or one for each; the guides' when None.
        delta: Half-width of the box in levels of 255; one for all pairs or one for each.
        progress: Show a bar on standard error; None: if it is a terminal.
        **settings: `attack`, `layer`, `solver`, `batch_size`, `target_ratio`, ...: see
            `attack_stream`.

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
    batch = _images(net, "sources", sources)
    if not len(batch):
        raise AdvjaxError("sources is empty; give at least one pair")
    each = _guides(net, guides, len(batch))
    if len(each) != len(batch):
        raise AdvjaxError(
            f"sources has {len(batch)} images and guides has {len(each)}; give one "
            "guide for each source"
        )
    deltas = [check_delta(d) for d in _one_or_each("delta", delta, len(batch))]
    labels = _one_or_each("labels", labels, len(batch))
    pairs = [
        Pair(source, guide, delta, label=label)
        for source, guide, delta, label in zip(batch, each, deltas, labels, strict=True)
    ]
    results = list(attack_stream(net, pairs, progress=progress, **settings))
    return stack(results)


def _images(net: Network, name: str, images: Any) -> np.ndarray:
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    images = images[None] if images.shape == net.input_shape else images
    return np.asarray(net.check_images(images, name))


def _guides(net: Network, guides: Any, count: int) -> Sequence[Any]:
    """What each source has as guide."""
    if guides is None:
        return [None] * count
    if isinstance(guides, Mapping):
        given = {layer: np.asarray(values) for layer, values in guides.items()}
        counts = {len(values) if values.ndim else 0 for values in given.values()}
        if len(counts) != 1:
            raise AdvjaxError("guides has layers of different lengths; give [n, ...] for each")
        return [{k: v[i] for k, v in given.items()} for i in range(counts.pop())]
    if np.ndim(guides) == 5:
        return list(np.asarray(guides))  # each set is checked with its pair
    return list(_images(net, "guides", guides))


def _one_or_each(name: str, given: Any, count: int) -> list[Any]:
    values = list(np.atleast_1d(np.asarray(given, object)))
    if len(values) not in (1, count):
        raise AdvjaxError(
            f"{name} has {len(values)} values for {count} pairs; give one or one for each"
        )
    return values * count if len(values) == 1 else values
