"""`attack` (arrays) and `attack_stream` (an iterator): the two public functions of the engine."""

import atexit
import contextlib
import dataclasses
import json
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from typing import Any, Literal, get_args

import jax
import numpy as np

from advjax import attacks, solvers
from advjax.attacks.base import Attack
from advjax.attacks.box import check_delta
from advjax.attacks.until import Until, check_ratio
from advjax.choices import Precision, SolverName, Start
from advjax.data.units import LEVELS, delta_to_levels
from advjax.display import progress_bar
from advjax.engine.attempts import solve_attempts
from advjax.engine.inputs import (
    CheckedPairs,
    check_pairs,
    guide_batch,
    image_batch,
    one_or_each,
    to_levels,
    to_units,
)
from advjax.engine.loop import solve, solve_on_host
from advjax.engine.problems import Problems
from advjax.engine.programs import Plan, home
from advjax.engine.results import Pair, Progress, ProgressCallback
from advjax.engine.stream import BLOCK, Stream
from advjax.errors import AdvjaxError, UnknownName, whole
from advjax.networks.network import Network
from advjax.results import AttackResult, PairResult, stack
from advjax.smoothing import Smoothing
from advjax.solvers import ScipyLBFGSB, Solver
from advjax.transforms import Transforms


def resolve(
    net: Network,
    attack: str | Attack = "feature-opt",
    layer: str | Sequence[str] | None = None,
    layer_weights: Sequence[float] | None = None,
    solver: Solver | ScipyLBFGSB | str | None = None,
    max_evaluations: int | None = None,
) -> tuple[Attack, Any]:
    """Return the attack on this network, and its solver, with all settings filled in and checked.

    Args:
        net: The network.
        attack: A name, or an attack with settings of its own.
        layer: The layer, or several, if the attack has none.
        layer_weights: One number for each layer.
        solver: A solver or the name of one; the attack's default solver when None.
        max_evaluations: In place of the solver's own.

    Raises:
        AdvjaxError: An argument that cannot be used.

    Example:
        >>> import advjax
        >>> attack, solver = resolve(advjax.load("lenet", "orthonormal"), "label-opt")
        >>> attack.layers, solver.max_evaluations, attack.attempts
        (('ip1',), 100, 8)
    """
    filled = attacks.for_network(net, attack, layer, layer_weights)
    if solver is None and max_evaluations is None:
        return filled, filled.default_solver
    if filled.one_step and solver != filled.default_solver:
        given = f"solver is {solver}" if solver else f"max_evaluations is {max_evaluations}"
        raise AdvjaxError(f"{given}, and {filled.name} takes one step; give none")
    if isinstance(solver, str) or max_evaluations is not None:
        name = solver if isinstance(solver, str) else None
        default = filled.default_solver if solver is None or name else solver
        solver = solvers.choose(default, name, max_evaluations)
    assert solver is not None
    assert not isinstance(solver, str)
    if solver.max_evaluations < 1:
        raise AdvjaxError(f"max_evaluations is {solver.max_evaluations}; give 1 or more")
    return filled, solver


def choose_smoothing(
    attack: Attack, solver: Any, smoothing: Smoothing | Literal["auto"] | None
) -> Smoothing | None:
    """Return the smoothing of a solve; "auto" is the attack's within the solver's budget.

    It is None where the solver does not accept one.

    Raises:
        AdvjaxError: `smoothing` is no smoothing, or the attack or the solver allows none.
    """
    if smoothing == "auto":
        smoothing = attack.default_smoothing
        if smoothing is None or not getattr(solver, "accepts_smoothing", False):
            return None
        return smoothing.within(solver.max_evaluations)
    if smoothing is None:
        return None
    if not isinstance(smoothing, Smoothing):
        raise AdvjaxError(f"smoothing is {smoothing!r}; give an advjax.Smoothing, None or 'auto'")
    if attack.exact or isinstance(solver, ScipyLBFGSB):
        who = attack.name if attack.exact else type(solver).__name__
        raise AdvjaxError(f"smoothing is {smoothing}, and {who} needs exact gradients; give None")
    return smoothing


def choose_transforms(solver: Any, transforms: Transforms | None) -> Transforms | None:
    """Return the transformations of a solve.

    Raises:
        AdvjaxError: `transforms` is none, or the solver cannot do with values that are drawn.
    """
    if transforms is None:
        return None
    if not isinstance(transforms, Transforms):
        raise AdvjaxError(f"transforms is {transforms!r}; give an advjax.Transforms, or None")
    if getattr(solver, "compares_values", False):
        raise AdvjaxError(
            f"transforms are given, and {type(solver).__name__} compares one evaluation with "
            "another; take SignMomentum, SignDescent or OptaxProjected (sign, mi-fgsm, adam, ...)"
        )
    return transforms


