"""Every layer against a plain definition in NumPy loops: value and input gradient, in float64."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax.networks import convolution_forms as forms
from advjax.networks import layers

pytestmark = pytest.mark.device

few = settings(max_examples=12, deadline=None)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


# The plain definitions: one window, one channel, one entry at a time.


def plain_convolution(x, kernel, stride=1, padding=((0, 0), (0, 0)), groups=1):
    kh, kw, inputs, outputs = kernel.shape
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    rows = range(0, x.shape[1] - kh + 1, stride)
    columns = range(0, x.shape[2] - kw + 1, stride)
    y = np.zeros((len(x), len(rows), len(columns), outputs))
    for p, i in enumerate(rows):
        for q, j in enumerate(columns):
            for o in range(outputs):
                first = o // (outputs // groups) * inputs
                patch = x[:, i : i + kh, j : j + kw, first : first + inputs]
                y[:, p, q, o] = (patch * kernel[..., o]).sum((1, 2, 3))
    return y


def window_starts(size, window, stride, padding):
    """Windows until the padded image is covered; none that starts beyond the image in padding."""
    starts = [-padding]
    while starts[-1] + window < size + padding:
        starts.append(starts[-1] + stride)
    if padding and starts[-1] >= size:
        starts.pop()
    return starts


def plain_pool(x, window, stride, padding, kind):
    _, h, w, _ = x.shape
    rows, columns = (window_starts(n, window, stride, padding) for n in (h, w))
    y = np.zeros((len(x), len(rows), len(columns), x.shape[3]))
    for (p, i), (q, j) in itertools.product(enumerate(rows), enumerate(columns)):
        clipped = x[:, max(i, 0) : i + window, max(j, 0) : j + window]
        if kind == "max":
            y[:, p, q] = clipped.max((1, 2))
        else:  # the divisor counts padding, but nothing beyond it
            area = (min(i + window, h + padding) - i) * (min(j + window, w + padding) - j)
            y[:, p, q] = clipped.sum((1, 2)) / area
    return y


def plain_lrn_across(x, size, alpha, beta, k):
    y = np.zeros_like(x)
    for c in range(x.shape[-1]):
        near = x[..., max(c - size // 2, 0) : c + size // 2 + 1]
        y[..., c] = x[..., c] / (k + alpha / size * (near**2).sum(-1)) ** beta
    return y


def plain_lrn_within(x, size, alpha, beta):
    y, r = np.zeros_like(x), size // 2
    for i, j in np.ndindex(x.shape[1:3]):
        near = x[:, max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1]
        y[:, i, j] = x[:, i, j] / (1 + alpha / size**2 * (near**2).sum((1, 2))) ** beta
    return y


def check(layer, plain, x, seed=0):
    """`layer` has the values of `plain` at `x`, and its gradient by central differences."""
    expected = plain(x)
    cotangent = np.random.default_rng(seed).normal(size=expected.shape)

    @jax.jit
    def both(x, cotangent):
        y, pullback = jax.vjp(layer, x)
        return y, pullback(cotangent)[0]

    y, gradient = both(x, cotangent)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    for n in range(len(x)):  # one image at a time, its entries along the batch
        step = 1e-5 * np.eye(x[n].size).reshape(-1, *x.shape[1:])
        slope = (plain(x[n] + step) - plain(x[n] - step)) / 2e-5
        numeric = (slope * cotangent[n]).sum((1, 2, 3)).reshape(x.shape[1:])
        np.testing.assert_allclose(gradient[n], numeric, rtol=1e-6, atol=1e-7)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def distinct(*shape, seed=1):
    """No two entries closer than 0.01: a maximum stays one under a small step. Both signs."""
    n = int(np.prod(shape))
    return ((np.random.default_rng(seed).permutation(n) - n / 2) / 100).reshape(shape)


sides = st.integers(1, 9)
margins = st.tuples(st.integers(0, 3), st.integers(0, 3))


@few
@given(
    size=st.tuples(sides, sides),
    window=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.tuples(margins, margins),
    groups=st.integers(1, 3),
    inputs=st.integers(1, 2),
    outputs=st.integers(1, 2),
)
def test_convolution(size, window, stride, padding, groups, inputs, outputs):
    short = (max(0, window - n - sum(pad)) for n, pad in zip(size, padding, strict=True))
    x = normal(2, *(n + more for n, more in zip(size, short, strict=True)), groups * inputs)
    kernel = normal(window, window, inputs, groups * outputs, seed=2)
    check(
        lambda x: forms.convolution(x, kernel, stride=stride, padding=padding, groups=groups),
        lambda x: plain_convolution(x, kernel, stride, padding, groups),
        x,
    )


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("window", "stride", "size", "padding"),
    [
        (11, 4, (19, 23), 0),  # CaffeNet's conv1
        (11, 4, (22, 20), 0),  # the last incomplete steps are dropped
        (7, 2, (9, 8), 3),  # GoogLeNet's
        (3, 2, (6, 6), ((0, 1), (0, 1))),  # EfficientNet-Lite0's, TensorFlow's SAME
        (5, 3, (4, 7), ((2, 0), (0, 3))),
        (5, 4, (1, 1), 2),
        (4, 2, (4, 5), ((0, 5), (3, 0))),  # windows wholly in padding
    ],
)
def test_strided_convolution_of_few_channels(window, stride, size, padding, backend, monkeypatch):
    """The rewrite through space to depth; what it does for a GPU runs here on the CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    pads = ((padding,) * 2,) * 2 if isinstance(padding, int) else padding
    kernel = normal(window, window, 3, 2, seed=2)
    check(
        lambda x: forms.convolution(x, kernel, stride=stride, padding=padding),
        lambda x: plain_convolution(x, kernel, stride, pads),
        normal(1, *size, 3),
    )


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_with_a_kernel_that_is_not_square(channels, groups, stride):
    kernel = normal(3, 5, channels, 2 * groups, seed=2)
    check(
        lambda x: forms.convolution(x, kernel, stride=stride, padding=1, groups=groups),
        lambda x: plain_convolution(x, kernel, stride, ((1, 1), (1, 1)), groups),
        normal(1, 5, 4, channels * groups),
    )


