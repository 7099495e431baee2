"""Speed on this machine: of the network, of the solver, and in pairs per second.

Everything runs on images drawn from a seed and weights that need no download, so that a figure can
be had wherever JAX runs; `benchmarks/` has the comparisons with other libraries.
"""

import dataclasses
import datetime
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from advjax.display import versions
from advjax.engine import Pair, Progress, Stream, attack_stream, make_plan, resolve
from advjax.errors import AdvjaxError
from advjax.networks.convolutions import with_fast_convolutions
from advjax.networks.network import Network, activations
from advjax.smoothing import Smoothing

PACKAGES = ("advjax", "jax", "jaxlib", "flax", "numpy", "scipy", "torch", "jaxopt")


class StepTimes(NamedTuple):
    """Medians over rounds taken in turn; seconds for the whole batch."""

    evaluation: float  # value and input gradient of the network's objective alone
    step: float  # the same within the engine: the solver and the loop included
    compilation: float  # of the engine's chunk, with whatever cache JAX has

    @property
    def solver_fraction(self) -> float:
        """The fraction of a step that is not the network's evaluation."""
        return 1 - self.evaluation / self.step


class Throughput(NamedTuple):
    """A stream of pairs from its first result's compilation to its last result."""

    pairs_per_second: float  # compilation not counted
    active_fraction: float  # of all lanes' steps, those that evaluated a pair that was not done
    ratio: float  # mean
    evaluations: float  # mean


class Comparison(NamedTuple):
    """One solver over the pairs that all of them have; means over the pairs."""

    name: str
    ratio: float  # d(adversarial, guide) / d(source, guide)
    cosine_ratio: float  # the same of cosine distances
    seconds: float  # for all pairs; compilation not counted
    evaluations: float  # that a pair used


def photographs(count: int, shape: tuple[int, int, int], seed: int = 0) -> UInt8[np.ndarray, "..."]:
    """Images with the spectrum of natural ones, amplitude 1 / frequency (Field, 1987).

    Returns:
        [count, h, w, c], uint8; the same for the same seed on every machine.

    Example:
        >>> images = photographs(2, (8, 9, 3))
        >>> images.shape, images.dtype.name, bool((images[0] != images[1]).any())
        ((2, 8, 9, 3), 'uint8', True)
    """
    height, width, channels = shape
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(height, width))[None, :, :, None]
    images = np.empty((count, *shape), np.uint8)
    for image in images:
        grey = rng.standard_normal((1, height, width, 1))
        noise = 0.8 * grey + 0.2 * rng.standard_normal((1, height, width, channels))
        smooth = np.fft.irfft2(
            np.fft.rfft2(noise, axes=(1, 2)) / frequency, (height, width), (1, 2)
        )
        smooth = (smooth - smooth.mean()) / smooth.std()
        image[:] = np.clip(127.5 + 60 * smooth[0], 0, 255)
    return images


