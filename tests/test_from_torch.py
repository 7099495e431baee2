"""PyTorch modules as networks, held against PyTorch: layers, outputs, gradients."""

# ruff: noqa: E402  (what needs PyTorch is imported after the skip)
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import Network
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks import aten
from advjax.networks.network import activations
from advjax.smoothing import count_kinks

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="session")
def vision():
    """Make torchvision's import work where its build does not fit PyTorch's."""
    try:
        pytest.importorskip("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        library.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        pytest.importorskip("torchvision")
        yield library  # it is undone when it is collected
    else:
        yield


@pytest.fixture(scope="session")
def timm(vision):
    return pytest.importorskip("timm")


@pytest.fixture(scope="session")
def open_clip(vision):
    return pytest.importorskip("open_clip")


@pytest.fixture(scope="session")
def transformers(vision):
    return pytest.importorskip("transformers")


def scaled(pixels):
    return (pixels - 120) / 61.3  # 0 occurs, other limits do not


def randomised(module):
    """Give every parameter and statistic a value of its own; fresh biases, gains are 0 and 1."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point() and value.ndim < 2:
                noise = torch.randn(value.shape, generator=draw) * 0.1
                value.copy_(value + (noise.abs() if "var" in name else noise))
    return module.eval()


def tensors(output, name):
    """Yield the names and tensors of a module's output, as the layers are named."""
    if isinstance(output, torch.Tensor):
        yield name, output
    elif isinstance(output, dict):
        for key, value in output.items():
            yield from tensors(value, f"{name}.{key}".removeprefix("output."))
    elif isinstance(output, tuple | list):
        for n, value in enumerate(output):
            yield from tensors(value, f"{name}.{n}" if n else name)


def hooked(module, images):
    """Return what forward hooks see, weights of the outputs, and the gradient of their sum."""
    seen = {}

    def watch(name):
        def hook(part, args, result):
            for key, value in tensors(result, name):
                seen[key] = value.detach().clone().numpy()

        return hook

    hooks = [p.register_forward_hook(watch(name)) for name, p in module.named_modules() if name]
    pixels = torch.tensor(images).float().permute(0, 3, 1, 2).requires_grad_()
    outputs = dict(tensors(module(scaled(pixels)), "output"))
    for hook in hooks:
        hook.remove()
    draw = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(value.shape, generator=draw) for name, value in outputs.items()}
    sum((value * weights[name]).sum() for name, value in outputs.items()).backward()
    seen |= {name: value.detach().numpy() for name, value in outputs.items()}
    return seen, {k: v.numpy() for k, v in weights.items()}, pixels.grad.permute(0, 2, 3, 1).numpy()


def evaluated(net, images, weights):
    """Return all layers, and the gradient of the same sum."""

    def total(images):
        found = activations(net.function, True, net.params, images, tuple(net.layers))
        return sum(jnp.sum(found[name] * weight) for name, weight in weights.items()), found

    with jax.default_matmul_precision("highest"):
        gradient, found = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(images, jnp.float32))
    return found, gradient


def check(module, shape, tolerance=1e-5):
    """Hold every layer and the input gradient of a module against PyTorch."""
    randomised(module)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    net = Network.from_torch(module, shape, transform=scaled)
    expected, weights, slope = hooked(module, images)
    # All but what has no batch, such as windows that are folded into it.
    assert all(len(expected[name]) != 2 for name in set(expected) - set(net.layers))
    found, gradient = evaluated(net, images, weights)
    for name, array in found.items():
        size = abs(expected[name]).max()
        np.testing.assert_allclose(
            array, expected[name], rtol=0, atol=tolerance * size + 1e-18, err_msg=name
        )
    error = np.linalg.norm(gradient - slope) / np.linalg.norm(slope)
    assert error < tolerance
    return net


# Architectures.


