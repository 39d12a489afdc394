"""Cross-entropy of one device's tokens, a chunk of them after the other.

Targets of weight 0 cost nothing: rows are ordered supervised first, and the loop over chunks stops
behind the last of them.

B: batch row, T: position, N: tokens of this device, C: tokens of a chunk, D: embed_dim,
V: vocabulary, or this device's part, M: segment of a row, U: embed_dim of the teacher.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsft.kernels.loss.divergence import Said, divergence, said_of
from jaxsft.kernels.loss.form import LossForm, Targets, TeacherTargets
from jaxsft.kernels.loss.objective import Slopes, taught, token_objectives
from jaxsft.kernels.loss.sums import SegmentSums, Sums

# The logit of padding; finite, since 0 x infinity would spoil the entropy.
_LOWEST = -1e30
AllSums = tuple[Sums, SegmentSums | None]
Gradients = tuple[jax.Array | None, jax.Array | None]  # by hidden states and by head


def sums_and_gradients(
    form: LossForm,
    hidden_BTD: jax.Array,
    head: jax.Array,
    targets: Targets,
    wanted: tuple[str, ...],
    vocab_axes: tuple[str, ...],
) -> tuple[AllSums, Gradients]:
    """The sums, and the gradients of `minimised` by hidden, in its dtype, and by head, float32.

    Args:
        wanted: of "hidden" and "head", those whose gradient is formed.
        vocab_axes: mesh axes over which devices of the same tokens share the vocabulary. The
            head's gradient is that of this device's part, and of its tokens.
    """
    hidden_BTD, head, targets = jax.tree.map(jnp.asarray, (hidden_BTD, head, targets))
    weights_BT, own_BT = targets.weights_BT, targets.objective_weights_BT
    dtype = hidden_BTD.dtype
    hidden_ND, head = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), head.astype(dtype)
    chunk, num_chunks, order_N = _supervised_first(weights_BT, form.most_chunk_tokens)

    def add_chunk(i, carry):
        sums, d_hidden_ND, d_head, nll_N = carry
        index_C = jax.lax.dynamic_slice(order_N, (i * chunk,), (chunk,))

        def take(values_N):
            return values_N.at[index_C].get(mode="fill", fill_value=0)

        hidden_CD, weights_C = take(hidden_ND), take(weights_BT.ravel())
        logits_CV, slope_CV = _logits(form, hidden_CD, head, vocab_axes)
        label_C = _label_columns(take(targets.targets_BT.ravel()), logits_CV.shape[1], vocab_axes)
        chunk_sums, nll_C, log_sum_C = _chunk_sums(logits_CV, label_C, weights_C, vocab_axes)
        if targets.sources_BT is not None:
            sources_C = take(targets.sources_BT.ravel())
            chunk_sums = _with_sources(chunk_sums, nll_C, weights_C, sources_C, form.num_sources)
        own_C, slopes = weights_C if own_BT is None else take(own_BT.ravel()), None
        if not form.plain:
            said = _said_by_teacher(form, targets, take, logits_CV.shape, vocab_axes)
            known = logits_CV, said, nll_C, log_sum_C
            objective_C, slopes, kl_C = _objectives(form, *known, vocab_axes)
            chunk_sums = _with_objective(chunk_sums, objective_C, own_C, kl_C, weights_C)
        if nll_N is not None:
            nll_N = nll_N.at[index_C].set(nll_C, mode="drop")
        if wanted:
            d_logits_CV = _logit_gradients(logits_CV, slope_CV, log_sum_C, label_C, own_C, slopes)
            d_logits_CV = d_logits_CV.astype(dtype)
            d_hidden_CD = _product(f"CV,{form.head_dims}->CD", d_logits_CV, head)
            d_hidden_CD = jax.lax.psum(d_hidden_CD, vocab_axes).astype(dtype)
            d_hidden_ND = d_hidden_ND.at[index_C].set(d_hidden_CD, mode="drop")
            if d_head is not None:
                d_head += _product(f"CD,CV->{form.head_dims}", hidden_CD, d_logits_CV)
        return sums + chunk_sums, d_hidden_ND, d_head, nll_N

    start = _zeros(form, hidden_ND, head, wanted)
    sums, d_hidden_ND, d_head, nll_N = jax.lax.fori_loop(0, num_chunks, add_chunk, start)
    d_hidden_BTD = None if d_hidden_ND is None else d_hidden_ND.reshape(hidden_BTD.shape)
    by_segment = None
    if form.num_segments is not None:
        by_segment = _segment_sums(nll_N.reshape(weights_BT.shape), targets, form.num_segments)
    return (sums, by_segment), (d_hidden_BTD, d_head)


def _zeros(form: LossForm, hidden_ND: jax.Array, head: jax.Array, wanted: tuple[str, ...]):
    """Sums, gradients and losses of tokens before the first chunk; None where not asked for."""
    d_hidden_ND = jnp.zeros_like(hidden_ND) if "hidden" in wanted else None
    d_head = jnp.zeros(head.shape, jnp.float32) if "head" in wanted else None
    nll_N = None if form.num_segments is None else jnp.zeros(len(hidden_ND), jnp.float32)
    sums = Sums.zero(form.num_sources, form.plain, form.distil is not None)
    return sums, d_hidden_ND, d_head, nll_N


def _supervised_first(weights_BT: jax.Array, most: int) -> tuple[int, jax.Array, jax.Array]:
    """Tokens of a chunk, chunks with a target, and the tokens' order, the supervised ones first.

    Behind those come indices out of range, read as zeros and never written to.
    """
    weights_N = weights_BT.ravel()
    chunk = chunk_tokens(weights_N.size, most)
    num_supervised = jnp.count_nonzero(weights_N)
    order_N = jnp.argsort(weights_N == 0)
    order_N = jnp.where(jnp.arange(weights_N.size) < num_supervised, order_N, weights_N.size)
    padding = (0, -weights_N.size % chunk)
    order_N = jnp.pad(order_N, padding, constant_values=weights_N.size)
    return chunk, (num_supervised + chunk - 1) // chunk, order_N


def _product(dims: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(dims, a, b, preferred_element_type=jnp.float32)


def _logits(form: LossForm, hidden_CD, head, vocab_axes):
    """Float32 logits, and their derivatives by the logits before the soft cap (None without)."""
    logits_CV = _product(f"CD,{form.head_dims}->CV", hidden_CD, head)
    slope_CV = None
    if form.soft_cap is not None:
        tanh_CV = jnp.tanh(logits_CV / form.soft_cap)
        logits_CV, slope_CV = form.soft_cap * tanh_CV, 1 - jnp.square(tanh_CV)
    if form.vocab_size != logits_CV.shape[1]:  # padding, or a part of the vocabulary
        first = _first_column(logits_CV.shape[1], vocab_axes)
        is_token_V = first + jnp.arange(logits_CV.shape[1]) < form.vocab_size
        logits_CV = jnp.where(is_token_V[None], logits_CV, _LOWEST)
    return logits_CV, slope_CV


def _said_by_teacher(
    form: LossForm,
    targets: Targets,
    take: Callable[[jax.Array], jax.Array],
    shape: tuple[int, ...],
    vocab_axes: tuple[str, ...],
) -> Said | None:
    """Of the tokens that `take` takes of all; None: no teacher.

    Args:
        shape: [C, V].
    """
    teacher = targets.teacher
    if form.distil is None or teacher is None:
        return None
    if isinstance(teacher, TeacherTargets):
        ids_CX, logprobs_CX = (
            take(one.reshape(-1, one.shape[-1])) for one in (teacher.ids_BTX, teacher.logprobs_BTX)
        )
        return said_of(ids_CX, logprobs_CX, shape, _first_column(shape[1], vocab_axes))
    assert form.distil.teacher is not None
    hidden_NU = teacher.hidden_BTU.reshape(-1, teacher.hidden_BTU.shape[-1])
    return Said(_logits(form.distil.teacher, take(hidden_NU), teacher.head_x, vocab_axes)[0])


def _objectives(
    form: LossForm,
    logits_CV: jax.Array,
    said: Said | None,
    nll_C: jax.Array,
    log_sum_C: jax.Array,
    vocab_axes: tuple[str, ...],
) -> tuple[jax.Array, Slopes, jax.Array | None]:
    """Of each token what is minimised, its slopes, and the divergence from a teacher."""
    mean_logit_C = _mean_logits(form, logits_CV, vocab_axes)
    objective_C, slopes = token_objectives(form, nll_C, log_sum_C, mean_logit_C)
    if form.distil is None or said is None:
        return objective_C, slopes, None
    first = _first_column(logits_CV.shape[1], vocab_axes)
    kl_C, d_kl_CV = divergence(form.distil, logits_CV, said, first, vocab_axes)
    return *taught(form.distil, objective_C, slopes, kl_C, d_kl_CV), kl_C


def _logit_gradients(
    logits_CV, slope_CV, log_sum_C, label_C, weights_C, slopes: Slopes | None
) -> jax.Array:
    """By the product with the head: one pass over the logits, in whose place it can lie."""
    is_label_CV = jnp.arange(logits_CV.shape[1])[None] == label_C[:, None]
    probability_CV = jnp.exp(logits_CV - log_sum_C[:, None])
    if slopes is None:
        d_logits_CV = weights_C[:, None] * (probability_CV - is_label_CV)
    else:
        d_objective_CV = slopes.probability_C[:, None] * probability_CV
        d_objective_CV -= slopes.label_C[:, None] * is_label_CV
        if slopes.every:
            d_objective_CV -= slopes.every * (logits_CV > _LOWEST)
        if slopes.others_CV is not None:
            d_objective_CV += slopes.others_CV
        d_logits_CV = weights_C[:, None] * d_objective_CV
    return d_logits_CV if slope_CV is None else d_logits_CV * slope_CV


def _first_column(num_columns: int, vocab_axes: tuple[str, ...]) -> jax.Array | int:
    """The number in the whole vocabulary of this device's column 0."""
    return num_columns * jax.lax.axis_index(vocab_axes) if vocab_axes else 0


