"""Packed conversations never see each other, and no token sees a later one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft.data.pack import packing

LENGTH = 40
LENGTHS = [9, 14, 11]


@pytest.fixture(scope="module")
def params():
    return tiny.host_params()


@pytest.fixture(scope="module")
def row():
    made = tiny.conversations(LENGTHS)
    plan = packing.PackPlan(np.arange(3), np.array([0, 3]))
    return packing.build_rows(lambda at: [made[i] for i in at], plan, [0], LENGTH)


def packed_logits(params, row, tokens):
    return np.asarray(tiny.logits(params, tokens, row["segments_BT"], row["positions_BT"]))


def test_changing_one_conversation_leaves_its_neighbours_bit_equal(params, row):
    before = packed_logits(params, row, row["tokens_BT"])
    middle = row["segments_BT"] == 2
    changed = np.where(middle, (row["tokens_BT"] + 17) % tiny.VOCAB, row["tokens_BT"])
    after = packed_logits(params, row, changed)
    others = ~middle & (row["segments_BT"] > 0)
    np.testing.assert_array_equal(after[others], before[others])
    assert not np.array_equal(after[middle], before[middle])


def test_a_conversation_gives_its_neighbours_no_gradient(params, row):
    """The gradient of one conversation's loss by the other tokens' embeddings is exactly 0."""
    table = jnp.asarray(params["embedding_VD"])
    # Each token gets an embedding row of its own, so that gradients can be told apart.
    separate = {**params, "embedding_VD": table[row["tokens_BT"][0]]}
    own_tokens = np.arange(LENGTH, dtype=np.int32)[None]

    def loss(embedding, segment):
        logits = tiny.logits(
            {**separate, "embedding_VD": embedding},
            own_tokens,
            row["segments_BT"],
            row["positions_BT"],
        )
        nll = jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]
        return jnp.sum(jnp.where(row["segments_BT"] == segment, nll, 0))

    for segment in (1, 2, 3):
        gradient = jax.grad(loss)(separate["embedding_VD"], segment)
        touched = np.any(np.asarray(gradient) != 0, axis=1)
        np.testing.assert_array_equal(touched, row["segments_BT"][0] == segment)


def test_packed_logits_equal_the_conversation_alone(params, row):
    packed = packed_logits(params, row, row["tokens_BT"])
    for segment in (1, 2, 3):
        where = row["segments_BT"] == segment
        alone = tiny.logits(params, row["tokens_BT"][where][None])
        np.testing.assert_allclose(packed[where], alone[0], rtol=1e-5, atol=1e-5)


def test_a_later_token_does_not_change_an_earlier_logit(params):
    tokens = np.arange(20)[None] % tiny.VOCAB
    before = np.asarray(tiny.logits(params, tokens))
    changed = tokens.copy()
    changed[0, 12] += 1
    after = np.asarray(tiny.logits(params, changed))
    np.testing.assert_array_equal(after[:, :12], before[:, :12])
    assert not np.array_equal(after[:, 12:], before[:, 12:])


def test_the_current_token_counts(params):
    tokens = np.zeros((1, 6), np.int32)
    assert not np.allclose(tiny.logits(params, tokens), tiny.logits(params, tokens + 1))
