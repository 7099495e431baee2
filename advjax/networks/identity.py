"""The identity of a network: the keys by which banks and runs recognise it."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.networks.network import Network


def weights_hash(net: Network) -> str:
    """Return the SHA-256 of the network's parameters (each leaf's dtype, shape, bytes), in hex.

    A network without `params` has its weights inside its function, where nothing can see them: all
    such networks have the same hash. One without weights yet (`zoo.outline`) has none: "".

    Example:
        >>> net = Network(lambda params, images: {"x": images}, (2, 2, 3), params=np.zeros(3))
        >>> weights_hash(net) == weights_hash(dataclasses.replace(net, params=np.ones(3)))
        False
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(net.params):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return ""
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaf = np.asarray(leaf)
        digest.update(f"{leaf.dtype.name}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def network_key(net: Network) -> dict[str, Any]:
    """Return the settings that identify a network in a manifest, as plain JSON values.

    Returns:
        `network` (its name), `weights` (`weights_hash`), `input_shape` and `preprocessing`.
    """
    preprocessing = net.preprocessing
    plain = None if preprocessing is None else dataclasses.asdict(preprocessing)
    key = {
        "network": net.name,
        "weights": weights_hash(net),
        "input_shape": list(net.input_shape),
        "preprocessing": plain,
    }
    return json.loads(json.dumps(key))  # as it will be read back
