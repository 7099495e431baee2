"""What was tried: steps of `SignMomentum`, scalings of `ProjectedLBFGS`, Gauss-Newton.

Mean ratios of the first pairs that `quality.py` has, trained SqueezeNet pool10 as a rule.

    python benchmarks/schedules.py [--case squeezenet-pool10] [--pairs 4] [--budget 150]
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import quality

import advjax
from advjax.engine.stream import INITIAL
from advjax.networks.network import activations
from advjax.solvers import Box, ProjectedLBFGS

DELTA = 10.0


@dataclasses.dataclass(frozen=True)
class Steps:
    """First-order steps; the share of delta that a pixel moves falls with t, from 0 to 1.

    Attributes:
        fall: Of the step, as a function of t, from 1.
        first: The step at t = 0, as a share of delta.
        momentum: Decay of the velocity.
        look_ahead: Nesterov's: the new gradient counts once more.
        clip: Move by the velocity clipped at so many times its mean size, instead of its sign.
        adam: Decay of the mean square by whose root the velocity is divided, then clipped at 1.
    """

    fall: Callable[[Any], Any]
    first: float = 0.3
    momentum: float = 0.9
    look_ahead: bool = False
    clip: float | None = None
    adam: float | None = None

    def direction(self, velocity, unit, square, count):
        """What each pixel moves by, from -1 to 1."""
        v = velocity + unit if self.look_ahead else velocity
        if self.adam is not None:
            mean = v * (1 - self.momentum) / (1 - self.momentum**count)
            return jnp.clip(mean / (jnp.sqrt(square / (1 - self.adam**count)) + 1e-3), -1, 1)
        if self.clip is not None:
            return jnp.clip(v / (self.clip * jnp.mean(jnp.abs(v), 1, keepdims=True)), -1, 1)
        return jnp.sign(v)


def geometric(k: float, power: float = 1.0) -> Callable[[Any], Any]:
    """exp(-k t^power)."""
    return lambda t: jnp.exp(-k * t**power)


DEFAULT = geometric(4.6, 1.5)
VARIANTS: dict[str, Steps] = {
    "half a cosine": Steps(lambda t: 0.5 * (1 + jnp.cos(jnp.pi * t))),
    "linear": Steps(lambda t: 1 - t),
    "quadratic": Steps(lambda t: (1 - t) ** 2),
    "geometric, k 3": Steps(geometric(3)),
    "geometric, k 4.6": Steps(geometric(4.6)),
    "geometric, k 6": Steps(geometric(6)),
    "momentum .8": Steps(geometric(4.6), momentum=0.8),
    "momentum .95": Steps(geometric(4.6), momentum=0.95),
    "Nesterov's look-ahead": Steps(geometric(4.6), look_ahead=True),
    "p 1.5, momentum .95 (the default)": Steps(DEFAULT, momentum=0.95),
    "p 1.5, momentum .9, from 5 levels": Steps(geometric(5.1, 1.5), first=0.5),
    "half a cosine, momentum .95": Steps(lambda t: 0.5 * (1 + jnp.cos(jnp.pi * t)), momentum=0.95),
    "clipped at 3 means, from 6 levels": Steps(DEFAULT, 0.6, 0.95, clip=3.0),
    "Adam's denominators (.95)": Steps(DEFAULT, momentum=0.95, adam=0.95),
}


class Problem:
    """Pairs, their boxes, and the network's features of flat images."""

    def __init__(self, case: str, count: int):
        name, weights, self.layer = quality.CASES[case]
        self.net = advjax.load(name, weights if weights == "random" else common.DATA / weights)
        images = (each[:count].astype(np.float32) for each in common.pairs(self.net, 10))
        sources, guides = (each.reshape(count, -1) for each in images)
        self.start = jnp.asarray(sources)
        self.box = Box(jnp.maximum(sources - DELTA, 0), jnp.minimum(sources + DELTA, 255))
        with jax.default_matmul_precision("highest"):
            features = jax.jit(self.features)
            self.target = features(self.net.params, guides)
            first = features(self.net.params, sources)
        self.initial = jnp.linalg.norm(first - self.target, axis=1)
        self.scale = INITIAL / self.initial**2  # as the engine does

    def features(self, params, x):
        """(pairs, units)."""
        images = x.reshape(len(x), *self.net.input_shape)
        found = activations(self.net.function, True, params, images, (self.layer,))
        return found[self.layer].reshape(len(x), -1)

    def value_and_gradient(self, params, x):
        """The scaled objectives and their gradients."""

        def total(x):
            error = self.features(params, x) - self.target
            values = self.scale * jnp.sum(error**2, 1)
            return jnp.sum(values), values

        gradients, values = jax.grad(total, has_aux=True)(x)
        return values, gradients

    def ratios(self, values: np.ndarray) -> np.ndarray:
        """[pairs, evaluations]: the least ratio so far, from scaled objectives."""
        return np.sqrt(np.minimum.accumulate(values, 1) / INITIAL)


