"""Greedy decoding with a key-value cache.

B: prompt, T: prompt position, S: new token, V: vocabulary.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft.devices.mesh import constrain
from jaxsft.model.state import Params, model_of


def generate(
    graphdef: nnx.GraphDef,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    rows_multiple_of: int = 1,
) -> list[list[int]]:
    """The likeliest continuation of each prompt, token by token, its stop token included.

    Args:
        stop_ids: a row ends with the first of these, or after max_new_tokens.
        rows_multiple_of: prompts are padded to this many rows, for a mesh that splits them.
    """
    tokens_BT, segments_BT = left_padded(
        prompts, -(-len(prompts) // rows_multiple_of) * rows_multiple_of
    )
    answers_BS = _decode(
        graphdef, max_new_tokens, tuple(sorted(stop_ids)), params, tokens_BT, segments_BT
    )
    rows = np.asarray(answers_BS)[: len(prompts)]
    return [_until_stop(row, set(stop_ids)) for row in rows.tolist()]


def left_padded(prompts: Sequence[Sequence[int]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts ended together, padding in front.

    [[5, 6, 7], [8]]  ->  tokens    5 6 7   0 0 8
                          segments  1 1 1   0 0 1
    """
    length = max(len(prompt) for prompt in prompts)
    tokens_BT = np.zeros((rows, length), np.int32)
    segments_BT = np.zeros((rows, length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, length - len(prompt) :] = prompt
        segments_BT[row, length - len(prompt) :] = 1
    return tokens_BT, segments_BT


def _until_stop(ids: list[int], stop_ids: set[int]) -> list[int]:
    for index, token in enumerate(ids):
        if token in stop_ids:
            return ids[: index + 1]
    return ids


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _decode(graphdef, max_new_tokens, stop_ids, params, tokens_BT, segments_BT):
    model = model_of(graphdef, params)
    batch, length = tokens_BT.shape
    stops = jnp.asarray(stop_ids or (-1,), jnp.int32)
    cache = model.empty_cache(batch, length + max_new_tokens)
    positions_BT = jnp.maximum(jnp.cumsum(segments_BT, axis=1) - 1, 0)
    logits_BV, cache = model.extend(tokens_BT, segments_BT, positions_BT, cache)
    num_prompt_B = jnp.sum(segments_BT, axis=1)
    # Rows without a prompt pad the batch: they count as ended.
    state = (0, logits_BV, cache, num_prompt_B == 0, jnp.zeros((batch, max_new_tokens), jnp.int32))

    def unfinished(state):
        return (state[0] < max_new_tokens) & ~jnp.all(state[3])

    def add_token(state):
        index, logits_BV, cache, ended_B, answers_BS = state
        token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        answers_BS = answers_BS.at[:, index].set(token_B)
        ended_B = ended_B | jnp.any(token_B[:, None] == stops[None, :], axis=1)
        positions_B1 = (num_prompt_B + index)[:, None]
        logits_BV, cache = model.extend(
            token_B[:, None], jnp.ones((batch, 1), jnp.int32), positions_B1, cache
        )
        return index + 1, logits_BV, cache, ended_B, answers_BS

    answers_BS = jax.lax.while_loop(unfinished, add_token, state)[4]
    return constrain(answers_BS, None, None)  # whole on every process, to be read there
