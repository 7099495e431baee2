"""A vision transformer that nobody has trained, for what is the architecture's own share.

advjax reproduce table1 --network benchmarks/vit.py:random_vit ...

ViT-Ti/16 (Dosovitskiy et al., 2021): 12 blocks of 192 numbers and 3 heads, 224 x 224 pixels, random
weights; "output" is the class token after the last norm.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import advjax

SIDE, PATCH, WIDTH, HEADS, DEPTH = 224, 16, 192, 3, 12


class Block(nnx.Module):
    """Attention and a perceptron, each after a norm and beside a sum."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.inner = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.outer = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return tokens [b, n, WIDTH] for such."""
        x = x + self.attention(self.norm1(x))
        return x + self.outer(nnx.gelu(self.inner(self.norm2(x)), approximate=False))


class ViT(nnx.Module):
    """Patches and a class token with their positions, blocks, a norm."""

    def __init__(self, rngs: nnx.Rngs):
        draw = nnx.initializers.truncated_normal(0.02)
        tokens = 1 + (SIDE // PATCH) ** 2
        self.patches = nnx.Conv(3, WIDTH, (PATCH, PATCH), PATCH, padding="VALID", rngs=rngs)
        self.token = nnx.Param(draw(rngs.params(), (1, 1, WIDTH)))
        self.positions = nnx.Param(draw(rngs.params(), (1, tokens, WIDTH)))
        self.blocks = nnx.List(Block(rngs) for _ in range(DEPTH))
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return the class tokens [b, WIDTH] of images [b, SIDE, SIDE, 3]."""
        x = self.patches(images).reshape(len(images), -1, WIDTH)
        token = jnp.broadcast_to(self.token[...], (len(images), 1, WIDTH))
        x = jnp.concatenate([token, x], 1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


def random_vit() -> advjax.Network:
    """Return the network."""
    return advjax.Network.from_nnx(
        ViT(nnx.Rngs(0)),
        (SIDE, SIDE, 3),
        transform=lambda pixels: (pixels - 127.5) / 127.5,
        name="vit",
        layer="output",
        preprocessing=advjax.Preprocessing("short_side", 256, SIDE),
    )