@pytest.mark.parametrize("padding", [0, ((2, 1), (0, 3))])
@pytest.mark.parametrize(("window", "size"), [((3, 3), (6, 7)), ((4, 5), (5, 5))])
@pytest.mark.parametrize(("inputs", "outputs"), [(17, 3), (12, 16)])
def test_convolution_of_few_channels(inputs, outputs, window, size, padding):
    """Few outputs, or few inputs, which are the outputs of the gradient."""
    kernel = normal(*window, inputs, outputs, seed=2)
    pads = padding or ((0, 0), (0, 0))
    check(
        lambda x: forms.convolution(x, kernel, padding=padding),
        lambda x: plain_convolution(x, kernel, 1, pads),
        normal(1, *size, inputs),
    )


@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 2), (3, 0))])
def test_convolution_by_winograd(pads, monkeypatch):
    """Tiles of 2 x 2 here at any size; many channels would make the test slow, not sharper."""
    monkeypatch.setattr(
        forms,
        "_plain",
        lambda x, kernel, pads, _: forms._winograd(x, kernel, pads),
    )
    kernel = normal(3, 3, 3, 2, seed=2)
    check(
        lambda x: forms.convolution(x, kernel, padding=pads),
        lambda x: plain_convolution(x, kernel, 1, pads),
        normal(2, 6, 7, 3),
    )