class VAEEncoder(nn.Module):
    """As in latent diffusion: group norms, SiLU, asymmetric padding, attention between pixels."""

    class Block(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.norm1, self.norm2 = nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
            self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

        def forward(self, x):
            y = self.conv1(F.silu(self.norm1(x)))
            return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))

    class Attention(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.norm = nn.GroupNorm(4, channels)
            self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

        def forward(self, x):
            b, c, h, w = x.shape
            y = self.norm(x).view(b, c, h * w).transpose(1, 2)
            q, k, v = (part.unsqueeze(1) for part in self.qkv(y).chunk(3, -1))
            y = F.scaled_dot_product_attention(q, k, v).squeeze(1)
            return x + self.out(y).transpose(-1, -2).reshape(b, c, h, w)

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.ModuleList([self.Block(8, 8), self.Block(8, 16)])
        self.shrink = nn.ModuleList([nn.Conv2d(n, n, 3, stride=2) for n in (8, 16)])
        self.middle = nn.Sequential(self.Block(16, 16), self.Attention(16))
        self.norm, self.conv_out = nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = shrink(F.pad(block(x), (0, 1, 0, 1)))
        mean, log_variance = self.conv_out(F.silu(self.norm(self.middle(x)))).chunk(2, dim=1)
        return {"mean": mean, "log_variance": log_variance.clamp(-30, 20)}


def test_vae_encoder():
    net = check(VAEEncoder(), (20, 16, 3))
    assert net.layers["mean"] == net.layers["log_variance"] == (4, 5, 4)
    assert net.layers["down.1.conv1"] == (16, 10, 8)


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("resnet18", 64, {}),
        ("vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}),
        (
            "swin_tiny_patch4_window7_224",
            56,
            {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
        ),
        ("convnext_atto", 64, {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40)}),
    ],
    ids=["resnet18", "vit", "swin", "convnext"],
)
def test_timm(timm, name, size, settings):
    torch.manual_seed(0)
    check(timm.create_model(name, pretrained=False, **settings), (size, size, 3))


def test_clip_of_open_clip(open_clip):
    torch.manual_seed(0)
    clip = open_clip.CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        text_cfg={"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1},
    )
    net = check(clip.visual, (32, 32, 3))
    assert net.layers["transformer.resblocks.1"] == (17, 64)
    assert net.layers["output"] == (24,)


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}


def test_clip_of_transformers(transformers):
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**SMALL, projection_dim=16)
    net = check(transformers.CLIPVisionModelWithProjection(config), (28, 28, 3))
    assert net.layers["image_embeds"] == (16,)
    assert net.layers["last_hidden_state"] == (17, 32)


def test_siglip(transformers):
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(**SMALL)
    assert check(transformers.SiglipVisionModel(config), (28, 28, 3)).layers["pooler_output"] == (
        32,
    )


def test_dinov2(transformers):
    torch.manual_seed(0)
    # Position embeddings of another size are interpolated.
    config = transformers.Dinov2Config(**(SMALL | {"image_size": 42}), mlp_ratio=2)
    check(transformers.Dinov2Model(config), (28, 28, 3))


# Operations. Each function takes images [b, 4, 6, 8]; its result is a layer.


def values(*shape):
    """Return numbers of this shape, the same at every call."""
    return torch.tensor(np.random.default_rng(shape).normal(size=shape), dtype=torch.float32)


K3, K2, K1 = values(5, 4, 3, 3) / 4, values(5, 4, 2, 2) / 3, values(5, 4, 1, 1)
DEPTHWISE, DOUBLE, GROUPED = values(4, 1, 3, 3), values(8, 1, 3, 3), values(6, 2, 3, 3)
MATRIX, VECTOR, CHANNELS = values(8, 5), values(8), values(4).abs()
INDEX = torch.tensor([[2, 0], [1, 1]])


def tokens(x):
    return x.flatten(2).transpose(1, 2)  # [b, 48, 4]


def heads(x):
    return tokens(x).unflatten(-1, (2, 2)).permute(0, 2, 1, 3)  # [b, 2, 48, 2]


