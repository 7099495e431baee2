import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from advjax.errors import AdvjaxError
from advjax.solvers import Box, JaxoptLBFGSB, Status, minimize

solve = jax.jit(minimize, static_argnums=0)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@Partial
def objective(x):
    return *jax.value_and_grad(rosenbrock)(x), jnp.max(x)


BOX = Box(jnp.full(6, -2.0), jnp.full(6, 0.7))
X0 = jnp.full(6, -1.0)


def test_it_is_jaxopts_own_path_with_true_counts():
    # In float64: float32's rounding differs by processor, and parts the paths within 12 steps.
    with jax.enable_x64(True):
        _walk_beside_jaxopt(jnp.full(6, -1.0), Box(jnp.full(6, -2.0), jnp.full(6, 0.7)))


def _walk_beside_jaxopt(x0, box):
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return objective(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt
    theirs = jaxopt.LBFGSB(
        fun=lambda x: ((objective(x)[0], None), objective(x)[1]),
        value_and_grad=True,
        has_aux=True,
    )
    x = x0
    inner = theirs.init_state(x, tuple(box))

    solver = JaxoptLBFGSB()
    step = jax.jit(lambda state: solver.step(counted, state, box))
    state, info = step(solver.init(x0, box))
    for _ in range(12):
        np.testing.assert_allclose(state.trial, x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(info.value, inner.value, rtol=1e-4)
        assert info.aux == jnp.max(state.trial)
        jax.effects_barrier()
        assert state.evaluations == len(calls)
        x, inner = theirs.update(x, inner, tuple(box))
        state, info = step(state)


def test_a_box_is_solved_with_its_active_bounds():
    center = jnp.array([3.0, -3.0, 0.3])
    f = Partial(lambda x: (jnp.sum((x - center) ** 2), 2 * (x - center), None))
    box = Box(jnp.full(3, -1.0), jnp.full(3, 1.0))
    state = solve(JaxoptLBFGSB(), f, jnp.array([9.0, 0.0, 0.0]), box)
    assert state.status == Status.GTOL
    assert state.best.x[:2].tolist() == [1.0, -1.0]
    np.testing.assert_allclose(state.best.x[2], 0.3, atol=1e-5)


def test_budget_ends_a_lane_at_the_first_iteration_that_reaches_it():
    state = solve(JaxoptLBFGSB(max_evaluations=9, max_line_search=5), objective, X0, BOX)
    assert state.status == Status.MAX_EVALUATIONS
    assert 9 <= state.evaluations < 9 + 1 + 5
    again, _ = jax.jit(lambda state: JaxoptLBFGSB(9).step(objective, state, BOX))(state)
    jax.tree.map(np.testing.assert_array_equal, state, again)


def test_the_best_is_inside_and_is_what_was_evaluated():
    rng = np.random.default_rng(0)
    lower = jnp.asarray(rng.normal(size=40) / 3, jnp.float32)
    box = Box(lower, lower + jnp.asarray(rng.random(40), jnp.float32))
    shifted = Partial(lambda x: (jnp.sum(jnp.cosh(x - 0.2)), jnp.sinh(x - 0.2), None))
    solver = JaxoptLBFGSB()
    step = jax.jit(lambda state: solver.step(shifted, state, box)[0])
    state = solver.init(jnp.zeros(40), box)
    for _ in range(10):
        state = step(state)
        for x in (state.trial, state.best.x):
            assert jnp.all((box.lower <= x) & (x <= box.upper))
        np.testing.assert_allclose(state.best.value, shifted(state.best.x)[0], rtol=1e-6)


def test_a_nan_lane_ends_alone_and_vmapped_equals_one_by_one():
    solver = JaxoptLBFGSB(max_line_search=8)
    x0 = jnp.stack([X0, X0 + 0.3, X0 + 0.6])
    boxes = Box(*(jnp.broadcast_to(bound, (3, 6)) for bound in BOX))

    @jax.jit
    def run(weight):
        def step(state, box, w):
            weighted = lambda x: jax.tree.map(lambda a: w * a, objective(x))  # noqa: E731
            return solver.step(weighted, state, box)[0]

        state = jax.vmap(solver.init)(x0, boxes)
        body = lambda _, state: jax.vmap(step)(state, boxes, weight)  # noqa: E731
        return jax.lax.fori_loop(0, 6, body, state)

    healthy, sick = run(jnp.ones(3)), run(jnp.array([1.0, jnp.nan, 1.0]))
    assert sick.status[1] == Status.NON_FINITE
    assert np.isinf(sick.best.value[1])
    others = jnp.array([0, 2])
    for a, b in zip(jax.tree.leaves(healthy), jax.tree.leaves(sick), strict=True):
        np.testing.assert_array_equal(a[others], b[others])
    step = jax.jit(lambda state: solver.step(objective, state, BOX)[0])
    alone = solver.init(x0[0], BOX)
    for _ in range(6):
        alone = step(alone)
    np.testing.assert_allclose(healthy.best.x[0], alone.best.x, rtol=1e-3)
    assert healthy.evaluations[0] == alone.evaluations


def test_it_is_imported_at_first_use_only_and_silently():
    program = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "import jax.numpy as jnp\n"
        "from advjax.solvers import Box, JaxoptLBFGSB\n"
        "assert 'jaxopt' not in sys.modules\n"
        "JaxoptLBFGSB().init(jnp.zeros(2), Box(jnp.zeros(2), jnp.ones(2)))\n"
        "assert 'jaxopt' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrong_settings_are_named():
    with pytest.raises(AdvjaxError, match="max_evaluations is 0; give"):
        JaxoptLBFGSB(max_evaluations=0)


def test_without_jaxopt_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxopt", None)
    with pytest.raises(AdvjaxError, match=r"pip install 'advjax\[bench\]'"):
        minimize(JaxoptLBFGSB(), objective, jnp.zeros(2), Box(jnp.zeros(2), jnp.ones(2)))
