"""Digests: the number that saved checkpoints hold, whatever the blocks an array is read in."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.devices import digest

KNUTH = 2654435761  # The Art of Computer Programming, vol. 3, section 6.4: 2**32 / golden ratio


def expected(array):
    """The sum of bits * (2 * index * KNUTH + 1), in Python's own numbers."""
    bits = np.ascontiguousarray(array).view(f"uint{8 * array.dtype.itemsize}").ravel().tolist()
    return sum(one * (2 * index * KNUTH + 1) for index, one in enumerate(bits)) % 2**32


def made(shape, dtype):
    values = np.random.default_rng(0).normal(size=shape) * 100
    return np.asarray(jnp.asarray(values, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 5)], ids=str)
def test_a_digest_is_the_one_that_checkpoints_of_before_hold(shape, dtype):
    array = made(shape, dtype)
    assert int(digest.digests(jnp.asarray(array))) == expected(array)
    assert digest.of_part(array, (0,) * array.ndim, array.shape) == expected(array)


@pytest.mark.parametrize("piece", [1, 2, 7, 2**16])
def test_the_digests_of_any_blocks_add_up(monkeypatch, piece):
    monkeypatch.setattr(digest, "_PIECE", piece)
    array = made((3, 4, 5), "float32")
    cuts = [(0, 2, 3), (0, 1, 4), (0, 3, 5)]
    parts = [
        digest.of_part(array[a : a + i, b : b + j, c : c + k], (a, b, c), array.shape)
        for a, i in zip(cuts[0], np.diff(cuts[0]), strict=False)
        for b, j in zip(cuts[1], np.diff(cuts[1]), strict=False)
        for c, k in zip(cuts[2], np.diff(cuts[2]), strict=False)
    ]
    whole_rows = [digest.of_part(array[a : a + 1], (a, 0, 0), array.shape) for a in range(3)]
    assert sum(whole_rows) % 2**32 == expected(array)
    assert len(parts) == math.prod(len(cut) - 1 for cut in cuts)
    assert sum(parts) % 2**32 == expected(array)


def test_leaves_are_named_by_their_path_and_numbers_are_pythons():
    tree = {"a": [np.uint32(7), jnp.int32(1)]}
    named = digest.named(tree)
    assert named == {"a.0": 7, "a.1": tree["a"][1]}
    assert type(named["a.0"]) is int  # which JSON knows
    assert named["a.1"] is tree["a"][1]