def descend(problem: Problem, steps: Steps, budget: int) -> np.ndarray:
    """Ratios of `budget` evaluations."""

    @jax.jit
    def run(params):
        def body(i, carry):
            x, velocity, square, trace = carry
            values, gradient = problem.value_and_gradient(params, x)
            unit = gradient / jnp.mean(jnp.abs(gradient), 1, keepdims=True)
            velocity = steps.momentum * velocity + unit
            decay = steps.adam or 0.0
            square = decay * square + (1 - decay) * unit**2
            share = steps.first * steps.fall(i / budget)
            move = share * DELTA * steps.direction(velocity, unit, square, i + 1)
            x = jnp.clip(x - move, problem.box.lower, problem.box.upper)
            return x, velocity, square, trace.at[:, i].set(values)

        zeros = jnp.zeros_like(problem.start)
        trace = jnp.zeros((len(problem.start), budget))
        with jax.default_matmul_precision("highest"):
            return jax.lax.fori_loop(0, budget, body, (problem.start, zeros, zeros, trace))[-1]

    return problem.ratios(np.asarray(run(problem.net.params)))


def lbfgs(problem: Problem, budget: int, scaled: bool = False, **settings: Any) -> np.ndarray:
    """Ratios of ProjectedLBFGS, its variables scaled by the first gradient's size or not."""
    solver = ProjectedLBFGS(max_evaluations=budget, ftol=0.0, gtol=0.0, **settings)
    _, first = jax.jit(problem.value_and_gradient)(problem.net.params, problem.start)
    size = jnp.abs(first) / jnp.mean(jnp.abs(first), 1, keepdims=True)
    unit = (size + 0.1) ** -0.5 if scaled else jnp.ones_like(size)
    box = Box(problem.box.lower / unit, problem.box.upper / unit)

    @jax.jit
    def run(params):
        def body(i, carry):
            state, trace = carry
            x = jnp.clip(state.trial * unit, problem.box.lower, problem.box.upper)
            values, gradient = problem.value_and_gradient(params, x)

            def step(state, box, value, gradient):
                return solver.step(lambda x: (value, gradient, None), state, box)[0]

            state = jax.vmap(step)(state, box, values, gradient * unit)
            return state, trace.at[:, i].set(values)

        state = jax.vmap(solver.init)(problem.start / unit, box)
        trace = jnp.zeros((len(problem.start), budget))
        with jax.default_matmul_precision("highest"):
            return jax.lax.fori_loop(0, budget, body, (state, trace))[-1]

    return problem.ratios(np.asarray(run(problem.net.params)))