def until_of(until: Until | None, target_ratio: float | None, until_label: bool) -> Until:
    """Return what ends a pair: `until`, with the two arguments that are short for a part of it.

    Raises:
        AdvjaxError: Something that can end no pair, or two ratios.
    """
    if until is None:
        until = Until()
    if not isinstance(until, Until):
        raise AdvjaxError(f"until is {until!r}; give advjax.Until(cosine=0.9) or the like")
    if target_ratio is not None:
        if until.ratio is not None:
            raise AdvjaxError(
                f"target_ratio is {target_ratio}, and until has the ratio {until.ratio}; give one"
            )
        check_ratio("target_ratio", target_ratio)
        until = dataclasses.replace(until, ratio=target_ratio)
    return dataclasses.replace(until, label=True) if until_label else until


def _any_ratio(until: Until, pairs: Any) -> float | None:
    """Return the stream's ratio, or else that of some pair of a list."""
    known = pairs if isinstance(pairs, Sequence) else ()
    own = (pair[3] for pair in known if isinstance(pair, tuple) and len(pair) > 3)
    return next((ratio for ratio in (until.ratio, *own) if isinstance(ratio, float | int)), None)


def make_plan(
    net: Network,
    attack: Attack,
    solver: Any,
    *,
    until: tuple[str, ...] = (),
    trace: bool = False,
    precision: str = "highest",
    devices: Any = None,
    smoothing: Smoothing | None = None,
    transforms: Transforms | None = None,
) -> Plan:
    """Return the plan for an attack and a solver that `resolve` returned.

    Raises:
        AdvjaxError: `devices` are none of JAX's.
    """
    return Plan(
        function=net.function,
        with_params=net.params is not None,
        attack=attack,
        solver=solver,
        input_shape=net.input_shape,
        until=until,
        trace=trace,
        precision=precision,
        devices=_devices(net, devices),
        smoothing=smoothing,
        transforms=transforms,
    )


def _devices(net: Network, devices: Any) -> tuple[Any, ...]:
    if devices is None:
        return (home(net.params),)
    several = isinstance(devices, Iterable) and not isinstance(devices, str)
    chosen = tuple(devices) if several else (devices,)
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
        raise AdvjaxError(f"devices is {devices!r}; give one of jax.devices(), or several")
    return chosen


