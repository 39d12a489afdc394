"""One bit that differs on one device is found, and the device named. P: device, L: leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.config import Mesh
from jaxsft.devices.mesh import make_mesh, sharding
from jaxsft.training.device_digests import digests_of, holders, odd_ones_out

# Two devices hold each part of a matrix, all eight hold a vector.
SIZES = Mesh(data=2, fsdp=2, tensor=2)
DTYPES = ["float32", "bfloat16", "int32", "int8", "uint8", "float16"]


def placed(dtype):
    mesh = make_mesh(SIZES)
    at = {"matrix": sharding(mesh, "embed", "mlp"), "vector": sharding(mesh)}
    rng = np.random.default_rng(0)
    values = {"matrix": rng.integers(0, 9, (8, 6)), "vector": rng.integers(0, 9, 5)}
    cast = {name: np.asarray(jnp.asarray(v).astype(dtype)) for name, v in values.items()}
    return mesh, at, jax.device_put(cast, at)


def with_flipped_bit(array, device, word, bit):
    """The same array, but for one bit in what one device holds of it."""
    parts = []
    for shard in sorted(array.addressable_shards, key=lambda one: one.device.id):
        part = np.array(shard.data, copy=True)
        if shard.device == device:
            flat = part.reshape(-1)
            raw = flat.view(np.dtype(f"u{flat.dtype.itemsize}"))
            raw[word % len(raw)] ^= np.array(1 << bit, raw.dtype)
        parts.append(jax.device_put(part, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_devices_that_hold_the_same_agree(dtype):
    mesh, at, tree = placed(dtype)
    digests_PL = np.asarray(digests_of(mesh, at)(tree))
    assert digests_PL.shape == (8, 2) and digests_PL.dtype == np.uint32
    for digests_P, name in zip(digests_PL.T, ("matrix", "vector"), strict=True):
        groups = holders(at[name], tree[name].shape)
        assert sorted(map(len, groups)) == ([8] if name == "vector" else [2, 2, 2, 2])
        assert odd_ones_out(digests_P, groups) == []
    assert len(set(digests_PL[:, 0].tolist())) == 4  # each part has a number of its own


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bit", [0, 3, -1])
def test_a_bit_is_found_on_its_device(dtype, bit):
    mesh, at, tree = placed(dtype)
    device = mesh.devices.flat[5]
    bit %= 8 * jnp.dtype(dtype).itemsize
    digests = digests_of(mesh, at)
    clean_PL = np.asarray(digests(tree))
    for name, leaf in (("matrix", 0), ("vector", 1)):
        flipped = tree | {name: with_flipped_bit(tree[name], device, 2, bit)}
        found_PL = np.asarray(digests(flipped))
        assert np.argwhere(found_PL != clean_PL).tolist() == [[5, leaf]]
        odd = odd_ones_out(found_PL[:, leaf], holders(at[name], tree[name].shape))
        # Of two nobody knows which one is wrong.
        assert odd == ([[5]] if name == "vector" else [sorted([5, 1])])


def test_words_that_change_places_are_found():
    mesh, at, tree = placed("float32")
    turned = tree | {"vector": jax.device_put(np.asarray(tree["vector"])[::-1], at["vector"])}
    digests = digests_of(mesh, at)
    assert (np.asarray(digests(turned))[:, 1] != np.asarray(digests(tree))[:, 1]).all()
