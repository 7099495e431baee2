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
            array, expected[name], rtol=0, atol=tolerance * size + 1e-30, err_msg=name
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
