"""How far a student's distribution is from its teacher's, and the gradient of that by its logits.

C: tokens of a chunk, V: vocabulary, or this device's part, X: a token's likeliest ones.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxsft.kernels.loss.form import DistilForm

# The logarithm of no probability; finite, since 0 x infinity would spoil a sum.
NO_PROBABILITY = -1e30


@dataclasses.dataclass(frozen=True)
class Said:
    """A teacher's logits; or, as rows have it, the log-probabilities of its likeliest tokens."""

    values_CV: jax.Array  # float32; NO_PROBABILITY where rows do not name a token
    left_C: jax.Array | None = None  # float32: log-probability of all those; None: logits


def said_of(
    ids_CX: jax.Array, logprobs_CX: jax.Array, shape: tuple[int, ...], first: jax.Array | int
) -> Said:
    """What rows say of a teacher, with the columns of this device.

    Args:
        ids_CX: -1 behind the last.
        shape: [C, V].
        first: the number in the whole vocabulary of column 0.
    """
    logprobs_CV = jnp.full(shape, NO_PROBABILITY, jnp.float32)
    logprobs_CV = logprobs_CV.at[_places(ids_CX, shape, first)].set(logprobs_CX, mode="drop")
    named_C = jnp.sum(jnp.exp(logprobs_CX), axis=-1, where=ids_CX >= 0)
    left_C = jnp.log(jnp.maximum(1 - named_C, 0))
    return Said(logprobs_CV, jnp.maximum(left_C, NO_PROBABILITY))


def _places(
    ids_CX: jax.Array, shape: tuple[int, ...], first: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """Rows and columns of these tokens here; behind all columns where another device has them."""
    column_CX = jnp.where(ids_CX >= jnp.maximum(first, 0), ids_CX - first, shape[1])
    return jnp.arange(shape[0])[:, None], column_CX


def divergence(
    form: DistilForm,
    logits_CV: jax.Array,
    said: Said,
    first: jax.Array | int,
    vocab_axes: tuple[str, ...],
) -> tuple[jax.Array, jax.Array]:
    """KL(teacher || student) of each token in nats, at the form's temperature; and its gradient.

    Over form.vocab_size tokens, to which both distributions are normalised. With top_k,
    tokens that are not among the teacher's likeliest are one outcome, as likely as all of them:
    what the teacher says of it is how much there is, not of what.

    Args:
        first: the number in the whole vocabulary of column 0.
        vocab_axes: mesh axes over which devices share the vocabulary.

    Returns:
        float32 [C]; and [C, V], by the logits divided by the temperature.
    """
    is_token_V = first + jnp.arange(logits_CV.shape[1]) < form.vocab_size
    is_token_CV = jnp.broadcast_to(is_token_V[None], logits_CV.shape)
    log_q_CV = _log_softmax(logits_CV / form.temperature, is_token_CV, vocab_axes)
    if said.left_C is not None:
        log_p_CV = said.values_CV
        kept_CV = log_p_CV > NO_PROBABILITY
        log_rest_q_C = _log_sum(log_q_CV, is_token_CV & ~kept_CV, vocab_axes)
        # Where all tokens are named, what rounding leaves of the probabilities is nobody's.
        none_C = log_rest_q_C <= NO_PROBABILITY
        log_rests_C = log_rest_q_C, jnp.where(none_C, NO_PROBABILITY, said.left_C)
        return _with_rest(log_q_CV, log_p_CV, kept_CV, log_rests_C, vocab_axes)
    log_p_CV = _log_softmax(said.values_CV / form.temperature, is_token_CV, vocab_axes)
    if form.top_k is None:
        wanted_CV = jnp.exp(log_p_CV)
        kl_C = jax.lax.psum(jnp.sum(wanted_CV * (log_p_CV - log_q_CV), axis=-1), vocab_axes)
        return kl_C, jnp.exp(log_q_CV) - wanted_CV
    ids_CX = _likeliest(log_p_CV, form.top_k, first, vocab_axes)
    # By their numbers: a fusion that computes a probability again may round it below the last one.
    kept_CV = jnp.zeros(log_p_CV.shape, bool)
    kept_CV = kept_CV.at[_places(ids_CX, log_p_CV.shape, first)].set(True, mode="drop")
    log_rest_p_C, log_rest_q_C = (
        _log_sum(log_CV, is_token_CV & ~kept_CV, vocab_axes) for log_CV in (log_p_CV, log_q_CV)
    )
    return _with_rest(log_q_CV, log_p_CV, kept_CV, (log_rest_q_C, log_rest_p_C), vocab_axes)


def _with_rest(
    log_q_CV: jax.Array,
    log_p_CV: jax.Array,
    kept_CV: jax.Array,
    log_rests_C: tuple[jax.Array, jax.Array],
    vocab_axes: tuple[str, ...],
) -> tuple[jax.Array, jax.Array]:
    """`divergence` where all tokens that are not kept are one outcome.

    Args:
        log_rests_C: the logarithm of what the student and the teacher have for them in all.
    """
    log_rest_q_C, log_rest_p_C = log_rests_C
    kl_CV = jnp.where(kept_CV, jnp.exp(log_p_CV) * (log_p_CV - log_q_CV), 0)
    kl_C = jax.lax.psum(jnp.sum(kl_CV, axis=-1), vocab_axes)
    kl_C += jnp.exp(log_rest_p_C) * (log_rest_p_C - log_rest_q_C)
    # The student's own shares of the rest are kept as they are: there the gradient only says how
    # much there should be.
    log_others_CV = log_q_CV + (log_rest_p_C - log_rest_q_C)[:, None]
    wanted_CV = jnp.exp(jnp.where(kept_CV, log_p_CV, log_others_CV))
    return kl_C, jnp.exp(log_q_CV) - wanted_CV


def _log_softmax(values_CV, is_token_CV, vocab_axes):
    """Over the tokens of the vocabulary; `NO_PROBABILITY` for other columns."""
    log_sum_C = _log_sum(values_CV, is_token_CV, vocab_axes)
    return jnp.where(is_token_CV, values_CV - log_sum_C[:, None], NO_PROBABILITY)


def _log_sum(values_CV, where_CV, vocab_axes):
    """Of the exponentials of some columns; `NO_PROBABILITY` where there are none."""
    top_C = jax.lax.pmax(
        jnp.max(values_CV, axis=-1, where=where_CV, initial=NO_PROBABILITY), vocab_axes
    )
    below_CV = jnp.where(where_CV, values_CV - top_C[:, None], NO_PROBABILITY)
    sum_C = jax.lax.psum(jnp.sum(jnp.exp(below_CV), axis=-1), vocab_axes)
    return jnp.where(sum_C > 0, top_C + jnp.log(sum_C), NO_PROBABILITY)


def _likeliest(log_p_CV, top_k, first, vocab_axes):
    """The numbers of the teacher's top_k tokens in the whole vocabulary, [C, X]."""
    best_CX, column_CX = jax.lax.top_k(log_p_CV, min(top_k, log_p_CV.shape[1]))
    ids_CX = column_CX + first
    if vocab_axes:
        best_CX, ids_CX = (
            jax.lax.all_gather(one_CX, vocab_axes, axis=1, tiled=True)
            for one_CX in (best_CX, ids_CX)
        )
        ids_CX = jnp.take_along_axis(ids_CX, jax.lax.top_k(best_CX, top_k)[1], axis=1)
    return ids_CX