def test_winograd_is_for_whole_precision_and_many_pixels():
    """In 16 bits its sums would lose digits; for few pixels the kernel's transform costs more."""

    def products(side, dtype):
        x, kernel = jnp.zeros((1, side, side, 96), dtype), jnp.zeros((3, 3, 96, 96), dtype)
        jaxpr = jax.make_jaxpr(lambda x: forms.convolution(x, kernel, padding=1))(x)
        return str(jaxpr).count("dot_general")

    assert products(8, jnp.float32) == 1
    assert products(8, jnp.bfloat16) == 0
    assert products(7, jnp.float32) == 0


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (1, 1)])
def test_convolution_with_a_kernel_of_one_pixel(stride, padding, groups):
    kernel = normal(1, 1, 3, 2 * groups, seed=2)
    check(
        lambda x: forms.convolution(x, kernel, stride=stride, padding=padding, groups=groups),
        lambda x: plain_convolution(x, kernel, stride, ((padding,) * 2,) * 2, groups),
        normal(2, 4, 5, 3 * groups),
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", [2, 3])
def test_convolution_of_patches_drops_what_is_left_over(window, groups):
    kernel = normal(window, window, 2, 2 * groups, seed=2)
    check(
        lambda x: forms.convolution(x, kernel, stride=window, groups=groups),
        lambda x: plain_convolution(x, kernel, window, groups=groups),
        normal(2, 7, 5, 2 * groups),
    )


@pytest.mark.parametrize(
    ("shape", "stride", "groups"),
    [
        ((3, 3, 4, 4), 1, 1),
        ((3, 3, 4, 2), 2, 1),  # through space to depth
        ((3, 3, 2, 6), 1, 2),
        ((1, 1, 4, 3), 1, 1),
        ((3, 5, 1, 4), 1, 4),  # depthwise
        ((3, 3, 1, 4), 2, 4),
    ],
)
def test_gradient_for_the_kernel(shape, stride, groups):
    x, kernel, pads = normal(2, 7, 6, 4), normal(*shape, seed=2), ((0, 1), (2, 1))
    layer = forms.convolution
    if shape[2] == 1 and groups == shape[3]:
        layer, rest = forms.depthwise_convolution, {}
    else:
        rest = {"groups": groups}
    y, pullback = jax.vjp(lambda k: layer(x, k, stride=stride, padding=pads, **rest), kernel)
    cotangent = normal(*y.shape, seed=3)
    numeric = np.zeros(shape)
    for place in np.ndindex(shape):  # the layer is linear in its kernel
        one = np.zeros(shape)
        one[place] = 1
        numeric[place] = (plain_convolution(x, one, stride, pads, groups) * cotangent).sum()
    np.testing.assert_allclose(pullback(cotangent)[0], numeric, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_the_gradient_of_a_convolution_has_a_gradient(groups, stride):
    """By which a network is linearised: forward, with what reverse mode alone knows."""
    x, kernel, pads = normal(1, 6, 5, 4), normal(3, 3, 4 // groups, 2, seed=2), ((0, 1), (2, 1))

    def layer(x):
        return forms.convolution(x, kernel, stride=stride, padding=pads, groups=groups)

    y, pullback = jax.vjp(layer, x)
    direction = normal(*x.shape, seed=3)
    _, forward = jax.vjp(lambda ct: pullback(ct)[0], y)
    expected = plain_convolution(direction, kernel, stride, pads, groups)
    np.testing.assert_allclose(forward(direction)[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU kernels")
def test_in_a_loop_the_gradient_is_a_convolution_of_the_usual_layout(stride):
    """The only one for which XLA has a fast kernel there; the others are 50 times slower."""
    kernel = np.ones((3, 3, 3, 3), np.float32)

    def energy(x):
        return (forms.convolution(x, kernel, stride=stride, padding=1) ** 2).sum()

    def descent(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: x - jax.grad(energy)(x), x)

    program = jax.jit(descent).lower(np.ones((2, 8, 8, 3), np.float32)).compile().as_text()
    layouts = re.findall(r" convolution\(.*dim_labels=([^, ]+)", program)
    assert len(layouts) >= 2
    assert set(layouts) == {"b01f_01io->b01f"}


@few
@given(
    size=st.tuples(sides, sides),
    window=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
    padding=st.tuples(margins, margins),
    channels=st.integers(1, 3),
)
def test_depthwise_convolution(size, window, stride, padding, channels):
    short = (max(0, k - n - sum(pad)) for k, n, pad in zip(window, size, padding, strict=True))
    x = normal(2, *(n + more for n, more in zip(size, short, strict=True)), channels)
    kernel = normal(*window, 1, channels, seed=2)
    check(
        lambda x: forms.depthwise_convolution(x, kernel, stride=stride, padding=padding),
        lambda x: plain_convolution(x, kernel, stride, padding, channels),
        x,
    )


@st.composite
def pools(draw):
    """Size, window, stride and padding as Caffe allows them, with no gaps between windows."""
    window = draw(st.integers(1, 5))
    stride = draw(st.integers(1, window))
    padding = draw(st.integers(0, window - 1))
    least = window - 2 * padding - stride + 1  # for one window
    size = draw(st.tuples(sides, sides))
    return tuple(max(n, least) for n in size), window, stride, padding


@few
@given(pools(), st.sampled_from(["max", "average"]))
def test_pooling(geometry, kind):
    size, window, stride, padding = geometry
    layer = {"max": layers.max_pool, "average": layers.average_pool}[kind]
    check(
        lambda x: layer(x, window, stride, padding),
        lambda x: plain_pool(x, window, stride, padding, kind),
        distinct(2, *size, 2),
    )


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "pooled"),
    [
        (55, 3, 2, 0, 27),  # CaffeNet, exact
        (112, 3, 2, 0, 56),  # GoogLeNet: the last window is clipped
        (109, 3, 3, 0, 37),  # VGG CNN-S: it has one pixel
        (32, 3, 2, 0, 16),  # CIFAR-10
        (7, 3, 2, 1, 4),
        (6, 3, 2, 1, 4),  # clipped by the padding
        (4, 3, 3, 2, 2),  # a third window would start in padding
        (1, 3, 2, 1, 1),
    ],
)
def test_pooled_size(size, window, stride, padding, pooled):
    assert layers.pooled_size(size, window, stride, padding) == pooled
    assert len(window_starts(size, window, stride, padding)) == pooled


def test_pooling_with_unequal_padding():
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3))
    sides = ((1, 0), (0, 2))
    zeros = np.pad(x, ((0, 0), *sides, (0, 0)))
    lowest = np.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-np.inf)
    for ceil in (False, True):
        most = layers.max_pool(x, 3, 2, sides, ceil=ceil)
        np.testing.assert_array_equal(most, layers.max_pool(lowest, 3, 2, ceil=ceil))
        mean = layers.average_pool(x, 3, 2, sides, ceil=ceil)
        np.testing.assert_allclose(mean, layers.average_pool(zeros, 3, 2, ceil=ceil))
    inner = layers.average_pool(np.ones_like(x), 3, 2, sides, divisor="image")
    np.testing.assert_allclose(inner, 1)
    assert [layers.pooled_size(5, 3, 2, sides) for sides in ((0, 2), (2, 0), (0, 3))] == [3, 3, 3]