def gauss_newton(problem: Problem, budget: int, inner: int, damping: float = 0.1) -> np.ndarray:
    """Ratios of Levenberg-Marquardt by conjugate gradients; J'J v counts as an evaluation."""

    def dot(a, b):
        return jnp.sum(a * b, 1, keepdims=True)

    @jax.jit
    def outer(params, x, damping):
        with jax.default_matmul_precision("highest"):
            phi, pull = jax.vjp(lambda x: problem.features(params, x), x)
            # Forward mode as the transpose of the pullback: see `advjax.attacks.linear`.
            _, push = jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(phi))
            error = phi - problem.target
            gradient = pull(error)[0]
            outward = ((x <= problem.box.lower) & (gradient > 0)) | (
                (x >= problem.box.upper) & (gradient < 0)
            )
            gradient = jnp.where(outward, 0, gradient)
            (along,) = push(gradient)
            weight = damping * dot(along, along) / jnp.maximum(dot(gradient, gradient), 1e-30)

            def conjugate(_, carry):
                d, rest, p, size = carry
                (q,) = push(p)
                a = jnp.where(outward, 0, pull(q)[0]) + weight * p
                step = size / jnp.maximum(dot(p, a), 1e-30)
                d, rest = d + step * p, rest - step * a
                new = dot(rest, rest)
                return d, rest, rest + new / jnp.maximum(size, 1e-30) * p, new

            start = jnp.zeros_like(x), -gradient, -gradient, dot(gradient, gradient)
            d = jax.lax.fori_loop(0, inner, conjugate, start)[0]
            predicted = jnp.sum((error + push(d)[0]) ** 2, 1)
            return jnp.sum(error**2, 1), d, predicted

    params, x = problem.net.params, problem.start
    mu = np.full((len(x), 1), damping, np.float32)
    value, d, predicted = outer(params, x, mu)
    trace = np.full((len(x), budget), np.inf)
    trace[:, 0] = value
    for at in range(inner + 1, budget, inner + 1):
        trial = jnp.clip(x + d, problem.box.lower, problem.box.upper)
        new, new_d, new_predicted = outer(params, trial, mu)
        trace[:, at] = new
        good = np.asarray(new < value)[:, None]
        gain = np.asarray((value - new) / (value - predicted))[:, None]
        mu = np.where(gain > 0.5, mu / 3, np.where(gain < 0.2, mu * 4, mu)).astype(np.float32)
        x, d = jnp.where(good, trial, x), jnp.where(good, new_d, 0.4 * d)
        value = jnp.where(good[:, 0], new, value)
        predicted = jnp.where(good[:, 0], new_predicted, predicted)
    return problem.ratios(trace * np.asarray(problem.scale)[:, None])


def main() -> None:
    """Runs every variant that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="squeezenet-pool10", choices=list(quality.CASES))
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--steps-only", action="store_true", help="not L-BFGS and Gauss-Newton")
    options = parser.parse_args()
    problem, budget = Problem(options.case, options.pairs), options.budget
    runs: dict[str, Callable[[], np.ndarray]] = {
        name: (lambda steps=steps: descend(problem, steps, budget))
        for name, steps in VARIANTS.items()
    }
    if not options.steps_only:
        runs |= {
            "L-BFGS (the default)": lambda: lbfgs(problem, budget),
            "L-BFGS, scaled variables": lambda: lbfgs(problem, budget, scaled=True),
            "L-BFGS, scaling 1": lambda: lbfgs(problem, budget, scaling=(1.0, 1.0)),
            "L-BFGS, scaling 2": lambda: lbfgs(problem, budget, scaling=(2.0, 2.0)),
            "L-BFGS, scaling 3": lambda: lbfgs(problem, budget, scaling=(3.0, 3.0)),
            "L-BFGS, history 20": lambda: lbfgs(problem, budget, history=20),
            "Gauss-Newton, 5 inner steps": lambda: gauss_newton(problem, budget, 5),
            "Gauss-Newton, 10 inner steps": lambda: gauss_newton(problem, budget, 10),
        }
    rows = []
    for name, run in runs.items():
        ratios = run().mean(0)
        at = {f"after {n}": float(ratios[n - 1]) for n in (25, 50, 100, 150) if n <= budget}
        rows.append({"case": options.case, "what": name, **at})
        common.table(rows[-1:])
    common.save(f"schedules-{options.case}-{budget}", rows, pairs=options.pairs)


if __name__ == "__main__":
    main()