def _label_columns(targets_C, num_columns, vocab_axes):
    """The column of each target here; behind all of them where another device has it."""
    column_C = targets_C - _first_column(num_columns, vocab_axes)
    return jnp.where(
        column_C >= 0, column_C, num_columns
    )  # a negative one would count from the end


def _chunk_sums(logits_CV, label_C, weights_C, vocab_axes):
    """Sums over a chunk, and each token's negative log-likelihood and log-sum-exp."""

    def over_vocabulary(sums_C):
        return jax.lax.psum(sums_C, vocab_axes)

    top_C = jax.lax.pmax(jnp.max(logits_CV, axis=-1), vocab_axes)
    below_CV = logits_CV - top_C[:, None]
    exp_CV = jnp.exp(below_CV)
    total_C = over_vocabulary(jnp.sum(exp_CV, axis=-1))
    mean_below_C = over_vocabulary(jnp.sum(exp_CV * below_CV, axis=-1)) / total_C
    rows_C = jnp.arange(label_C.size)
    label_logit_C = logits_CV.at[rows_C, label_C].get(mode="fill", fill_value=0)
    label_logit_C = over_vocabulary(label_logit_C)
    log_sum_C = top_C + jnp.log(total_C)
    nll_C = log_sum_C - label_logit_C
    sums = Sums(
        nll=jnp.sum(weights_C * nll_C),
        weight=jnp.sum(weights_C),
        correct=jnp.sum(weights_C * (label_logit_C == top_C)),
        entropy=jnp.sum(weights_C * (jnp.log(total_C) - mean_below_C)),
        supervised_tokens=jnp.sum(weights_C > 0).astype(jnp.float32),
    )
    return sums, nll_C, log_sum_C