OPERATIONS = {
    "convolutions": {
        "conv": lambda x: F.conv2d(x, K3, values(5), padding=1),
        "strided": lambda x: F.conv2d(x, K3, stride=2, padding=1),
        "one by one": lambda x: F.conv2d(x, K1),
        "one by one, strided": lambda x: F.conv2d(x, K1, stride=2),
        "one by one, padded": lambda x: F.conv2d(x, K1, padding=1, stride=2),
        "patches": lambda x: F.conv2d(x, K2, stride=2),
        "patches with a rest": lambda x: F.conv2d(x, K3, stride=3),
        "unequal strides": lambda x: F.conv2d(x, K3, stride=(1, 2), padding=(0, 1)),
        "dilated": lambda x: F.conv2d(x, K3, dilation=2, padding=2),
        "same": lambda x: F.conv2d(x, K2, padding="same"),
        "valid": lambda x: F.conv2d(x, K3, padding="valid"),
        "depthwise": lambda x: F.conv2d(x, DEPTHWISE, padding=1, groups=4),
        "depthwise, strided": lambda x: F.conv2d(x, DEPTHWISE, stride=2, groups=4),
        "depthwise, doubled": lambda x: F.conv2d(x, DOUBLE, groups=4),
        "grouped": lambda x: F.conv2d(x, GROUPED, padding=1, groups=2),
        "one dimension": lambda x: F.conv1d(x[:, :, 0], K3[:, :, 0], stride=2, padding=1),
        "transposed": lambda x: F.conv_transpose2d(
            x, K3.transpose(0, 1), values(5), stride=2, padding=1, output_padding=1
        ),
        "transposed, grouped": lambda x: F.conv_transpose2d(x, GROUPED[:4], groups=2, dilation=2),
    },
    "pooling": {
        "max": lambda x: F.max_pool2d(x, 3, 2, 1),
        "max of ties": lambda x: F.max_pool2d(torch.round(x), 3, 2, 1) + 0 * x[:, :, :3, :4],
        "max, ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
        "max, dilated": lambda x: F.max_pool2d(x, (2, 3), (1, 2), (0, 1), dilation=(2, 1)),
        "average": lambda x: F.avg_pool2d(x, 3, 2, 1),
        "average, oblong": lambda x: F.avg_pool2d(x, (2, 3), ceil_mode=True),
        "average, without padding": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        "average, divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
        "adaptive, uneven": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
        "adaptive, one side": lambda x: F.adaptive_avg_pool2d(x, (None, 2)),
        "adaptive, one dimension": lambda x: F.adaptive_avg_pool1d(tokens(x), 3),
        "nearest": lambda x: F.interpolate(x, scale_factor=2),
        "nearest, smaller": lambda x: F.interpolate(x, (5, 3)),
        "bilinear": lambda x: F.interpolate(x, (9, 5), mode="bilinear"),
        "bilinear, aligned": lambda x: F.interpolate(
            x, (9, 5), mode="bilinear", align_corners=True
        ),
        "bilinear, scaled": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        "bicubic": lambda x: F.interpolate(x, (9, 5), mode="bicubic"),
    },
    "elements": {
        "relu": F.relu,
        "relu6": lambda x: F.relu6(4 * x),
        "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
        "hardsigmoid": lambda x: F.hardsigmoid(3 * x),
        "hardswish": lambda x: F.hardswish(3 * x),
        "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
        "prelu": lambda x: F.prelu(x, CHANNELS),
        "elu": lambda x: F.elu(x, 0.7),
        "celu": lambda x: F.celu(x, 0.7),
        "selu": F.selu,
        "gelu": F.gelu,
        "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "mish": F.mish,
        "softplus": lambda x: F.softplus(x, 3.0),
        "log_sigmoid": F.logsigmoid,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "glu": lambda x: F.glu(x, 1),
        "clamp": lambda x: x.clamp(-0.3, 0.4),
        "clamp below": lambda x: x.clamp_min(0.1) + x.clamp(min=0.2),
        "clamp above": lambda x: x.clamp_max(0.1) + x.clamp(max=0.2),
        "maximum": lambda x: torch.maximum(x, x.flip(1)) + torch.minimum(x, VECTOR),
        "arithmetic": lambda x: (3 - x * VECTOR) / (VECTOR + 5) - torch.sub(x, VECTOR, alpha=2),
        "added": lambda x: torch.add(x, VECTOR, alpha=0.5) + torch.rsub(x, 2.0),
        "divided": lambda x: (
            torch.div(8 * x, 2.9, rounding_mode="floor") + x.detach() // 0.37 + x % 0.37
        ),
        "truncated": lambda x: torch.div(8 * x, 2.9, rounding_mode="trunc") + x,
        "powers": lambda x: x**2 + (x.abs() + 0.1) ** VECTOR + x.square() + 2**x + x.exp2(),
        "roots": lambda x: (x.abs() + 1).sqrt() + (x * x + 1).rsqrt() + (x * x + 1).reciprocal(),
        "logarithms": lambda x: (x * x + 1).log() + x.exp() + torch.expm1(x) + torch.log1p(x * x),
        "waves": lambda x: x.sin() + x.cos() + x.erf() + x.neg() + torch.atan2(x, x + 3),
        "steps": lambda x: x.floor() + x.ceil() + x.round() + x.sign() + x.trunc() + x,
        "where": lambda x: torch.where(x > 0.2, 2 * x, VECTOR),
        "masked": lambda x: x.masked_fill((x < 0.1) & (x > -1), 3.0),
        "compared": lambda x: x * ((x >= 0) | (x <= -1) | ~(x != 2)) + x * torch.eq(x, 1),
        "logic": lambda x: (
            x * torch.logical_and(x > 0, x < 1).logical_not()
            + x * torch.logical_xor(x > 0, x > 1) * torch.logical_or(x > 0, x < -1)
        ),
        "bits": lambda x: (
            x * torch.bitwise_and(x > -1, torch.bitwise_or(x > 0, x < -2))
            + x * ((x > 0) ^ (x > 1))
            + x * (x.long() & 3 | 4 ^ x.long())
        ),
        "not a number": lambda x: x * (x / x).isnan() + x * (1 / x).isfinite(),
        "addcmul": lambda x: torch.addcmul(x, x, VECTOR, value=0.5) + torch.lerp(x, VECTOR, 0.3),
        "detached": lambda x: x * x.detach(),
        "in place": lambda x: (x * 2).relu_().add(1).sigmoid_(),
        "whole numbers": lambda x: x * (torch.ones_like(x, dtype=torch.int32) * 3 / 2),
    },
    "shapes": {
        "views": lambda x: x.view(x.shape[0], 2, 2, 48).reshape(x.shape[0], -1, 6, 4),
        "tokens": tokens,
        "heads": heads,
        "back": lambda x: tokens(x).transpose(1, 2).reshape(x.shape),
        "windows": lambda x: (
            x.view(x.shape[0], 4, 2, 3, 2, 4).permute(0, 2, 4, 3, 5, 1).flatten(1, 2)
        ),
        "squeezed": lambda x: x.mean(2, keepdim=True).squeeze(2).unsqueeze(-1),
        "all squeezed": lambda x: x[:, :, :1].squeeze().unsqueeze(1),
        "expanded": lambda x: x[:, :1].expand(-1, 3, -1, -1) + VECTOR.expand(x.shape[0], 3, 6, 8),
        "expanded as": lambda x: x[:, :1].expand_as(x) + VECTOR.broadcast_to(x.shape),
        "repeated": lambda x: x.repeat(1, 2, 1, 1) + VECTOR.repeat(x.shape[0], 8, 6, 1),
        "sliced": lambda x: x[:, 1:3, ::2, -5:-1] + x.narrow(3, 2, 4)[:, :2, :3],
        "selected": lambda x: x[:, 1] + x.select(1, -1),
        "split": lambda x: torch.cat(x.split(3, dim=3)[::-1], 3),
        "split by sizes": lambda x: torch.cat(x.split([1, 5], dim=2)[::-1], 2),
        "chunks": lambda x: torch.cat(x.chunk(3, dim=3)[::-1], 3),
        "unbound": lambda x: torch.stack(x.unbind(1)[::-1], dim=-1),
        "stacked": lambda x: torch.stack([x, 2 * x], 1),
        "concatenated": lambda x: torch.cat([x, x.transpose(2, 3).transpose(2, 3) * 2], 1),
        "rolled": lambda x: x.roll((1, -2), (2, 3)) + x[:1].roll(3),
        "flipped": lambda x: x.flip(-1),
        "padded": lambda x: F.pad(x, (1, -2, 0, 3), value=0.5),
        "reflected": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
        "replicated": lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
        "circular": lambda x: F.pad(x, (1, 2, 3, 0), mode="circular"),
        "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
        "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
        "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
        "unfolded": lambda x: F.unfold(x, 3, padding=1, stride=2),
        "transposed": lambda x: tokens(x)[:1].squeeze(0).t().expand(x.shape[0], -1, -1),
        "indexed": lambda x: x[:, INDEX],
        "indexed twice": lambda x: x[:, :, [1, 0], [2, 5]],
        "index_select": lambda x: x.index_select(3, INDEX[0]),
        "gathered": lambda x: x.gather(3, (x > 0).long()),
        "assigned": lambda x: _assigned(x),
        "embedded": lambda x: x * F.embedding((x > 0).long(), values(2, 1)).squeeze(-1),
        "triangles": lambda x: x.tril() + x.triu(1),
        "summed up": lambda x: x.cumsum(1),
        "new": lambda x: (
            x + x.new_zeros(x.shape[0], 1, 1, 1) + x.new_full((x.shape[0], 1, 1, 1), 2.0)
        ),
        "made": lambda x: (
            torch.zeros(x.shape[0], 4, 6, 8) + torch.full((x.shape[0], 1, 1, 1), 0.5) * x
        ),
        "ones": lambda x: (
            torch.ones(x.shape[0], 1, 1, 1) * x + torch.full_like(x, 3) * torch.zeros_like(x)
        ),
        "new ones": lambda x: x * x.new_ones(x.shape[0], 1, 1, 1),
        "numbered": lambda x: x * torch.arange(x.shape[0])[:, None, None, None],
    },
    "products": {
        "linear": lambda x: F.linear(x, MATRIX.T, values(5)),
        "matmul": lambda x: x @ MATRIX,
        "vector": lambda x: x @ VECTOR,
        "tokens": lambda x: tokens(x).transpose(1, 2) @ tokens(x),
        "broadcast": lambda x: x @ values(1, 8, 3),
        "bmm": lambda x: torch.bmm(tokens(x), x[:, :, 0]),
        "addmm": lambda x: torch.addmm(values(5), x[:, 0, 0], MATRIX, alpha=0.5),
        "baddbmm": lambda x: torch.baddbmm(x[:, :, 0], x[:, :, :, 0], x[:, 0], beta=0.5),
        "einsum": lambda x: torch.einsum("bchw,bcvw->bhv", x, x),
        "attention": lambda x: F.scaled_dot_product_attention(heads(x), heads(x), 2 * heads(x)),
        "causal": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        "masked": lambda x: F.scaled_dot_product_attention(
            x, x, x, attn_mask=torch.eye(6).bool(), scale=0.3
        ),
        "biased": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.eye(6)),
        "grouped": lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:], enable_gqa=True),
        "softmax": lambda x: x.softmax(1),
        "log_softmax": lambda x: x.log_softmax(-1),
    },
    "statistics": {
        "batch_norm": lambda x: F.batch_norm(x, CHANNELS, CHANNELS + 1, CHANNELS, CHANNELS),
        "batch_norm, plain": lambda x: F.batch_norm(x, CHANNELS, CHANNELS + 1),
        "layer_norm": lambda x: F.layer_norm(x, (6, 8), values(6, 8), values(6, 8)),
        "layer_norm of channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,), CHANNELS),
        "rms_norm": lambda x: F.rms_norm(x, (8,), VECTOR),
        "group_norm": lambda x: F.group_norm(x, 2, CHANNELS, CHANNELS),
        "instance_norm": lambda x: F.instance_norm(x, weight=CHANNELS),
        "normalised": lambda x: F.normalize(x, dim=1),
        "norms": lambda x: x.norm(dim=(2, 3)) + x.norm(1, dim=(2, 3)) + (3 * x).norm(3, dim=(2, 3)),
        "norm of nothing": lambda x: (x * 0).norm(dim=1),
        "greatest": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
        "means": lambda x: (
            x.mean((2, 3), keepdim=True) + x.sum(-1).sum(-1, keepdim=True)[..., None]
        ),
        "of all": lambda x: x * x.mean() + x.sum(),
        "extremes": lambda x: x.amax((2, 3)) + x.amin((2, 3)),
        "max and min": lambda x: x.max(1).values + x.min(dim=1, keepdim=True)[0].squeeze(1),
        "max of all": lambda x: x * x.max() + x.min(),
        "places": lambda x: x * x.argmax(1, keepdim=True),
        "variances": lambda x: x.var((2, 3)) + x.var(dim=(2, 3), unbiased=False),
        "deviations": lambda x: x.std((2, 3), correction=2),
        "both": lambda x: sum(torch.var_mean(x, (2, 3))),
        "products": lambda x: x.prod(1),
        "logsumexp": lambda x: x.logsumexp(1),
        "any and all": lambda x: x * (x > 1).any(1, keepdim=True) + x * (x > -1).all(1)[:, None],
        "dropout": lambda x: F.dropout(x, training=False) + F.dropout2d(x, training=False),
        "copies": lambda x: x.clone().contiguous().to(torch.float64).to(x.dtype).type_as(x),
    },
}