def attack_stream(
    net: Network,
    pairs: Iterable[Pair | tuple[Any, ...]],
    *,
    attack: str | Attack = "feature-opt",
    layer: str | Sequence[str] | None = None,
    layer_weights: Sequence[float] | None = None,
    delta: float | None = None,
    solver: Solver | ScipyLBFGSB | SolverName | None = None,
    max_evaluations: int | None = None,
    batch_size: int | Literal["auto"] = 32,
    until: Until | None = None,
    target_ratio: float | None = None,
    until_label: bool = False,
    start: Start = "source",
    seed: int = 0,
    trace: bool = False,
    ordered: bool = True,
    precision: str = "highest",
    devices: Any = None,
    smoothing: Smoothing | Literal["auto"] | None = "auto",
    transforms: Transforms | None = None,
    progress: bool | Callable[[Progress], bool | None] | None = False,
) -> Iterator[PairResult]:
    """Attack a stream of pairs of any length, `batch_size` at a time, in constant memory.

    A pair's result does not depend on the other pairs or on its lane. It depends on its index in
    the stream only if `start` is "random". Ctrl-C ends the stream with KeyboardInterrupt, after the
    finished pairs have been yielded.

    Args:
        net: The network.
        pairs: `(source, guide)`, or a `Pair` with a `delta`, `target_ratio` or `label` of its own.
            Images are [h, w, c], uint8 or float within `net.bounds` (0..255), or paths of image
            files, which `net.preprocessing` brings to the network's size. They are read in a thread
            of their own, a little ahead. A guide may also be several images, whose activations are
            averaged, or activations by layer.
        attack: "feature-opt", "feature-linear", "feature-fgrad", "feature-away", "label-opt" or
            "label-fgrad"; or an attack with settings of its own, such as
            `advjax.LabelOpt(attempts=12)`, or of a class of your own
            (`advjax.attacks.base.Attack`).
        layer: The layer to match, or several; the network's default layer when None.
        layer_weights: One number for each layer; 1 when None.
        delta: Half-width of the box in the network's units, which are levels of 255 unless it has
            other `bounds`; 10 levels when None.
        solver: See `advjax.solvers`, or a name as on the command line ("sign", "lbfgs", ...: the
            keys of `advjax.solvers.BY_NAME`); the attack's `default_solver` when None: of
            feature-opt `advjax.SignMomentum()`, of feature-linear `advjax.ProjectedLBFGS()`, of
            label-opt the same with 100 evaluations for each c. The fast gradients take none.
        max_evaluations: Evaluations of the network and its gradient in place of the solver's own.
        batch_size: Number of lanes, over all devices; "auto": as many as the devices' memory holds.
            If the memory is too small for a batch, it is halved, with a warning.
        until: The figures of the image in 8 bits at which a pair is done: `advjax.Until`.
        target_ratio: The same as `advjax.Until(ratio=...)`. A `Pair` may have its own; pairs that
            are no list then need one for the stream, too.
        until_label: The same as `advjax.Until(label=True)`.
        start: The starting point of a pair: "source", or "random", a point of the box drawn from
            `seed` and the pair's index.
        seed: See `start`.
        trace: Keep the objective (of feature-opt, the squared distance) at each evaluation.
        ordered: Yield in the order of `pairs`; else as they finish.
        precision: Of matrix products while solving: "highest" (float32), "tensorfloat32" or
            "bfloat16". Reported distances are evaluated again at "highest".
        devices: The devices that hold the lanes, one or several; when None, the one on which the
            network's parameters are, or else the first local device. Parameters that are elsewhere
            are copied to them.
        smoothing: `advjax.Smoothing` of the gradient's kinks over the budget; None: exact
            gradients; "auto": that of the attack (feature-opt has one) if the solver has no line
            search. Values, distances and stopping rules always use the network itself.
        transforms: `advjax.Transforms`: what the network sees at each evaluation in place of the
            image, drawn anew from `seed`, the pair's index and the evaluation's number. The result
            is then the last image, and its distances are those of the image itself. Solvers that
            compare one evaluation with another (those with a line search, APGD) refuse it.
        progress: Show a bar; None: on a terminal and in a notebook. Or a function that is called
            with a `Progress` after each chunk; if it returns True, the stream ends after the
            finished pairs have been yielded.

    Yields:
        One result per pair.

    Raises:
        AdvjaxError: An argument or an image that cannot be used.
        UnknownName: A layer that the network does not have.

    Example:
        >>> import advjax, numpy as np
        >>> net = advjax.load("lenet", "orthonormal")
        >>> source, guide = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
        >>> solver = advjax.ProjectedLBFGS(max_evaluations=5)
        >>> for result in attack_stream(net, [(source, guide)], delta=20.0, solver=solver):
        ...     print(result.index, result.ratio < 1, result.status.name)
        0 True MAX_EVALUATIONS
    """
    spec, chosen = resolve(net, attack, layer, layer_weights, solver, max_evaluations)
    lanes = None if batch_size == "auto" else whole(batch_size, 1)
    if lanes is None and batch_size != "auto":
        raise AdvjaxError(f"batch_size is {batch_size!r}; give 1 or more, or 'auto'")
    until = until_of(until, target_ratio, until_label)
    until.check(spec, net.name)
    if start not in ("source", "random"):
        raise UnknownName("start", start, ("source", "random"))
    if seed < 0:
        raise AdvjaxError(f"seed is {seed}; give a whole number, 0 or more")
    if precision not in get_args(Precision):
        raise UnknownName("precision", precision, get_args(Precision))
    smoothing = choose_smoothing(spec, chosen, smoothing)
    plan = make_plan(
        net.in_levels,
        spec,
        chosen,
        until=dataclasses.replace(until, ratio=_any_ratio(until, pairs)).names,
        trace=trace,
        precision=precision,
        devices=devices,
        smoothing=smoothing,
        transforms=choose_transforms(chosen, transforms),
    )
    delta = check_delta(delta, net.bounds)
    stream = Stream(
        net.in_levels,
        plan,
        delta=delta_to_levels(delta, net.bounds),
        until=until,
        start=start,
        seed=seed,
    )
    total = len(pairs) if isinstance(pairs, Sized) else None
    if total is not None and total < (lanes or BLOCK):
        lanes = max(1, total)
    source = check_pairs(net, plan, pairs)
    given: dict[int, Any] = {}  # the pairs under way, in the network's units
    if net.bounds != LEVELS:
        source = to_levels(net, source, given)
    problems = Problems(stream, source, 2 * max(lanes or BLOCK, BLOCK))
    callback, close = _progress(chosen.max_evaluations * spec.attempts, total, progress)
    run_pairs = solve_on_host if isinstance(chosen, ScipyLBFGSB) else solve
    if spec.attempts > 1:
        solved = solve_attempts(stream, problems, lanes, callback, run_pairs)
    else:
        solved = run_pairs(stream, problems, lanes, callback)
    results = (result for _, result in solved)
    if net.bounds != LEVELS:
        results = to_units(net, results, given, delta)
    stream = _finally(_in_order(results) if ordered else results, close, problems.close)
    _open.add(stream)
    return stream


