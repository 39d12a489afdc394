"""The back end `cudnn`: packed rows on NVIDIA GPUs of Hopper's generation and later.

It is told where each segment starts, so it needs no mask and skips what lies between segments. For
how many segments there is room is static, and its workspace grows with that: the run says how
many its rows have at most, and where they are many another back end is the better one.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim, M: segments that a row
may have, Z: M + 1.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxsft.devices import xla_flags
from jaxsft.errors import ConfigError
from jaxsft.kernels.attention import blocks, cudnn_calls
from jaxsft.kernels.attention.cudnn_calls import Operands, Results, Spans, Static
from jaxsft.kernels.attention.form import (
    AttentionForm,
    KeysAndValues,
    Use,
    Visibility,
    first_limit,
)

_TOKENS_A_SEGMENT = 128  # on average, in the fullest row, where the run doesn't say
# Measured on an H200, forward and backward of rows of 4,096: with room for 4 segments it takes 0.49
# ms for them; with room for 16 it takes 0.61 for 4 and 0.44 for 16. `triton` took 0.68 and 0.33,
# and 0.54 and 0.26 by the times of single kernels with the tilings that it has now.
_FAST_SEGMENTS = 8
_MOST_NUMBERS = 2**31  # of the queries of a device: cuDNN is told where they start as int32


def refusal(use: Use) -> str | None:
    """Why a run's attention is not for this back end, or None."""
    return first_limit(
        [
            ("a row split over devices", use.query_length != use.length),
            ("soft caps", use.form.soft_cap is not None),
            ("sinks", use.form.sinks),
            ("layers of different windows", len(use.form.windows) > 1),
            (f"dtype {use.dtype}", use.dtype != "bfloat16"),
        ]
    )


def is_fastest(use: Use) -> bool:
    """Whether it is the fastest for a run's rows; for those of more segments `triton` is.

    Where XLA_FLAGS ask for deterministic operations too: its kernels are so without being told.
    """
    return _room(use.form, use.length) <= _FAST_SEGMENTS and not xla_flags.deterministic()


def block_sizes(use: Use) -> tuple[int, int]:
    """Of queries and keys, about: which tiles cuDNN takes is its own affair."""
    return (128, 128) if use.length % 128 == 0 else (1, 1)


def attend(
    q_BTNH: jax.Array, kv: KeysAndValues, visibility: Visibility, form: AttentionForm
) -> jax.Array:
    """`kernels.attention.attend` for whole rows in bfloat16, with one window or none.

    A batch with more segments than there is room for, or with one in two pieces, gives NaN.
    """
    assert form.soft_cap is None and kv.sinks_N is None and len(form.windows) <= 1, "refused before"
    if q_BTNH.size >= _MOST_NUMBERS:
        raise ConfigError(
            f"attention on cudnn: {q_BTNH.shape[0]} rows of a device at once are too many for it;"
            " raise config.train.microbatches, or set config.model.attention=triton"
        )
    segments_BT = visibility.q_segments_BT
    static = Static(form.scale, form.windows[0] if form.windows else None)
    room = _room(form, segments_BT.shape[1])
    return _attend(static, room, q_BTNH, kv.k_BSKH, kv.v_BSKH, segments_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    static: Static,
    room: int,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array,
) -> jax.Array:
    return _forward_rule(static, room, q_BTNH, k_BTKH, v_BTKH, segments_BT)[0]


def _forward_rule(static, room, q_BTNH, k_BTKH, v_BTKH, segments_BT):
    spans, fits = spans_of(segments_BT, room)
    seen_BTKH = jnp.where(fits, v_BTKH, jnp.nan)  # of the arrays the smallest
    results = cudnn_calls.forward(Operands(q_BTNH, k_BTKH, seen_BTKH, spans), static)
    results = Results(*(checkpoint_name(one, blocks.RESIDUAL_NAME) for one in results))
    return results.out_BTNH, (q_BTNH, k_BTKH, v_BTKH, segments_BT, results)


def _backward_rule(static, room, residuals, d_out_BTNH):
    q_BTNH, k_BTKH, v_BTKH, segments_BT, results = residuals
    operands = Operands(q_BTNH, k_BTKH, v_BTKH, spans_of(segments_BT, room)[0])
    return *cudnn_calls.backward(operands, results, d_out_BTNH, static), None


_attend.defvjp(_forward_rule, _backward_rule)


def spans_of(segments_BT: jax.Array, room: int) -> tuple[Spans, jax.Array]:
    """The spans of B * room segments, and whether those are all there are, each in one piece.

    Rows share the room; padding is a segment, which sees itself.

    segments [1 1 1 2 2 0] [1 2 2 2 2 2], room 3:
    lengths [3 2 1] [1 5 0]   starts [0 3 5 6] [7 12 12 12]
    """
    B, T = segments_BT.shape
    order_BT = blocks.in_order(segments_BT)
    begins_BT = jnp.diff(order_BT, axis=1, prepend=order_BT[:, :1] - 1) != 0
    starts = jnp.nonzero(begins_BT.ravel(), size=B * (room + 1), fill_value=B * T)[0]
    starts = starts.astype(jnp.int32)
    fits = (starts[B * room] == B * T) & jnp.all(jnp.diff(order_BT, axis=1) >= 0)
    lengths = jnp.diff(starts[: B * room + 1])
    return Spans(lengths.reshape(B, room), starts.reshape(B, room + 1)), fits


def _room(form: AttentionForm, length: int) -> int:
    """Segments that a row may have on average, its padding being one of them."""
    if form.max_segments is not None:
        return form.max_segments
    return max(16, length // _TOKENS_A_SEGMENT)