def _assigned(x):
    y = x.clone()
    y[:, 1:3, ::2] = 2 * x[:, :2, :3]
    y[:, 0] = 1
    y[:, :, 0, [1, 2]] = x[:, :, 1, :2]
    return y


def test_a_batch_of_one_is_not_squeezed():
    class Squeezing(nn.Module):
        def forward(self, x):
            return x.mean((2, 3), keepdim=True).squeeze()

    net = Network.from_torch(Squeezing(), (10, 12, 3))
    assert net(np.zeros((1, 10, 12, 3), np.uint8))["output"].shape == (1, 3)


class Functions(nn.Module):
    def __init__(self, group):
        super().__init__()
        self.group = group

    def forward(self, x):
        return {name: function(x) for name, function in OPERATIONS[self.group].items()}


@pytest.mark.parametrize("group", OPERATIONS)
def test_operations(group):
    net = check(Functions(group), (6, 8, 4), tolerance=3e-6)
    assert len(net.layers) == len(OPERATIONS[group])


def test_every_operation_of_the_table_is_tested():
    used = set()
    for group in OPERATIONS:
        net = Network.from_torch(Functions(group), (6, 8, 4))
        used.update(step.operation for step in net.function.args[0].steps)
    missing = [name for name, function in aten.OPERATIONS.items() if function not in used]
    assert not missing