def _finally(results: Iterator[PairResult], *ends: Callable[[], None]) -> Generator[PairResult]:
    try:
        yield from results
    finally:
        for end in ends:
            end()


_open: weakref.WeakSet[Generator[PairResult]] = weakref.WeakSet()


@atexit.register
def _close_open() -> None:
    """Close streams that a script leaves open while all that they need is still there."""
    for stream in list(_open):
        with contextlib.suppress(ValueError):  # another thread is in it
            stream.close()


def _in_order(results: Iterator[PairResult]) -> Iterator[PairResult]:
    early: dict[int, PairResult] = {}
    following = 0
    for result in results:
        early[result.index] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _progress(
    budget: int, total: int | None, progress: bool | ProgressCallback | None
) -> tuple[ProgressCallback, Callable[[], None]]:
    """Return two functions of a progress bar: one to call after each chunk, one at the end."""
    if callable(progress):
        return progress, (lambda: None)
    if progress is False:
        return (lambda at: None), (lambda: None)
    bar = progress_bar(
        progress,
        total=None if total is None else total * budget,
        unit="evaluation",
        unit_scale=True,
    )

    def show(at: Progress) -> None:
        # A pair that ended early counts as its whole budget, so that the bar ends at its end.
        bar.set_postfix_str(f"{at.finished} pairs done", refresh=False)
        bar.update(at.finished * budget + at.running - bar.n)

    return show, bar.close


