"""The engine's promises, on small networks: what a pair gets depends on that pair alone."""

import itertools
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advjax
from advjax import engine
from advjax.engine import loop, problems, stream
from advjax.errors import AdvjaxError, ImageError, UnknownName
from advjax.solvers import OptaxProjected, SignMomentum

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("module_optimised")]

SHAPE = (6, 6, 3)
SHORT = advjax.ProjectedLBFGS(max_evaluations=12)


def small_network(seed=0):
    """Two dense layers; softplus, so that no local minimum is in the way."""
    rng = np.random.default_rng(seed)
    params = {
        "w": rng.standard_normal((108, 40)).astype(np.float32) / 1000,
        "v": rng.standard_normal((40, 10)).astype(np.float32) / 6,
    }

    def function(params, images):
        hidden = jax.nn.softplus((images - 128).reshape(len(images), -1) @ params["w"])
        return {"hidden": hidden, "top": hidden @ params["v"]}

    return advjax.Network(function, SHAPE, params, layer="hidden", output="top")


@pytest.fixture(scope="module")
def net():
    return small_network()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (2, 9, *SHAPE), dtype=np.uint8)


def test_distances_are_those_of_the_images_returned(net, images):
    sources, guides = images
    result = advjax.attack(net, sources, guides, solver=SHORT, batch_size=4, trace=True)
    target = np.asarray(net(guides)["hidden"], np.float64)

    def distance(batch):
        return np.linalg.norm(np.asarray(net(batch)["hidden"], np.float64) - target, axis=1)

    np.testing.assert_allclose(result.distance, distance(result.adversarial), rtol=1e-5)
    np.testing.assert_allclose(result.distance_uint8, distance(result.adversarial_uint8), rtol=1e-5)
    np.testing.assert_allclose(result.initial_distance, distance(sources), rtol=1e-5)
    np.testing.assert_allclose(result.ratio, result.distance / result.initial_distance, rtol=1e-6)
    np.testing.assert_allclose(result.trace[:, 0], result.initial_distance**2, rtol=1e-5)
    np.testing.assert_allclose(np.nanmin(result.trace, 1), result.distance**2, rtol=1e-4)
    assert (result.ratio < 0.9).all()
    np.testing.assert_array_equal(result.label, np.argmax(net(result.adversarial, "top")["top"], 1))
    np.testing.assert_array_equal(result.guide_label, np.argmax(net(guides, "top")["top"], 1))