def test_average_pool_divides_at_the_border_by_the_window_clipped_to_the_padding():
    # Ones, 5 wide: window 3, stride 2, padding 1 covers -1..1, 1..3, 3..5 of -1..5.
    y = layers.average_pool(np.ones((1, 5, 5, 1)), 3, 2, 1)[0, :, :, 0]
    np.testing.assert_allclose(y[0], np.array([4, 6, 4]) / 9)
    # 4 wide, ceil mode: the last window covers 3..5, of which 5 is beyond the padding (divisor 2).
    y = layers.average_pool(np.ones((1, 4, 4, 1)), 3, 2, 1)[0, :, :, 0]
    np.testing.assert_allclose(y[2], np.array([2 / 6, 3 / 6, 1 / 4]))


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"),
    [((5, 6), 3, 2, 0), ((4, 5), 3, 1, 1), ((4, 4), 2, 2, 0), ((5, 4), 3, 2, 1), ((1, 1), 3, 1, 1)],
)
def test_max_pool_gives_the_gradient_of_a_window_to_the_first_of_its_largest(
    size, window, stride, padding
):
    pool = jax.jit(lambda x: layers.max_pool(x, window, stride, padding))
    slopes = jax.jit(jax.jacrev(lambda x: pool(x[None, :, :, None])[0, :, :, 0]))
    rows, columns = (window_starts(n, window, stride, padding) for n in size)
    for seed in range(10):
        x = np.random.default_rng(seed).integers(0, 2, size).astype(float)  # ties everywhere
        y, jacobian = pool(x[None, :, :, None])[0, :, :, 0], np.asarray(slopes(x))
        for (p, i), (q, j) in itertools.product(enumerate(rows), enumerate(columns)):
            ((a, b),) = np.argwhere(jacobian[p, q])
            assert jacobian[p, q, a, b] == 1
            assert x[a, b] == y[p, q]
            assert i <= a < i + window
            assert j <= b < j + window
            inside = np.argwhere(x[max(i, 0) : i + window, max(j, 0) : j + window] == y[p, q])
            assert (a, b) == tuple(inside[0] + [max(i, 0), max(j, 0)])  # row by row


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "dilation"),
    [
        ((6, 8), (3, 3), (2, 2), (0, 0), (1, 1)),
        ((6, 8), (2, 3), (1, 2), (1, 0), (1, 1)),
        ((7, 6), (3, 2), (2, 1), (1, 1), (2, 3)),
    ],
)
def test_pooling_as_in_pytorch_rounds_down(size, window, stride, padding, dilation):
    x = distinct(2, *size, 2)

    def plain(x, kind):
        fill = -np.inf if kind == "max" else 0
        sides = tuple((n, n) for n in padding)
        padded = np.pad(x, ((0, 0), *sides, (0, 0)), constant_values=fill)
        valid = np.pad(np.ones_like(x), ((0, 0), *sides, (0, 0)))
        reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        starts = [
            range(0, n - r + 1, s) for n, r, s in zip(padded.shape[1:3], reach, stride, strict=True)
        ]
        y = np.zeros((len(x), *map(len, starts), x.shape[3]))
        for (p, i), (q, j) in itertools.product(*map(enumerate, starts)):
            rows, columns = slice(i, i + reach[0], dilation[0]), slice(j, j + reach[1], dilation[1])
            part = padded[:, rows, columns]
            if kind == "max":
                y[:, p, q] = part.max((1, 2))
            else:
                area = {"padded": np.prod(window), "image": valid[:, rows, columns].sum((1, 2))}
                y[:, p, q] = part.sum((1, 2)) / area.get(kind, kind)
        return y

    settings = {"ceil": False, "dilation": dilation}
    check(
        lambda x: layers.max_pool(x, window, stride, padding, **settings),
        lambda x: plain(x, "max"),
        x,
    )
    for divisor in ("padded", "image", 5) if dilation == (1, 1) else ():
        check(
            lambda x, divisor=divisor: layers.average_pool(
                x, window, stride, padding, ceil=False, divisor=divisor
            ),
            lambda x, divisor=divisor: plain(x, divisor),
            x,
        )


