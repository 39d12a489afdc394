"""Embedding rows that were never trained are flagged, and only those."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config, mesh
from jaxsft.model.dead_rows import dead_rows

ROWS = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
ROWS[7] = 0
ROWS[9] *= 1e-4
ROWS[12] = ROWS[11]


@pytest.mark.parametrize("devices", [1, 8])
def test_zero_tiny_and_equal_rows_are_flagged(devices):
    over = mesh.make_mesh(config.Mesh(fsdp=devices), jax.devices()[:devices])
    embedding = jax.device_put(ROWS, mesh.sharding(over, "vocab", "embed"))
    wrong = dead_rows(embedding, [3, 7, 9, 11, 12, 40])
    assert sorted(wrong) == [7, 9, 12]
    assert "norm is 0, that of most rows" in wrong[7] and "equal to that of token 11" in wrong[12]


def test_a_healthy_embedding_has_nothing_to_say():
    assert dead_rows(jnp.asarray(ROWS), [0, 1, 2, 63]) == {}
    assert dead_rows(jnp.asarray(ROWS), []) == {}