@pytest.mark.parametrize(
    "solver",
    [
        SHORT,
        SignMomentum(max_evaluations=12),
        OptaxProjected(optax.adam(5.0), max_evaluations=12),
        advjax.ScipyLBFGSB(max_evaluations=12),
    ],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("delta", [0.5, 3.7, 10.0, 400.0])
def test_box_holds_exactly_before_and_after_rounding(net, images, solver, delta):
    sources, guides = images[:, :3]
    result = advjax.attack(net, sources, guides, solver=solver, delta=delta)
    for adversarial in (result.adversarial, result.adversarial_uint8):
        change = np.abs(adversarial.astype(np.float64) - sources.astype(np.float64))
        assert change.max() <= delta
        assert adversarial.min() >= 0
        assert adversarial.max() <= 255
    assert result.adversarial_uint8.dtype == np.uint8


def test_box_holds_exactly_around_fractional_sources(net, images):
    sources = images[0, :3] * np.float32(0.9717)
    result = advjax.attack(net, sources, images[1, :3], solver=SHORT, delta=0.7)
    for adversarial in (result.adversarial, result.adversarial_uint8):
        assert np.abs(adversarial.astype(np.float64) - sources.astype(np.float64)).max() <= 0.7


def by_index(results):
    return {r.index: r for r in results}


def same(a, b):
    return (
        np.array_equal(a.adversarial, b.adversarial)
        and a.status == b.status
        and a.evaluations == b.evaluations
    )


def test_results_do_not_depend_on_order_lane_or_neighbours(net, images):
    """Exactly, on the same device and with the same batch size."""
    pairs = list(zip(*images, strict=True))
    first = by_index(engine.attack_stream(net, pairs, solver=SHORT, batch_size=4))
    order = [4, 2, 8, 0, 7, 1, 6, 3, 5]
    second = by_index(
        engine.attack_stream(net, [pairs[i] for i in order], solver=SHORT, batch_size=4)
    )
    assert all(same(second[place], first[index]) for place, index in enumerate(order))
    alone = by_index(engine.attack_stream(net, iter(pairs[3:4]), solver=SHORT, batch_size=4))
    assert same(alone[0], first[3])


def test_a_stream_gives_each_pair_what_it_gets_alone(images):
    """Exactly, whatever is measured and prepared while the lanes are at work."""

    def function(images):
        bad = jnp.where(images[:, :1, :1, 0] > 250, jnp.nan, 0.0).reshape(-1, 1)
        flat = images.reshape(len(images), -1) / 255
        return {"out": flat + bad, "top": jnp.tanh(flat[:, :10] * 3)}

    net = advjax.Network(function, SHAPE, layer="out", output="top")
    images = images.copy()
    images[..., 0, 0, 0] = 100
    images[0, 4, 0, 0, 0] = 255  # its pair ends at once, with NON_FINITE
    pairs = [
        (source, guide, delta)
        for delta in (20.0, 200.0)
        for source, guide in zip(*images, strict=True)
    ]
    settings = {"solver": advjax.ProjectedLBFGS(9), "until_label": True, "batch_size": 3}
    together = list(engine.attack_stream(net, iter(pairs), **settings))
    for pair, result in zip(pairs, together, strict=True):
        (alone,) = engine.attack_stream(net, iter([pair]), **settings)
        for name, value in alone._replace(index=result.index)._asdict().items():
            np.testing.assert_array_equal(getattr(result, name), value, err_msg=name)
    statuses = {result.status for result in together}
    assert {advjax.Status.LABEL, advjax.Status.NON_FINITE} < statuses  # and others


def test_results_come_out_before_the_next_pair_has_been_read(net, images):
    pairs = list(zip(*images, strict=True))
    read = threading.Event()

    def slow():
        yield from pairs[:8]
        assert read.wait(60)
        yield pairs[8]

    stream = engine.attack_stream(net, slow(), solver=SHORT, batch_size=2, ordered=False)
    assert len({next(stream).index for _ in range(8)}) == 8
    read.set()
    assert [result.index for result in stream] == [8]


def test_results_do_not_depend_on_batch_size(net, images):
    """To a tolerance: another batch size is another program, with other sums inside products."""
    pairs = list(zip(*images, strict=True))
    runs = [
        list(engine.attack_stream(net, iter(pairs), solver=SHORT, batch_size=b)) for b in (1, 3, 16)
    ]
    for other in runs[1:]:
        np.testing.assert_allclose(
            [r.ratio for r in other], [r.ratio for r in runs[0]], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_give_the_results_of_one(net, images, devices):
    pairs = list(zip(*images, strict=True))
    one = list(engine.attack_stream(net, iter(pairs), solver=SHORT, batch_size=2))
    many = list(
        engine.attack_stream(
            net, iter(pairs), solver=SHORT, batch_size=2 * devices, devices=jax.devices()[:devices]
        )
    )
    assert all(same(a, b) for a, b in zip(one, many, strict=True))


def test_stopping_rules_end_pairs_one_by_one(net, images):
    pairs = list(zip(*images, strict=True))
    solver = advjax.ProjectedLBFGS(max_evaluations=60)
    results = list(
        engine.attack_stream(
            net, pairs, solver=solver, delta=60, target_ratio=0.3, batch_size=3, trace=True
        )
    )
    reached = [r for r in results if r.status == advjax.Status.TARGET]
    assert reached
    for r in reached:
        assert r.ratio <= 0.3 * (1 + 1e-4)
        # Not one evaluation too many.
        assert (np.sqrt(r.trace[:-1]) > 0.3 * r.initial_distance).all()
        assert len(r.trace) == r.evaluations
    assert len({r.evaluations for r in reached}) > 2


def test_until_label_stops_at_the_first_image_with_the_guides_label(net, images):
    pairs = list(zip(*images, strict=True))
    solver = advjax.ProjectedLBFGS(max_evaluations=60)
    results = list(
        engine.attack_stream(net, pairs, solver=solver, delta=100, until_label=True, batch_size=4)
    )
    taken = [r for r in results if r.status == advjax.Status.LABEL]
    assert len(taken) >= 5
    assert all(r.label == r.guide_label for r in taken)
    host = list(
        engine.attack_stream(
            net, pairs[:2], solver=advjax.ScipyLBFGSB(60), delta=100, until_label=True
        )
    )
    assert any(r.status == advjax.Status.LABEL for r in host)


def test_nan_pair_ends_alone(images):
    def function(images):
        # Not a number as soon as the first pixel is bright; true of one source here.
        bad = jnp.where(images[:, :1, :1, 0] > 250, jnp.nan, 0.0)
        return {"out": images.reshape(len(images), -1) / 255 + bad.reshape(-1, 1)}

    net = advjax.Network(function, SHAPE)
    sources, guides = images[:, :4].copy()
    sources[:, 0, 0, 0], guides[:, 0, 0, 0] = 100, 100
    clean = list(engine.attack_stream(net, list(zip(sources, guides, strict=True)), solver=SHORT))
    sources[1, 0, 0, 0] = 255
    mixed = list(engine.attack_stream(net, list(zip(sources, guides, strict=True)), solver=SHORT))
    assert mixed[1].status == advjax.Status.NON_FINITE
    assert mixed[1].evaluations == 1
    assert all(same(clean[i], mixed[i]) for i in (0, 2, 3))


def test_refilling_never_retraces(images):
    traces = []

    def function(images):
        traces.append(images.shape)
        return {"out": images.reshape(len(images), -1) / 255}

    net = advjax.Network(function, SHAPE)
    solver = advjax.ProjectedLBFGS(max_evaluations=5)
    pairs = list(zip(*images, strict=True))
    list(engine.attack_stream(net, pairs[:3], solver=solver, batch_size=2))
    once = len(traces)
    list(engine.attack_stream(net, itertools.chain(*[pairs] * 4), solver=solver, batch_size=2))
    assert len(traces) == once


def test_each_program_is_compiled_once(net, images):
    """However often lanes are filled again, on two devices, and nothing by a second call."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, fun_name="", **more: (
            compiled.append(fun_name) if "backend_compile" in name else None
        )
    )
    for count in (2, 2, 9):  # with more pairs, the lanes are filled again
        before = len(compiled)
        settings = {"batch_size": 2, "devices": jax.devices()[:2]}
        advjax.attack(net, *images[:, :count], solver=SignMomentum(3), **settings)
        assert (len(compiled) > before) == (before == 0)
    assert all(compiled.count(f"jit({name})") == 1 for name in ("chunk", "put", "take"))


def test_guides_are_evaluated_once(net, images):
    evaluated = []
    source, guides = images[0, 0], images[1]
    send = stream.Stream.send

    def counting(run, batch):
        evaluated.extend(np.asarray(image).tobytes() for image in batch)
        return send(run, batch)

    stream.Stream.send = counting
    try:
        pairs = [(source, guides[i % 3]) for i in range(20)]
        list(engine.attack_stream(net, pairs, solver=SHORT, batch_size=4))
    finally:
        stream.Stream.send = send
    assert all(evaluated.count(guide.tobytes()) == 1 for guide in guides[:3])


def test_random_start_is_in_the_box_and_seeded(net, images):
    pairs = list(zip(*images[:, :3], strict=True))

    def run(seed):
        solver = advjax.ProjectedLBFGS(max_evaluations=1)
        return list(engine.attack_stream(net, pairs, solver=solver, start="random", seed=seed))

    once, again, other = run(0), run(0), run(1)
    assert all(same(a, b) for a, b in zip(once, again, strict=True))
    assert not any(same(a, b) for a, b in zip(once, other, strict=True))
    for (source, _), result in zip(pairs, once, strict=True):
        assert 0 < np.abs(result.adversarial - source).max() <= 10


def test_several_layers_with_weights(net, images):
    sources, guides = images[:, :2]
    result = advjax.attack(
        net, sources, guides, layer=("hidden", "top"), layer_weights=(2.0, 0.5), solver=SHORT
    )
    a, g = (
        net(x, ("hidden", "top"))
        for x in (jnp.asarray(result.adversarial), guides.astype(np.float32))
    )
    squared = sum(
        w * np.sum((np.asarray(a[k]) - np.asarray(g[k])) ** 2, 1)
        for k, w in (("hidden", 2.0), ("top", 0.5))
    )
    np.testing.assert_allclose(result.distance, np.sqrt(squared), rtol=1e-5)


def test_source_equal_to_guide_is_done_at_once(net, images):
    source = images[0, :1]
    result = advjax.attack(net, source, source, solver=SHORT)
    assert result.evaluations[0] == 1
    assert result.ratio[0] == 0
    np.testing.assert_array_equal(result.adversarial[0], source[0])


def test_stream_takes_pairs_lazily_and_leaves_no_thread(net, images):
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield images[0, i % 9], images[1, i % 9]

    stream = engine.attack_stream(net, endless(), solver=SHORT, batch_size=2)
    assert [next(stream).index for _ in range(5)] == list(range(5))
    assert len(taken) < 60
    stream.close()
    assert readers() == []


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "advjax-reader"]


def test_a_stream_that_is_closed_has_left_its_source(net, images):
    """The reader, in the midst of a pair, is waited for: it must not end while Python does."""
    more = threading.Event()

    def slow():
        yield from zip(images[0, :8], images[1, :8], strict=True)
        more.wait(60)
        yield images[0, 8], images[1, 8]

    source = slow()
    stream = engine.attack_stream(net, source, solver=SHORT, batch_size=2)
    assert next(stream).index == 0
    threading.Timer(0.3, more.set).start()
    stream.close()
    assert more.is_set()
    assert readers() == []
    source.close()  # ValueError if a thread is still in it


def test_a_source_that_gives_nothing_does_not_hold_the_end(net, images, monkeypatch):
    monkeypatch.setattr(problems, "PATIENCE", 0.1)
    more = threading.Event()

    def waiting():
        yield from zip(images[0, :8], images[1, :8], strict=True)
        more.wait(60)

    stream = engine.attack_stream(net, waiting(), solver=SHORT, batch_size=2)
    assert next(stream).index == 0
    stream.close()
    assert len(readers()) == 1
    more.set()
    readers()[0].join(60)
    assert readers() == []


LEFT_OPEN = """
import numpy as np
import advjax

net = advjax.Network(lambda x: {"mean": x.mean((1, 2))}, (4, 4, 3), layer="mean")
pair = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)
stream = advjax.attack_stream(net, iter(lambda: pair, None), batch_size=2, max_evaluations=3)
next(stream)
"""


def test_a_script_may_leave_a_stream_open():
    """It is closed before what it needs is gone: nothing is said, and nothing waits."""
    command = [sys.executable, "-c", LEFT_OPEN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""


def test_an_error_of_the_users_iterator_comes_through(net, images):
    def broken():
        yield images[0, 0], images[1, 0]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(engine.attack_stream(net, broken(), solver=SHORT))


def test_interrupt_yields_what_is_finished_first(images, monkeypatch):
    """Ctrl-C in the middle of a chunk: finished pairs come out, then KeyboardInterrupt."""
    net = small_network(3)
    pairs = list(zip(*images, strict=True))
    stream = engine.attack_stream(net, pairs, solver=SHORT, batch_size=2, ordered=False)
    results = [next(stream)]
    original = np.asarray
    calls = iter([KeyboardInterrupt])

    def interrupted(value, *args, **kwargs):
        if isinstance(value, jax.Array) and value.dtype == jnp.int32 and value.ndim == 1:
            for error in calls:
                raise error
        return original(value, *args, **kwargs)

    monkeypatch.setattr(loop.np, "asarray", interrupted)

    def drain():
        for result in stream:
            results.append(result)

    with pytest.raises(KeyboardInterrupt):
        drain()
    monkeypatch.undo()
    assert len({r.index for r in results}) == len(results) >= 2
    whole = list(engine.attack_stream(net, pairs, solver=SHORT, batch_size=2))
    assert all(same(result, whole[result.index]) for result in results)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"delta": 0}, AdvjaxError, "delta is 0"),
        ({"delta": float("nan")}, AdvjaxError, "delta is nan"),
        ({"delta": "ten"}, AdvjaxError, "delta is 'ten'"),
        ({"delta": [1.0, 2.0]}, AdvjaxError, "delta has 2 values for 9 pairs"),
        ({"layer": "hiden"}, UnknownName, "did you mean 'hidden'"),
        ({"batch_size": 0}, AdvjaxError, "batch_size is 0"),
        ({"batch_size": "big"}, AdvjaxError, "batch_size is 'big'"),
        ({"target_ratio": 1.5}, AdvjaxError, "target_ratio is 1.5"),
        ({"start": "sauce"}, UnknownName, "did you mean 'source'"),
        ({"precision": "high"}, UnknownName, "precision"),
        ({"layer_weights": (1.0, 2.0)}, AdvjaxError, "weights"),
    ],
)
def test_bad_settings_get_one_clear_line(net, images, change, error, message):
    with pytest.raises(error, match=message) as caught:
        advjax.attack(net, *images, **({"solver": SHORT} | change))
    assert "\n" not in str(caught.value)


def test_bad_arrays_get_one_clear_line(net, images):
    sources, guides = images
    with pytest.raises(AdvjaxError, match="sources has 9 images and guides has 8"):
        advjax.attack(net, sources, guides[:8], solver=SHORT)
    with pytest.raises(ImageError, match=r"guides has shape \(9, 6, 6\)"):
        advjax.attack(net, sources, guides[..., 0], solver=SHORT)
    with pytest.raises(ImageError, match="values from nan"):
        advjax.attack(net, np.full(sources.shape, np.nan), guides, solver=SHORT)
    with pytest.raises(ImageError, match="values from -1"):
        advjax.attack(net, sources.astype(np.float32) - 1, guides, solver=SHORT)
    with pytest.raises(AdvjaxError, match="sources is empty"):
        advjax.attack(net, sources[:0], guides[:0], solver=SHORT)
    with pytest.raises(AdvjaxError, match="under half a level"):
        advjax.attack(net, sources, guides, delta=0.2)
    with pytest.raises(AdvjaxError, match="pair 0 is not"):
        list(engine.attack_stream(net, [3], solver=SHORT))


def test_files_are_read_by_the_networks_preprocessing(tmp_path, images):
    net = advjax.Network(
        small_network().function,
        SHAPE,
        small_network().params,
        layer="hidden",
        preprocessing=advjax.Preprocessing(resize="warp", resize_to=6, crop=6),
    )
    for name, image in zip(("a.png", "b.png"), images[:, 0], strict=True):
        advjax.write_png(tmp_path / name, image)
    (by_file,) = engine.attack_stream(
        net, [(tmp_path / "a.png", str(tmp_path / "b.png"))], solver=SHORT
    )
    (by_array,) = engine.attack_stream(net, [(images[0, 0], images[1, 0])], solver=SHORT)
    assert same(by_file, by_array)
    with pytest.raises(ImageError, match="missing"):
        list(engine.attack_stream(net, [(tmp_path / "missing.png", tmp_path / "b.png")]))


def test_auto_batch_size_gives_the_same_results(net, images):
    pairs = [*zip(*images, strict=True)] * 2
    auto = list(engine.attack_stream(net, iter(pairs), solver=SHORT, batch_size="auto"))
    fixed = list(engine.attack_stream(net, pairs, solver=SHORT, batch_size=loop.MAX_LANES_CPU))
    assert all(same(a, b) for a, b in zip(auto, fixed, strict=True))


def test_out_of_memory_halves_the_batch_and_goes_on(net, images, monkeypatch):
    pairs = list(zip(*images, strict=True))
    programs = stream.programs_of

    def small_device(plan):
        real = programs(plan)

        def advance(params, lanes, *rest):
            if len(lanes.trace) > 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return real.advance(params, lanes, *rest)

        return real._replace(advance=advance)

    small = list(engine.attack_stream(net, pairs, solver=SHORT, batch_size=2))
    monkeypatch.setattr(stream, "programs_of", small_device)
    with pytest.warns(UserWarning, match="going on with 2"):
        halved = list(engine.attack_stream(net, pairs, solver=SHORT, batch_size=4))
    assert all(same(a, b) for a, b in zip(small, halved, strict=True))