@few
@given(
    channels=st.integers(1, 8),
    size=st.sampled_from([1, 3, 5, 7]),
    alpha=st.sampled_from([1e-4, 0.5, 3.0]),
    beta=st.sampled_from([0.75, 0.5, 1.0, 1.3]),
    k=st.sampled_from([1.0, 2.0]),
)
def test_lrn_across_channels(channels, size, alpha, beta, k):
    check(
        lambda x: layers.lrn_across_channels(x, size, alpha, beta, k),
        lambda x: plain_lrn_across(x, size, alpha, beta, k),
        3 * normal(2, 2, 1, channels),
    )


@few
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.sampled_from([1, 3, 5]),
    alpha=st.sampled_from([5e-5, 0.5, 3.0]),
    beta=st.sampled_from([0.75, 0.5, 1.3]),
)
def test_lrn_within_channel(shape, size, alpha, beta):
    check(
        lambda x: layers.lrn_within_channel(x, size, alpha, beta),
        lambda x: plain_lrn_within(x, size, alpha, beta),
        3 * normal(2, *shape, 2),
    )


def test_lrn_has_a_finite_gradient_at_zero():
    gradient = jax.grad(lambda x: layers.lrn_across_channels(x).sum())(np.zeros((1, 1, 1, 5)))
    np.testing.assert_array_equal(gradient, 1)


