import jax
import jax.numpy as jnp
import numpy as np

from advjax import Network
from advjax.networks.identity import network_key, weights_hash


def function(params, images):
    return {"x": images}


def network(params):
    return Network(function, (2, 2, 3), params=params)


def test_the_hash_sees_every_leaf_and_nothing_else():
    params = {"a": np.zeros((2, 3), np.float32), "b": np.float32(1)}
    base = weights_hash(network(params))
    assert weights_hash(network(jax.tree.map(jnp.asarray, params))) == base
    others = [
        params | {"a": np.zeros((3, 2), np.float32)},
        params | {"a": np.zeros((2, 3), np.int32)},
        params | {"b": np.nextafter(np.float32(1), np.float32(2))},
        None,
    ]
    hashes = {weights_hash(network(other)) for other in others}
    assert len(hashes | {base}) == 5
    # What cannot be given to a hash as it is.
    strange = {"half": jnp.ones(2, jnp.bfloat16), "key": jax.random.key(0), "t": np.eye(3).T[::2]}
    assert weights_hash(network(strange)) == weights_hash(network(dict(strange)))


def test_the_key_is_plain_json():
    key = network_key(Network(function, (2, 2, 3), params=np.zeros(3), name="tiny"))
    assert key["network"] == "tiny"
    assert key["input_shape"] == [2, 2, 3]
    assert key["preprocessing"] is None


def test_the_name_does_not_change_the_hash():
    params = np.arange(3)
    named = Network(function, (2, 2, 3), params=params, name="other")
    assert weights_hash(named) == weights_hash(network(params))