def _mean_logits(form: LossForm, logits_CV, vocab_axes) -> jax.Array | None:
    """Over all tokens of the vocabulary; None where the form has no use for it."""
    if not form.label_smoothing:
        return None
    sum_C = jnp.sum(logits_CV, axis=-1, where=logits_CV > _LOWEST)
    return jax.lax.psum(sum_C, vocab_axes) / form.vocab_size


def _with_objective(
    sums: Sums,
    objective_C: jax.Array,
    own_C: jax.Array,
    kl_C: jax.Array | None,
    weights_C: jax.Array,
) -> Sums:
    return dataclasses.replace(
        sums,
        objective=jnp.sum(own_C * objective_C),
        objective_weight=jnp.sum(own_C),
        kl=None if kl_C is None else jnp.sum(weights_C * kl_C),
    )


def _with_sources(sums, nll_C, weights_C, sources_C, num_sources):
    def by_source(values_C):
        return jax.ops.segment_sum(values_C, sources_C, num_sources)

    return dataclasses.replace(
        sums, source_nll_S=by_source(weights_C * nll_C), source_weight_S=by_source(weights_C)
    )


def _segment_sums(nll_BT: jax.Array, targets: Targets, num_segments: int) -> SegmentSums:
    """The sums of each row's segments, in the order of positions whatever the chunks were.

    segments [1 1 2 0], weights [0 1 2 5], nll [9 3 4 9], 3 segments:   nll [3 8 0]   weight [1 2 0]
    """
    weights_BT, segments_BT = targets.weights_BT, targets.segments_BT
    assert segments_BT is not None
    column_BT = segments_BT - 1  # of padding it is -1, which segment_sum drops
    too_many_B1 = jnp.max(segments_BT, axis=1, keepdims=True) > num_segments

    def by_segment(values_BT):
        sums_BM = jax.vmap(lambda v, c: jax.ops.segment_sum(v, c, num_segments))(
            values_BT, column_BT
        )
        return jnp.where(too_many_B1, jnp.nan, sums_BM)

    return SegmentSums(by_segment(weights_BT * nll_BT), by_segment(weights_BT))


def chunk_tokens(num_tokens: int, most: int) -> int:
    """Tokens of one chunk: an eighth of the batch, so that skipping pays, from 128 to `most`."""
    eighth = -(-num_tokens // 8)
    return min(-(-eighth // 128) * 128, most)


def most_chunk_tokens(platform: str) -> int:
    """Those that a device's memory keeps up with: each chunk reads and writes the head's gradient.

    A product of C tokens does C / 4 operations for each of those bytes; a GPU does some 300 in the
    time of one, a TPU fewer. Measured on an H100, Llama-3.2-1B, 4 x 4096 tokens a step: 249.5 ms
    in chunks of 1024, 245.5 of 2048, 245.7 of 4096.
    """
    return 2048 if platform == "gpu" else 1024