# What a network made of a module is.

SHAPE = (10, 12, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)


class Small(nn.Module):
    """An in-place ReLU, an Identity, two calls of one part, and a part that gives two tensors."""

    class Halves(nn.Module):
        def forward(self, x):
            return x.chunk(2, 1)

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.relu, self.rest = nn.ReLU(inplace=True), nn.Identity()
        self.halves, self.head = self.Halves(), nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x, y = self.halves(self.rest(self.relu(self.norm(self.conv(x)))))
        return self.head(self.head(self.drop(x.mean((2, 3)) + y.amax((2, 3)))))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return randomised(Small())


def output(module, images=IMAGES):
    with torch.no_grad():
        pixels = torch.tensor(images).float().permute(0, 3, 1, 2)
        return module(scaled(pixels)).float().numpy()


@pytest.mark.usefixtures("optimised")  # else the ReLU's input is computed twice, to other last bits
def test_layers_are_what_hooks_see(small):
    net = check(small, SHAPE)
    assert list(net.layers) == [
        *("conv", "norm", "relu", "rest", "halves", "halves.1", "drop", "head", "output")
    ]
    found = net(IMAGES, ("norm", "relu", "rest"))
    assert (np.asarray(found["norm"]) < 0).any()  # before the ReLU that works in place
    np.testing.assert_array_equal(found["relu"], np.maximum(found["norm"], 0))
    np.testing.assert_array_equal(found["rest"], found["relu"])