KERNEL, SMALL, DEPTHWISE = normal(3, 3, 2, 4), normal(5, 5, 4, 3), normal(3, 3, 1, 4)


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: forms.convolution(x, KERNEL, padding=1, groups=2),
        lambda x: forms.convolution(x, SMALL, stride=2, padding=2),
        lambda x: forms.depthwise_convolution(x, DEPTHWISE, stride=2, padding=1),
        lambda x: layers.max_pool(x, 3, 2, 1),
        lambda x: layers.average_pool(x, 3, 2),
        layers.lrn_across_channels,
        lambda x: layers.lrn_within_channel(x, size=3, alpha=1.0),
    ],
    ids=["groups", "space-to-depth", "depthwise", "max", "average", "across", "within"],
)
def test_one_by_one_under_vmap_equals_the_batch(layer):
    x = normal(3, 8, 7, 4)

    def energy(image):
        return (jnp.sin(layer(image[None]))).sum()

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(energy)))(x)

    @jax.jit
    def batch(x):
        y, pullback = jax.vjp(layer, x)
        return jnp.sin(y).sum((1, 2, 3)), pullback(jnp.cos(y))[0]

    together, pulled = batch(x)
    np.testing.assert_allclose(values, together, rtol=1e-12)
    np.testing.assert_allclose(gradients, pulled, rtol=1e-12, atol=1e-14)


def test_float32_stays_float32():
    """Nothing in a layer raises the precision of a float32 network."""
    x = jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32)
    kernel, filters = np.ones((3, 3, 4, 2), np.float32), np.ones((3, 3, 1, 4), np.float32)
    for layer in (
        lambda x: forms.convolution(x, jnp.asarray(kernel), stride=2),
        lambda x: forms.depthwise_convolution(x, jnp.asarray(filters)),
        lambda x: layers.max_pool(x, 3, 2),
        lambda x: layers.average_pool(x, 3, 2, 1),
        layers.lrn_across_channels,
        layers.lrn_within_channel,
    ):
        assert jax.eval_shape(layer, x).dtype == jnp.float32


# The modules.


def test_conv_adds_its_bias_after_the_groups():
    module = layers.Conv(4, 6, 3, stride=2, padding=1, groups=2, rng=np.random.default_rng(0))
    module.bias[...] = jnp.arange(6, dtype=jnp.float32)
    x = normal(2, 5, 5, 4).astype(np.float32)
    kernel = np.asarray(module.kernel[...])
    expected = plain_convolution(x, kernel, 2, ((1, 1), (1, 1)), 2) + np.arange(6)
    assert kernel.shape == (3, 3, 2, 6)
    np.testing.assert_allclose(module(x), expected, rtol=1e-5, atol=1e-5)


def test_inner_product_flattens_height_width_channels():
    module = layers.InnerProduct((2, 3, 4), 5, bias=0.5, rng=np.random.default_rng(0))
    kernel = np.asarray(module.kernel[...]).reshape(2, 3, 4, 5)
    x = normal(2, 2, 3, 4)
    expected = np.einsum("bhwc,hwco->bo", x, kernel) + 0.5
    np.testing.assert_allclose(module(x), expected, rtol=1e-6)


def test_fillers():
    kernel = np.asarray(layers.fill(np.random.default_rng(0), (5, 5, 20, 100), 0.01))
    assert kernel.dtype == np.float32
    assert abs(kernel.std() / 0.01 - 1) < 0.02
    assert abs(kernel.mean()) < 2e-4
    kernel = np.asarray(layers.fill(np.random.default_rng(0), (5, 5, 20, 100), None))
    limit = (3 / 500) ** 0.5  # xavier: variance 1 / fan in
    assert abs(kernel).max() <= limit
    assert abs(kernel).max() > 0.999 * limit
    assert abs(kernel.var() * 500 - 1) < 0.02
    assert not np.asarray(layers.fill(None, (2, 3), 1.0)).any()
