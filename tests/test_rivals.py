"""The published rules, step by step, against NumPy transcriptions of their publications.

The transcriptions hold the source, epsilon and the two clips of the publications, where the solvers
know the box alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.errors import AdvjaxError
from advjax.solvers import APGD, PUBLISHED, Box, SignDescent, Status, minimize
from advjax.solvers.base import epsilon

EPSILON = 8.0
SIZE = 30
RNG = np.random.default_rng(5)
SOURCE = RNG.integers(0, 256, SIZE).astype(float)
SOURCE[:10] = [0, 255, *[3, 252] * 4]  # 0..255 cuts off a part of their box
BOX = Box(np.maximum(SOURCE - EPSILON, 0), np.minimum(SOURCE + EPSILON, 255))
INNER = RNG.normal(size=(40, SIZE)) * 0.06
OUTER = RNG.normal(size=(20, 40))
GUIDE = OUTER @ np.sin(INNER @ RNG.uniform(BOX.lower, BOX.upper))


def objective(x, xp):
    """A small network's squared distance to the guide, and its gradient."""
    hidden = INNER @ x
    error = OUTER @ xp.sin(hidden) - GUIDE
    return xp.sum(error**2), INNER.T @ (2 * xp.cos(hidden) * (OUTER.T @ error)), None


def evaluate(x):
    return objective(x, np)[:2]


def clip(x):
    """The two clips of an attack: to epsilon around the source, then to pixels."""
    return np.clip(np.clip(x, SOURCE - EPSILON, SOURCE + EPSILON), 0, 255)


def sign_pgd(steps):
    x, points = SOURCE, []
    for _ in range(steps):
        points.append(x)
        x = clip(x - 1.0 * np.sign(evaluate(x)[1]))
    return points


def mi_fgsm(steps):
    x, g, points = SOURCE, np.zeros(SIZE), []
    for _ in range(steps):
        points.append(x)
        gradient = evaluate(x)[1]
        g = 1.0 * g + gradient / np.abs(gradient).sum()
        x = clip(x - EPSILON / 10 * np.sign(g))
    return points


def m_attack(steps):
    x, momentum, points = SOURCE, np.zeros(SIZE), []
    for _ in range(steps):
        points.append(x)
        momentum = momentum * 0.9 + evaluate(x)[1]
        x = clip(x - 1.0 * np.sign(momentum))
    return points


def adam(steps):
    x, m, v, points = SOURCE, np.zeros(SIZE), np.zeros(SIZE), []
    for t in range(1, steps + 1):
        points.append(x)
        gradient = evaluate(x)[1]
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        x = clip(x - 1.0 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return points


def nightshade(steps):
    x, points = SOURCE, []
    for i in range(steps):
        points.append(x)
        size = EPSILON - (EPSILON - EPSILON / 100) / steps * i
        x = clip(x - size * np.sign(evaluate(x)[1]))
    return points


def apgd_checkpoints(iterations):
    p = [0.0, 0.22]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return [int(np.ceil(round(each * iterations, 9))) for each in p if each <= 1]


def apgd(steps, halvings=None):
    """Algorithm 1 of Croce and Hein, which maximises: f is minus the objective.

    `halvings` gets for each: condition 1, condition 2, and that the best point was another one.
    """
    f = lambda x: -evaluate(x)[0]  # noqa: E731
    ascent = lambda x: np.sign(-evaluate(x)[1])  # noqa: E731
    alpha, rho, iterations = 0.75, 0.75, steps - 1
    w = apgd_checkpoints(iterations)
    eta = 2 * EPSILON
    x = [SOURCE, clip(SOURCE + eta * ascent(SOURCE))]
    points = list(x)  # as they were before they were replaced by the best one
    x_max = max(x, key=f)
    f_max = f(x_max)
    etas, f_maxes = {0: eta}, {0: f_max}
    for k in range(1, iterations):
        etas[k] = eta
        z = clip(x[k] + eta * ascent(x[k]))
        x.append(clip(x[k] + alpha * (z - x[k]) + (1 - alpha) * (x[k] - x[k - 1])))
        points.append(x[k + 1])
        if f(x[k + 1]) > f_max:
            x_max, f_max = x[k + 1], f(x[k + 1])
        f_maxes[k] = f_max
        if k in w:
            before = w[w.index(k) - 1]
            rises = sum(f(x[i + 1]) > f(x[i]) for i in range(before, k))
            few = rises < rho * (k - before)
            stuck = etas[before] == etas[k] and f_maxes[before] == f_maxes[k]
            if few or stuck:
                if halvings is not None:
                    halvings.append((bool(few), bool(stuck), bool((x[k + 1] != x_max).any())))
                eta = eta / 2
                x[k + 1] = x_max
    return points


TRANSCRIPTIONS = {
    "sign-pgd": sign_pgd,
    "mi-fgsm": mi_fgsm,
    "m-attack": m_attack,
    "adam": adam,
    "nightshade": nightshade,
    "apgd": apgd,
}


def run(solver, steps):
    """Every point that was evaluated, and the last state."""
    with jax.enable_x64(True):
        box = Box(*map(jnp.asarray, BOX))
        step = jax.jit(lambda state: solver.step(lambda x: objective(x, jnp), state, box)[0])
        state, points = solver.init(jnp.asarray(SOURCE), box), []
        for _ in range(steps):
            points.append(np.asarray(state.trial))
            state = step(state)
        return points, jax.device_get(state)


@pytest.mark.parametrize("steps", [30, 60])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_rule_is_its_publication_step_by_step(name, steps):
    points, state = run(PUBLISHED[name](steps), steps)
    expected = TRANSCRIPTIONS[name](steps)
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-9)
    values = [evaluate(x)[0] for x in expected]
    assert state.best.value == pytest.approx(min(values))
    np.testing.assert_allclose(state.best.x, expected[int(np.argmin(values))], atol=1e-9)
    assert (state.status, state.evaluations) == (Status.MAX_EVALUATIONS, steps)


