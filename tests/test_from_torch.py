"""PyTorch modules as networks, held against PyTorch: every layer, the output, the input gradient."""

import warnings

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
    """What torchvision's import asks of PyTorch, also where their builds do not fit."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    library.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    pytest.importorskip("torchvision", exc_type=Exception)
    return library


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
    return (pixels - 120) / 60


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
        "divided": lambda x: torch.div(8 * x, 2.9, rounding_mode="floor") + x.detach() // 0.37 + x % 0.37,
        "truncated": lambda x: torch.div(8 * x, 2.9, rounding_mode="trunc") + x,
        "powers": lambda x: x**2 + x.abs() ** 1.5 + x.square() + 2**x + x.abs().pow(VECTOR.abs()),
        "roots": lambda x: (x.abs() + 1).sqrt() + (x * x + 1).rsqrt() + (x * x + 1).reciprocal(),
        "logarithms": lambda x: (x * x + 1).log() + x.exp() + torch.expm1(x) + torch.log1p(x * x),
        "waves": lambda x: x.sin() + x.cos() + x.erf() + x.neg(),
        "steps": lambda x: x.floor() + x.ceil() + x.round() + x.sign() + x.trunc() + x,
        "where": lambda x: torch.where(x > 0.2, 2 * x, VECTOR),
        "masked": lambda x: x.masked_fill((x < 0.1) & (x > -1), 3.0),
        "compared": lambda x: x * ((x >= 0) | (x <= -1) | ~(x != 2)) + x * torch.eq(x, 1),
        "logic": lambda x: x * torch.logical_and(x > 0, x < 1).logical_not(),
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
        "windows": lambda x: x.view(x.shape[0], 4, 2, 3, 2, 4).permute(0, 2, 4, 3, 5, 1).flatten(1, 2),
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
        "new": lambda x: x + x.new_zeros(x.shape[0], 1, 1, 1) + x.new_full((x.shape[0], 1, 1, 1), 2.0),
        "made": lambda x: torch.zeros(x.shape[0], 4, 6, 8) + torch.full((x.shape[0], 1, 1, 1), 0.5) * x,
        "ones": lambda x: torch.ones(x.shape[0], 1, 1, 1) * x + torch.full_like(x, 3),
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
        "means": lambda x: x.mean((2, 3), keepdim=True) + x.sum(-1).sum(-1, keepdim=True)[..., None],
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


class Functions(nn.Module):
    def __init__(self, group):
        super().__init__()
        self.group = group

    def forward(self, x):
        return {name: function(x) for name, function in OPERATIONS[self.group].items()}


USED = set()


@pytest.mark.parametrize("group", OPERATIONS)
def test_operations(group):
    net = check(Functions(group), (6, 8, 4), tolerance=3e-6)
    USED.update(step.operation for step in net.function.args[0].steps)
    assert len(net.layers) == len(OPERATIONS[group])


def test_every_operation_of_the_table_is_tested():
    if len(USED) > 80:  # all groups have run
        missing = [name for name, function in aten.OPERATIONS.items() if function not in USED]
        assert not missing, missing