def attack(
    net: Network,
    sources: Any,
    guides: Any = None,
    *,
    labels: Any = None,
    attack: str | Attack = "feature-opt",
    layer: str | Sequence[str] | None = None,
    layer_weights: Sequence[float] | None = None,
    delta: float | Sequence[float] | None = None,
    solver: Solver | ScipyLBFGSB | SolverName | None = None,
    max_evaluations: int | None = None,
    batch_size: int | Literal["auto"] = 32,
    until: Until | None = None,
    target_ratio: float | None = None,
    until_label: bool = False,
    start: Start = "source",
    seed: int = 0,
    trace: bool = False,
    precision: str = "highest",
    devices: Any = None,
    smoothing: Smoothing | Literal["auto"] | None = "auto",
    transforms: Transforms | None = None,
    progress: bool | Callable[[Progress], bool | None] | None = None,
) -> AttackResult:
    """Find, in a small box around each source, an image whose representation is the guide's.

    Minimises || phi(I) - phi(guide) ||^2 subject to |I - source| <= delta and 0 <= I <= 255 for
    each pair (Sabour et al. 2016, eqs. 1 and 2), or the objective of the setting `attack`. The box
    holds exactly, also after rounding.

    Args:
        net: The network.
        sources: [n, h, w, c], uint8, or float within `net.bounds` (0..255); or one image; or the
            path of an image file, or a list of paths, which `net.preprocessing` brings to the
            network's size.
        guides: As `sources`, one for each; or [n, k, h, w, c]: k images for each source, whose
            activations are averaged; or activations, a dict of [n, ...] by layer, or the array of
            one layer, as an embedding is; or None for attacks on labels that are given, and for
            feature-away.
        labels: The class to take, one for all sources or one for each; the guides' when None.
        attack: "feature-opt", "feature-linear", "feature-fgrad", "feature-away", "label-opt" or
            "label-fgrad"; or an attack with settings of its own, such as
            `advjax.LabelOpt(attempts=12)`.
        layer: The layer to match, or several; the network's default layer when None.
        layer_weights: One number for each layer; 1 when None.
        delta: Half-width of the box in the network's units; one for all pairs or one for each; 10
            levels of 255 when None.
        solver: A solver, or the name of one ("sign", "lbfgs", ...); the attack's own when None.
        max_evaluations: Evaluations of the network and its gradient in place of the solver's own.
        batch_size: Number of lanes; "auto": as many as the devices' memory holds.
        until: The figures of the image in 8 bits at which a pair is done: `advjax.Until`.
        target_ratio: The same as `advjax.Until(ratio=...)`.
        until_label: The same as `advjax.Until(label=True)`.
        start: "source", or "random": a point of the box drawn from `seed` and the pair's number.
        seed: See `start`.
        trace: Keep the objective at each evaluation.
        precision: Of matrix products while solving: "highest" (float32), "tensorfloat32" or
            "bfloat16".
        devices: The devices that hold the lanes; where the network's parameters are when None.
        smoothing: `advjax.Smoothing` of the gradient's kinks; None: exact gradients; "auto": the
            attack's own.
        transforms: `advjax.Transforms`, drawn at each evaluation; for solvers without a line
            search.
        progress: Show a bar; None: on a terminal and in a notebook. Or a function that is called
            with a `Progress`. `advjax.attack_stream` says more of this and of the others.

    Returns:
        The results, in the order of the pairs.

    Raises:
        AdvjaxError: An argument or an image that cannot be used.

    Example:
        >>> import advjax, numpy as np
        >>> net = advjax.load("lenet", "orthonormal")
        >>> images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
        >>> settings = {"solver": "lbfgs", "max_evaluations": 5, "delta": 20.0}
        >>> result = attack(net, images, images[::-1], **settings)
        >>> result.adversarial.shape, bool((result.ratio < 1).all())
        ((2, 28, 28, 1), True)
    """
    batch = image_batch(net, "sources", sources)
    if not len(batch):
        raise AdvjaxError("sources is empty; give at least one pair")
    spec, chosen = resolve(net, attack, layer, layer_weights, solver, max_evaluations)
    each = guide_batch(net, guides, len(batch), layers=spec.layers, each=spec.guides)
    if len(each) != len(batch):
        raise AdvjaxError(
            f"sources has {len(batch)} images and guides has {len(each)}; give one "
            "guide for each source"
        )
    deltas = [check_delta(d, net.bounds) for d in one_or_each("delta", delta, len(batch))]
    labels = one_or_each("labels", labels, len(batch))
    pairs = CheckedPairs(
        Pair(source, guide, delta, label=label)
        for source, guide, delta, label in zip(batch, each, deltas, labels, strict=True)
    )
    smoothing = choose_smoothing(spec, chosen, smoothing)
    settings: dict[str, Any] = {
        "target_ratio": target_ratio,
        "until_label": until_label,
        "start": start,
        "seed": seed,
        "precision": precision,
    }
    results = attack_stream(
        net,
        pairs,
        attack=spec,
        solver=chosen,
        batch_size=batch_size,
        trace=trace,
        devices=devices,
        smoothing=smoothing,
        transforms=transforms,
        until=until,
        progress=progress,
        **settings,
    )
    found = stack(
        list(results),
        source=batch,
        guide=np.stack(each) if all(isinstance(guide, np.ndarray) for guide in each) else None,
        delta=np.array([d if spec.bounded else np.nan for d in deltas]),
        settings=described(net, spec, chosen, smoothing)
        | settings
        | {
            "until": until and dataclasses.asdict(until),
            "transforms": transforms and transforms.described(),
        },
    )
    return dataclasses.replace(found, classes=_class_names(net, found))


def described(
    net: Network, attack: Attack, solver: Any, smoothing: Smoothing | None
) -> dict[str, Any]:
    """Return what an attack is as plain values: network, attack, layer, solver and smoothing."""
    return {
        "network": net.name,
        "bounds": list(net.bounds),
        "attack": attack.name,
        "attack_settings": json.loads(json.dumps(dataclasses.asdict(attack), default=repr)),
        "squared": attack.squared,
        "attempts": attack.attempts,
        "layer": attack.layers[0] if len(attack.layers) == 1 else list(attack.layers),
        **({"layer_weights": list(attack.weights)} if attack.weights else {}),
        "solver": {"name": type(solver).__name__} | dataclasses.asdict(solver),
        "smoothing": smoothing and dataclasses.asdict(smoothing),
    }


def _class_names(net: Network, result: AttackResult) -> dict[int, str]:
    labels = (result.source_label, result.guide_label, result.label, result.label_uint8)
    numbers = {int(n) for each in labels if each is not None for n in each}
    return {n: net.classes[n] for n in sorted(numbers)} if net.classes else {}