def step_times(
    net: Network,
    solver: Any,
    batch: int,
    *,
    layer: str | None = None,
    precision: str = "highest",
    steps: int = 4,
    rounds: int = 5,
) -> StepTimes:
    """Time the network's evaluation and the engine's whole step, in turn, at one batch size.

    Args:
        net: The network.
        solver: Of `advjax.solvers`; not `ScipyLBFGSB`, which has no lanes.
        batch: Lanes.
        layer: The layer matched; the network's default layer when None.
        precision: Of matrix products, as in `advjax.attack_stream`.
        steps: In one timed call.
        rounds: Timed calls of each of the two.

    Raises:
        AdvjaxError: `batch`, `steps` or `rounds` under 1.
    """
    net = net.in_levels
    for name, value in (("batch", batch), ("steps", steps), ("rounds", rounds)):
        if value < 1:
            raise AdvjaxError(f"{name} is {value}; give 1 or more")
    # None of the lanes may end while it is timed.
    endless = dataclasses.replace(solver, max_evaluations=10**6)
    attack, endless = resolve(net, "feature-opt", layer, solver=endless)
    plan = make_plan(net, attack, endless, precision=precision)
    stream = Stream(net, plan)
    images = photographs(2 * batch, net.input_shape)
    pairs = [(i, Pair(images[i], images[batch + i])) for i in range(batch)]
    problems = stream.complete(stream.begin(pairs))
    lanes = stream.empty_lanes(batch, problems[0])
    lanes = stream.insert(lanes, dict(enumerate(problems)))

    x = jnp.asarray(images[:batch].reshape(batch, -1), jnp.float32)
    target = jax.device_get(lanes.task.target)  # the lanes will be donated

    function = with_fast_convolutions(net.function)  # as in the engine

    @jax.jit
    def evaluate(params, x, target):
        def loss(x):
            activate = lambda images: activations(  # noqa: E731
                function, plan.with_params, params, images, attack.layers
            )
            return jnp.sum(attack.loss(activate, x.reshape(-1, *net.input_shape), target)[0])

        def descend(_, x):  # so little that it costs nothing, and so that no step is left out
            return x - 1e-3 * jnp.sign(jax.grad(loss)(x))

        with jax.default_matmul_precision(precision):
            return jax.lax.fori_loop(0, steps, descend, x)

    def advance() -> None:
        nonlocal lanes
        every = np.full(1, batch, np.int32)
        lanes, _ = stream.advance(lanes, steps, every)
        jax.block_until_ready(lanes.state.trial)

    begin = time.perf_counter()
    advance()
    compilation = time.perf_counter() - begin
    seconds = in_turn(
        {
            "evaluation": lambda: jax.block_until_ready(evaluate(stream.first_params, x, target)),
            "step": advance,
        },
        rounds,
    )
    evaluation, step = (float(np.median(each)) / steps for each in seconds.values())
    return StepTimes(evaluation, step, compilation - steps * step)


