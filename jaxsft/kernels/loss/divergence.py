"""How far a student's distribution is from its teacher's, and the gradient of that by its logits.

C: tokens of a chunk, V: vocabulary, or this device's part, X: a token's likeliest ones.
"""

import jax
import jax.numpy as jnp

from jaxsft.kernels.loss.form import DistilForm

# The logarithm of no probability; finite, since 0 x infinity would spoil a sum.
_LOWEST = -1e30


def divergence(
    form: DistilForm,
    logits_CV: jax.Array,
    teacher_CV: jax.Array,
    first: jax.Array | int,
    vocab_axes: tuple[str, ...],
) -> tuple[jax.Array, jax.Array]:
    """KL(teacher || student) of each token in nats, at the form's temperature; and its gradient.

    Over form.teacher.vocab_size tokens, to which both distributions are normalised. With top_k,
    tokens that are not among the teacher's likeliest are one outcome, as likely as all of them:
    what the teacher says of it is how much there is, not of what. Tokens that the teacher finds
    exactly as likely as the last of those are among them.

    Args:
        first: the number in the whole vocabulary of column 0.
        vocab_axes: mesh axes over which devices share the vocabulary.

    Returns:
        float32 [C]; and [C, V], by the logits divided by the temperature.
    """
    is_token_V = first + jnp.arange(logits_CV.shape[1]) < form.teacher.vocab_size
    is_token_CV = jnp.broadcast_to(is_token_V[None], logits_CV.shape)
    log_q_CV, log_p_CV = (
        _log_softmax(values_CV / form.temperature, is_token_CV, vocab_axes)
        for values_CV in (logits_CV, teacher_CV)
    )
    if form.top_k is None:
        wanted_CV = jnp.exp(log_p_CV)
        kl_C = jax.lax.psum(jnp.sum(wanted_CV * (log_p_CV - log_q_CV), axis=-1), vocab_axes)
        return kl_C, jnp.exp(log_q_CV) - wanted_CV
    last_C = _last_of_the_likeliest(log_p_CV, form.top_k, vocab_axes)
    kept_CV = log_p_CV >= last_C[:, None]
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
    """Over the tokens of the vocabulary; `_LOWEST` for other columns."""
    log_sum_C = _log_sum(values_CV, is_token_CV, vocab_axes)
    return jnp.where(is_token_CV, values_CV - log_sum_C[:, None], _LOWEST)


def _log_sum(values_CV, where_CV, vocab_axes):
    """Of the exponentials of some columns; `_LOWEST` where there are none."""
    top_C = jax.lax.pmax(jnp.max(values_CV, axis=-1, where=where_CV, initial=_LOWEST), vocab_axes)
    below_CV = jnp.where(where_CV, values_CV - top_C[:, None], _LOWEST)
    sum_C = jax.lax.psum(jnp.sum(jnp.exp(below_CV), axis=-1), vocab_axes)
    return jnp.where(sum_C > 0, top_C + jnp.log(sum_C), _LOWEST)


def _last_of_the_likeliest(log_p_CV, top_k, vocab_axes):
    """The logarithm of the teacher's probability of the last of its top_k tokens."""
    best_CX = jax.lax.top_k(log_p_CV, min(top_k, log_p_CV.shape[1]))[0]
    if vocab_axes:
        best_CX = jax.lax.all_gather(best_CX, vocab_axes, axis=1, tiled=True)
        best_CX = jax.lax.top_k(best_CX, top_k)[0]
    return best_CX[:, -1]
