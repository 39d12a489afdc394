"""The compiled parts of decoding: an empty state, prompts read into it, tokens written from it.

B: row, T: token of a chunk, Y: token of an answer, V: vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.devices.mesh import constrain
from jaxsft.generation import sampling
from jaxsft.generation.sampling import Choice
from jaxsft.model.state import Params, model_of
from jaxsft.model.transformer import DecoderCache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """A batch of answers being written."""

    cache: DecoderCache
    logits_BV: jax.Array  # float32, of the next token
    prompt_lengths_B: jax.Array  # int32
    numbers_B: jax.Array  # uint32: what each row's random numbers are of
    answers_BY: jax.Array  # int32; as many tokens of each as `count` says, of those not ended
    count: jax.Array  # int32 scalar: tokens written
    ended_B: jax.Array  # bool
    seen_BV: jax.Array | None  # bool, whether a row has the token; None: nobody asks


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def start(
    graphdef: nnx.GraphDef,
    slots: int,
    room: int,
    penalises: bool,
    params: Params,
    prompt_lengths_B: jax.Array,
    numbers_B: jax.Array,
    max_new_tokens: jax.Array,
) -> Decoding:
    """Nothing read yet. Rows of prompts without tokens pad the batch: they have ended.

    Args:
        slots: of the cache.
        room: tokens that an answer may have at most in this program.
        penalises: whether the choice will ask what a row has already.
    """
    model = model_of(graphdef, params)
    rows, vocab = prompt_lengths_B.shape[0], model.settings.vocab_size
    text_lengths_B = jnp.minimum(prompt_lengths_B + max_new_tokens, model.settings.max_positions)
    return _placed(
        Decoding(
            cache=model.empty_cache(rows, slots, text_lengths_B),
            logits_BV=jnp.zeros((rows, vocab), jnp.float32),
            prompt_lengths_B=prompt_lengths_B,
            numbers_B=numbers_B,
            answers_BY=jnp.zeros((rows, room), jnp.int32),
            count=jnp.int32(0),
            ended_B=prompt_lengths_B == 0,
            seen_BV=jnp.zeros((rows, vocab), bool) if penalises else None,
        )
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read(
    graphdef: nnx.GraphDef,
    params: Params,
    decoding: Decoding,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
) -> Decoding:
    """The next tokens of the prompts; where segments_BT is 0 the prompt has not begun."""
    model = model_of(graphdef, params)
    before_B = jnp.sum(decoding.cache.slots.segments_BS, axis=1)
    positions_BT = before_B[:, None] + jnp.maximum(jnp.cumsum(segments_BT, axis=1) - 1, 0)
    logits_BV, cache = model.extend(tokens_BT, segments_BT, positions_BT, decoding.cache)
    seen_BV = decoding.seen_BV
    if seen_BV is not None:
        rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
        seen_BV = seen_BV.at[rows_B1, tokens_BT].max(segments_BT > 0)
    return _placed(dataclasses.replace(decoding, cache=cache, logits_BV=logits_BV, seen_BV=seen_BV))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def write(
    graphdef: nnx.GraphDef,
    params: Params,
    decoding: Decoding,
    until: jax.Array,
    stops_X: jax.Array,
    choice: Choice,
) -> Decoding:
    """Tokens of the answers, until each has ended or has `until` tokens.

    Args:
        stops_X: tokens that end an answer, which they are part of.
    """
    model = model_of(graphdef, params)

    def unfinished(now: Decoding) -> jax.Array:
        return (now.count < until) & ~jnp.all(now.ended_B)

    def add_token(now: Decoding) -> Decoding:
        tokens_B = sampling.next_tokens(
            choice, now.logits_BV, now.seen_BV, now.numbers_B, now.count
        )
        ended_B = now.ended_B | jnp.any(tokens_B[:, None] == stops_X[None, :], axis=1)
        positions_B1 = (now.prompt_lengths_B + now.count)[:, None]
        segments_B1 = jnp.ones_like(positions_B1)
        logits_BV, cache = model.extend(tokens_B[:, None], segments_B1, positions_B1, now.cache)
        seen_BV = now.seen_BV
        if seen_BV is not None:
            seen_BV = seen_BV.at[jnp.arange(len(tokens_B)), tokens_B].set(True)
        return Decoding(
            cache=cache,
            logits_BV=logits_BV,
            prompt_lengths_B=now.prompt_lengths_B,
            numbers_B=now.numbers_B,
            answers_BY=now.answers_BY.at[:, now.count].set(tokens_B),
            count=now.count + 1,
            ended_B=ended_B,
            seen_BV=seen_BV,
        )

    return _placed(jax.lax.while_loop(unfinished, add_token, decoding))


@functools.partial(jax.jit, donate_argnums=0)
def end(decoding: Decoding, ended_B: jax.Array) -> Decoding:
    """With other rows that have ended."""
    return _placed(dataclasses.replace(decoding, ended_B=ended_B))


def _placed(decoding: Decoding) -> Decoding:
    """Laid out alike by all programs, so that each is compiled once; what the host reads, whole."""
    seen_BV = decoding.seen_BV
    return dataclasses.replace(
        decoding,
        logits_BV=constrain(decoding.logits_BV, "batch", None),
        answers_BY=constrain(decoding.answers_BY, None, None),
        count=constrain(decoding.count),
        ended_B=constrain(decoding.ended_B, None),
        prompt_lengths_B=constrain(decoding.prompt_lengths_B, None),
        numbers_B=constrain(decoding.numbers_B, None),
        seen_BV=None if seen_BV is None else constrain(seen_BV, "batch", None),
    )