class Extremes(nn.Module):
    """Maxima of what XLA may compute twice, with another rounding: a sum may be fused into each."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.norm, self.other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = torch.maximum(self.norm(self.first(x)), self.other(self.second(x)))
        x = self.last(x * x) * 0.01 + 0.003
        return torch.minimum(x, x * 1.5 + 0.1).amax((2, 3)) + x.amin((2, 3)) + x.max()


def test_a_second_rounding_loses_no_gradient():
    torch.manual_seed(0)
    check(Extremes(), SHAPE)


def test_what_a_module_returns_has_its_keys():
    class Twice(nn.Module):
        def forward(self, x):
            return {"mean": x.mean((2, 3)), "all": (x, {"max": x.amax((2, 3))}), "count": 3}

    net = Network.from_torch(Twice(), SHAPE)
    assert net.layers == {"mean": (3,), "all": (3, 10, 12), "all.1.max": (3,)}


def test_a_batch_that_is_not_the_first_dimension_is_moved_there():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 3)

        def forward(self, x):
            x = x.mean(1).permute(1, 0, 2)  # [tokens, batch, channels]
            return self.attention(x, x, x)[0][0]

    torch.manual_seed(0)
    module = randomised(Sequence())
    net = Network.from_torch(module, SHAPE, transform=scaled)
    assert net.layers["attention"] == (10, 12)
    seen = hooked(module, IMAGES)[0]["attention"]
    np.testing.assert_allclose(
        net(IMAGES, "attention")["attention"], seen.swapaxes(0, 1), rtol=1e-4, atol=1e-5
    )


def test_any_number_of_images_gives_each_what_it_has_alone(small, timm):
    torch.manual_seed(0)
    settings = {"img_size": 28, "window_size": 7, "embed_dim": 12, "depths": (2,)}
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", num_heads=(2,), num_classes=3, **settings
    )
    for module, shape in ((small, SHAPE), (randomised(swin), (28, 28, 3))):
        images = np.random.default_rng(1).integers(0, 256, (3, *shape), np.uint8)
        net = Network.from_torch(module, shape, transform=scaled)
        expected = output(module, images)
        for batch in (images[:1], images[:2], images):
            np.testing.assert_allclose(
                net(batch, "output")["output"], expected[: len(batch)], rtol=1e-4, atol=1e-5
            )


def test_the_mode_of_a_module_is_kept_and_evaluation_is_meant(small):
    expected = output(small)
    small.train()
    small.norm.eval()
    statistics = small.norm.running_mean.clone()
    net = Network.from_torch(small, SHAPE, transform=scaled)
    assert small.training
    assert small.drop.training
    assert not small.norm.training
    np.testing.assert_array_equal(small.norm.running_mean, statistics)
    np.testing.assert_allclose(net(IMAGES)["output"], expected, rtol=1e-4, atol=1e-5)


def test_a_network_has_its_own_weights_and_nothing_of_pytorch(small):
    net = Network.from_torch(small, SHAPE, transform=scaled)
    expected = np.asarray(net(IMAGES)["output"])
    assert set(net.params) >= {"conv.weight", "conv.bias", "head.weight", "norm.running_var"}
    assert jax.tree.all(jax.tree.map(lambda leaf: leaf.dtype == jnp.float32, net.params))
    with torch.no_grad():
        small.conv.weight.zero_()  # as training would
    np.testing.assert_array_equal(net(IMAGES)["output"], expected)
    held = weakref.ref(small.conv)
    del small.conv
    gc.collect()
    assert held() is None


def test_weights_are_arguments_of_the_program(small):
    net = Network.from_torch(small, SHAPE)
    traced = jax.make_jaxpr(net.function)(net.params, IMAGES.astype(np.float32))
    assert sum(np.size(constant) for constant in traced.consts) < 20
    other = {name: 0 * value for name, value in net.params.items()}
    assert not np.any(net.function(other, IMAGES.astype(np.float32))["output"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(small, dtype):
    expected = output(small)
    small.to(dtype)
    net = Network.from_torch(
        small, SHAPE, transform=lambda pixels: scaled(pixels.astype(jnp.float32))
    )
    computed = net.function(net.params, IMAGES.astype(np.float32))
    assert {str(array.dtype) for array in computed.values()} == {str(dtype).removeprefix("torch.")}
    found = net(IMAGES, ("conv", "output"))
    assert {str(array.dtype) for array in found.values()} == {"float32"}
    size = abs(expected).max()
    error = np.asarray(found["output"], np.float32) - expected
    assert abs(error).max() < 4 * torch.finfo(dtype).eps * size
    pixels = torch.tensor(IMAGES).permute(0, 3, 1, 2)
    theirs = small(scaled(pixels.float()).to(dtype)).detach().float().numpy()
    assert abs(np.asarray(found["output"], np.float32) - theirs).max() < (
        4 * torch.finfo(dtype).eps * size
    )


def test_a_transform_may_change_the_size(small):
    def smaller(images):
        return scaled(images[:, 1:-1, ::2])

    net = Network.from_torch(small, SHAPE, transform=smaller)
    pixels = torch.tensor(IMAGES[:, 1:-1, ::2]).float().permute(0, 3, 1, 2)
    expected = small(scaled(pixels)).detach().numpy()
    np.testing.assert_allclose(net(IMAGES)["output"], expected, rtol=1e-4, atol=1e-5)


def test_a_residual_branch_of_zeros_has_pytorchs_gradient():
    class Block(nn.Module):  # as timm and torchvision begin: the last gain is 0
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

        def forward(self, x):
            return F.relu(x).add(F.relu(self.last(F.relu(self.conv(x))))).mean((2, 3))

    torch.manual_seed(0)
    module = Block()
    net = Network.from_torch(module, SHAPE, transform=scaled)
    _, weights, slope = hooked(module, IMAGES)
    gradient = evaluated(net, IMAGES, weights)[1]
    assert np.linalg.norm(gradient - slope) < 1e-5 * np.linalg.norm(slope)


# Only some layers, and what cannot be had.


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.count = nn.Conv2d(3, 2, 3), nn.Flatten(0)

    def forward(self, x):
        x = self.conv(x)
        return torch.fft.fft2(x).real, self.count(x)


def test_an_unknown_operation_is_named_and_layers_before_it_can_be_had():
    with pytest.raises(AdvjaxError, match=r"does not know .* of Spectral: \w*fft\w* ") as error:
        Network.from_torch(Spectral(), SHAPE)
    assert "layers=" in str(error.value)
    assert "\n" not in str(error.value)
    for layers in ("conv", ("conv",)):
        net = Network.from_torch(Spectral(), SHAPE, layers=layers)
        assert net.layers == {"conv": (2, 8, 10)}


def test_layers_that_cannot_be_had():
    with pytest.raises(UnknownName, match="did you mean 'conv'"):
        Network.from_torch(Spectral(), SHAPE, layers=("convx",))
    with pytest.raises(
        AdvjaxError, match=r"layer 'count' of Spectral .* no dimension is the batch"
    ):
        Network.from_torch(Spectral(), SHAPE, layers=("count",))


class Counting(nn.Module):
    def forward(self, x):
        return x.reshape(len(x), 360)


class Choosing(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x


@pytest.mark.parametrize(
    ("module", "shape", "told"),
    [
        (lambda x: x, SHAPE, "module is a function; give a torch.nn.Module"),
        (nn.Conv2d(3, 2, 3), (3, 10, 12), "input_shape is (height, width, channels)"),
        (nn.Conv2d(3, 2, 3), (10, 12), "input_shape is (10, 12)"),
        (Counting(), SHAPE, "use x.shape[0]"),
        (Choosing(), SHAPE, "torch.export cannot make a graph of Choosing"),
    ],
    ids=["function", "order", "two", "len", "values"],
)
def test_modules_that_cannot_be_had(module, shape, told):
    with pytest.raises(AdvjaxError) as error:
        Network.from_torch(module, shape)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# Attacks.


def test_an_attack_on_a_resnet18(timm):
    torch.manual_seed(0)
    module = timm.create_model("resnet18", pretrained=False, num_classes=10)
    shape = (32, 32, 3)
    net = Network.from_torch(module, shape, transform=scaled, layer="layer2")
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)

    def last(images):
        return net.function(net.params, images)["output"]

    assert count_kinks(last, images.astype(np.float32)) == 17  # its ReLUs
    result = advjax.attack(net, images[:2], images[2:], delta=10.0, progress=False)
    assert result.adversarial.shape == (2, *shape)
    assert (result.ratio < 0.9).all()
    assert (abs(result.adversarial - images[:2].astype(np.float32)) <= 10).all()


# The longer list.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("resnet50", 96), ("vit_small_patch16_224", 224), ("deit3_small_patch16_224", 224)),
        *(("vit_base_patch16_siglip_224", 224), ("vit_small_patch14_dinov2", 518)),
        *(("vit_small_patch16_dinov3", 256), ("convnext_tiny", 96), ("convnextv2_atto", 96)),
        *(("swin_tiny_patch4_window7_224", 224), ("swinv2_tiny_window8_256", 256)),
        *(("mobilenetv3_large_100", 96), ("efficientnet_b0", 96), ("densenet121", 96)),
        *(("inception_resnet_v2", 128), ("regnety_004", 96), ("resnext50_32x4d", 96)),
        *(("mixer_s32_224", 224), ("beit_base_patch16_224", 224), ("eva02_tiny_patch14_224", 224)),
        *(("vgg11_bn", 96), ("maxvit_nano_rw_256", 256), ("resnetv2_50", 96)),
    ],
)
def test_timm_in_full_size(timm, name, size):
    torch.manual_seed(0)
    check(timm.create_model(name, pretrained=False), (size, size, 3), tolerance=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_open_clip_in_full_size(open_clip, name):
    torch.manual_seed(0)
    check(open_clip.create_model(name, pretrained=None).visual, (224, 224, 3), tolerance=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Dinov2", "Dinov2WithRegisters", "DINOv3ViT", "ConvNextV2"])
def test_transformers_in_full_size(transformers, name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(image_size=224)
    check(getattr(transformers, f"{name}Model")(config), (224, 224, 3), tolerance=2e-5)