def in_turn(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Measure the wall seconds of each contender in each round, after one that is not counted.

    They take turns, so that a machine whose speed drifts is slow for all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def throughput(net: Network, count: int, batch: Any, **settings: Any) -> Throughput:
    """Attack `count` pairs of drawn images as one stream, after one pair that compiles.

    Args:
        net: The network.
        count: Pairs.
        batch: Lanes, or "auto".
        **settings: Of `advjax.attack_stream`: `solver`, `layer`, `target_ratio`, ...
    """
    if count < 1:
        raise AdvjaxError(f"pairs is {count}; give 1 or more")
    images = photographs(2 * count, net.input_shape)
    pairs = list(zip(images[:count], images[count:], strict=True))
    steps = 0

    def count_steps(at: Progress) -> None:
        nonlocal steps
        steps = at.steps

    # Without a length, so that the stream has all its lanes in both.
    list(attack_stream(net, iter(pairs[:1]), batch_size=batch, **settings))
    begin = time.perf_counter()
    results = list(
        attack_stream(
            net, iter(pairs), batch_size=batch, progress=count_steps, ordered=False, **settings
        )
    )
    seconds = time.perf_counter() - begin
    evaluations = np.array([result.evaluations for result in results])
    return Throughput(
        pairs_per_second=count / seconds,
        active_fraction=float(evaluations.sum() / steps),
        ratio=float(np.mean([result.ratio for result in results])),
        evaluations=float(evaluations.mean()),
    )


def compare_solvers(
    net: Network,
    solvers: Mapping[str, tuple[Any, Smoothing | Literal["auto"] | None]],
    pairs: int,
    *,
    layer: str | None = None,
    batch_size: int | Literal["auto"] = 8,
    **settings: Any,
) -> list[Comparison]:
    """Run solvers with equal budgets on the same pairs of drawn images, objective feature-opt.

    Args:
        net: The network.
        solvers: A name -> (solver, smoothing as of `advjax.attack`); all with one
            `max_evaluations`.
        pairs: The number of pairs.
        layer: The layer matched; the network's default layer when None.
        batch_size: Lanes.
        **settings: Of `advjax.attack_stream`: `delta`, `precision`, ...

    Returns:
        A row for each solver, in the order given.

    Raises:
        AdvjaxError: `pairs` under 1, or budgets that differ.

    Example:
        >>> import advjax
        >>> from advjax.solvers import PUBLISHED, SignMomentum
        >>> solvers = {"sign": (SignMomentum(4), None), "apgd": (PUBLISHED["apgd"](4), None)}
        >>> rows = compare_solvers(advjax.load("lenet", "orthonormal"), solvers, 2)
        >>> [(row.name, row.ratio < 1, row.evaluations) for row in rows]
        [('sign', True, 4.0), ('apgd', True, 4.0)]
    """
    if pairs < 1:
        raise AdvjaxError(f"pairs is {pairs}; give 1 or more")
    budgets = {name: solver.max_evaluations for name, (solver, _) in solvers.items()}
    if len(set(budgets.values())) > 1:
        raise AdvjaxError(f"solvers have budgets {budgets}; give all the same max_evaluations")
    (layer,) = net.check_layers(layer)
    images = photographs(2 * pairs, net.input_shape)
    sources, guides = images[:pairs], images[pairs:]
    every = list(zip(sources, guides, strict=True))
    rows = []
    for name, (solver, smoothing) in solvers.items():
        settings |= {"solver": solver, "smoothing": smoothing, "batch_size": batch_size}
        # Without a length, so that the stream has all its lanes in both; the first one compiles.
        list(attack_stream(net, iter(every[:1]), layer=layer, **settings))
        begin = time.perf_counter()
        results = list(attack_stream(net, iter(every), layer=layer, **settings))
        seconds = time.perf_counter() - begin
        adversarial = np.stack([result.adversarial for result in results])
        rows.append(
            Comparison(
                name,
                ratio=float(np.mean([result.ratio for result in results])),
                cosine_ratio=float(cosine_ratio(net, layer, adversarial, sources, guides).mean()),
                seconds=seconds,
                evaluations=float(np.mean([result.evaluations for result in results])),
            )
        )
    return rows


def cosine_ratio(
    net: Network, layer: str, adversarial: Any, source: Any, guide: Any
) -> Float[np.ndarray, "n"]:
    """Compute the cosine distances of adversarials to guides, divided by the sources'.

    Args:
        net: The network.
        layer: The layer whose activations, flattened, are compared.
        adversarial: [n, h, w, c], 0..255.
        source: The same shape.
        guide: The same shape.

    Returns:
        (1 - cos(a, g)) / (1 - cos(s, g)) in float64; 0 where source and guide have one direction.
    """
    units = []
    for images in (adversarial, source, guide):
        features = [np.asarray(net(image[None], layer)[layer], np.float64) for image in images]
        rows = np.stack(features).reshape(len(features), -1)
        units.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300))
    a, s, g = units
    # |a - g|^2 of units is twice the cosine distance, without its cancellation near 0.
    ours, initial = ((each - g) ** 2 for each in (a, s))
    ours, initial = ours.sum(1), initial.sum(1)
    return np.where(initial > 0, ours / np.where(initial > 0, initial, 1), 0)


def matrix_ceiling(size: int = 2048, precision: str = "highest", rounds: int = 5) -> float:
    """Measure floating-point operations per second of a square matrix product of this precision."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    (seconds,) = in_turn({"it": lambda: jax.block_until_ready(product(a, a))}, rounds).values()
    return 2 * size**3 / min(seconds)


def memory_ceiling(size: int = 1 << 26, rounds: int = 5) -> float:
    """Measure bytes per second, read and written, of adding one to `size` float32 numbers."""
    x = jnp.zeros(size, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    (seconds,) = in_turn({"it": lambda: jax.block_until_ready(add(x))}, rounds).values()
    return 8 * size / min(seconds)


def machine() -> dict[str, Any]:
    """Return processor, cores, devices, versions and date, to stand beside a figure."""
    model = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.local_devices()],
        "versions": versions(PACKAGES),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
