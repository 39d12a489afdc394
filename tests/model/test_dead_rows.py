"""Rows that were never trained are flagged or repaired, and only those."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.model.dead_rows import by_reason, dead_rows, repaired

ROWS = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32) + 1
ROWS[7] = 0
ROWS[9] *= 1e-4
ROWS[12] = ROWS[11]
ROWS[50:] = 0  # of tokens that no template writes
HEAD = np.random.default_rng(1).normal(size=(16, 64)).astype(np.float32)
HEAD[:, 5] = 0
IDS = [3, 5, 7, 9, 11, 12, 40]


def placed(devices):
    over = mesh.make_mesh(config.Mesh(fsdp=devices), jax.devices()[:devices])
    return {
        "embedding_VD": jax.device_put(ROWS, mesh.sharding(over, "vocab", "embed")),
        "head_DV": jax.device_put(HEAD, mesh.sharding(over, "embed", "vocab")),
    }


@pytest.mark.parametrize("devices", [1, 8])
def test_zero_tiny_and_equal_rows_are_flagged(devices):
    params = placed(devices)
    wrong = dead_rows(params, IDS, "embedding_VD")
    assert sorted(wrong) == [7, 9, 12]
    assert "norm is 0, that of most rows" in wrong[7] and "equal to that of token 11" in wrong[12]
    assert sorted(dead_rows(params, IDS, "head_DV")) == [5]


def test_a_healthy_table_has_nothing_to_say():
    params = {"embedding_VD": jnp.asarray(ROWS)}
    assert dead_rows(params, [0, 1, 2, 49], "embedding_VD") == {}
    assert dead_rows(params, [], "embedding_VD") == {}


@pytest.mark.parametrize("devices", [1, 8])
def test_repaired_rows_are_near_the_mean_and_apart(devices):
    params = placed(devices)
    after = repaired(params, "embedding_VD", [7, 9, 12], seed=0)
    assert dead_rows(after, IDS, "embedding_VD") == {}
    assert after["embedding_VD"].sharding == params["embedding_VD"].sharding
    assert after["head_DV"] is params["head_DV"]
    table = np.asarray(after["embedding_VD"])
    others = np.delete(np.arange(64), [7, 9, 12])
    np.testing.assert_array_equal(table[others], ROWS[others])
    trained = np.delete(ROWS[:50], [7, 9], 0)
    noise = (table[[7, 9, 12]] - trained.mean(0)) / trained.std(0)
    assert 0.05 < noise.std() < 0.15 and np.abs(noise).max() < 0.5 and abs(noise.mean()) < 0.1
    head = np.asarray(repaired(params, "head_DV", [5], seed=0)["head_DV"])
    np.testing.assert_array_equal(np.delete(head, 5, 1), np.delete(HEAD, 5, 1))
    assert np.linalg.norm(head[:, 5]) > 0.01
    same, other = (repaired(params, "embedding_VD", [7], seed=seed) for seed in (0, 1))
    assert not np.array_equal(same["embedding_VD"][7], other["embedding_VD"][7])


def test_a_reason_of_many_tokens_is_said_once():
    """Norms of nearly nothing are one reason, as large as each of them may be."""
    table = np.array(ROWS)
    table[[5, 7]], table[[9, 11]] = 0, ROWS[:2] * [[1e-4], [2e-4]]
    found = by_reason(
        dead_rows({"embedding_VD": jnp.asarray(table)}, [5, 7, 9, 11], "embedding_VD")
    )
    assert [tokens for tokens, _ in found] == ["2 tokens [5, 7], each", "2 tokens [9, 11], each"]
    assert ["its norm is 0, that" in found[0][1], "its norm is below 0." in found[1][1]] == [
        True
    ] * 2