def test_the_transcriptions_meet_0_and_255_and_each_condition_of_auto_pgd():
    for transcription in TRANSCRIPTIONS.values():
        points = np.array(transcription(30))
        assert np.isin(points[:, 2:10], (0, 255)).any()  # none of them is there at first
    halvings = []
    apgd(30, halvings)
    assert {(few, stuck) for few, stuck, _ in halvings} >= {(True, False), (False, True)}
    assert {moved for _, _, moved in halvings} == {True, False}


@pytest.mark.parametrize("budget", [2, 3, 10, 51, 101, 500, 1000])
def test_the_checkpoints_are_those_of_the_paper(budget):
    assert list(APGD(budget).checkpoints) == apgd_checkpoints(budget - 1)[1:]
    assert APGD(101).checkpoints == (22, 41, 57, 70, 80, 87, 93, 99)


def test_epsilon_is_the_widest_half_width_whatever_0_and_255_cut_off():
    assert epsilon(Box(*map(jnp.asarray, BOX))) == EPSILON


@pytest.mark.parametrize("name", ["mi-fgsm", "nightshade", "apgd"])
def test_an_infinite_bound_is_named_where_steps_are_relative(name):
    box = Box(jnp.zeros(2), jnp.array([1.0, jnp.inf]))
    with pytest.raises(AdvjaxError, match=r"box has an infinite bound.*ProjectedLBFGS"):
        PUBLISHED[name](5).init(jnp.zeros(2), box)
    assert PUBLISHED["sign-pgd"](5).init(jnp.zeros(2), box).evaluations == 0


def test_a_zero_gradient_moves_nothing():
    flat = lambda x: (jnp.float32(1), jnp.zeros_like(x), None)  # noqa: E731
    box = Box(jnp.full(3, -1.0), jnp.ones(3))
    for rule in PUBLISHED.values():
        state = minimize(rule(9), flat, jnp.zeros(3), box)
        assert state.trial.tolist() == [0.0] * 3
        assert state.status == Status.MAX_EVALUATIONS


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (SignDescent, {"max_evaluations": 0}),
        (SignDescent, {"step_size": 0.0}),
        (SignDescent, {"step_size": float("nan")}),
        (SignDescent, {"last_step": 0.0}),
        (SignDescent, {"last_step": 2.0}),
        (SignDescent, {"momentum": 1.5}),
        (APGD, {"max_evaluations": 0}),
        (APGD, {"step_size": 3.0}),
        (APGD, {"alpha": 0.0}),
        (APGD, {"rho": 1.5}),
    ],
)
def test_wrong_settings_are_named(kind, arguments):
    with pytest.raises(AdvjaxError, match=f"{next(iter(arguments))} is .*; give"):
        kind(**arguments)
