"""The back end `cudnn`: packed rows on NVIDIA GPUs, through an entry of jax that is not public.

It is told where each segment starts, so it needs no mask and skips what lies between segments. The
number of segments in its arguments is fixed; a batch that doesn't fit them is left to `blocked`.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim, M: segment of a row,
Z: start of a segment (M + 1).
"""

import jax
import jax.numpy as jnp

from jaxsft.kernels.attention import blocked
from jaxsft.kernels.attention.blocks import in_order
from jaxsft.kernels.attention.form import (
    AttentionForm,
    KeysAndValues,
    Use,
    Visibility,
    first_limit,
)

_TOKENS_A_SEGMENT = 128  # on average, in the fullest row that is not left to `blocked`


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


def max_segments(length: int) -> int:
    """Segments that a row of `length` tokens may have here, its padding being one of them."""
    return max(16, length // _TOKENS_A_SEGMENT)


def attend(
    q_BTNH: jax.Array, kv: KeysAndValues, visibility: Visibility, form: AttentionForm
) -> jax.Array:
    """`kernels.attention.attend` for whole rows in bfloat16, with one window or none."""
    assert form.soft_cap is None and kv.sinks_N is None and len(form.windows) <= 1, "refused before"
    segments_BT = visibility.q_segments_BT
    lengths_BM, starts_BZ, fits = _spans(segments_BT, max_segments(segments_BT.shape[1]))

    def packed(q_BTNH, k_BTKH, v_BTKH):
        return _packed(q_BTNH, k_BTKH, v_BTKH, lengths_BM, starts_BZ, form)

    def by_blocks(q_BTNH, k_BTKH, v_BTKH):
        return blocked.attend(q_BTNH, KeysAndValues(k_BTKH, v_BTKH), visibility, form)

    return jax.lax.cond(fits, packed, by_blocks, q_BTNH, kv.k_BSKH, kv.v_BSKH)


def _packed(q_BTNH, k_BTKH, v_BTKH, lengths_BM, starts_BZ, form: AttentionForm) -> jax.Array:
    from jax._src.cudnn import fused_attention_stablehlo as cudnn  # moves: the self-test says so

    if jax.__version_info__ < (0, 11, 1):
        # Before, offsets of keys were counted in query heads, which gives wrong results (jax
        # pull request 39521).
        group = q_BTNH.shape[2] // k_BTKH.shape[2]
        k_BTKH, v_BTKH = (jnp.repeat(array, group, axis=2) for array in (k_BTKH, v_BTKH))
    out_BTNH = cudnn.dot_product_attention(
        q_BTNH,
        k_BTKH,
        v_BTKH,
        q_seqlen=lengths_BM,
        kv_seqlen=lengths_BM,
        q_offsets=starts_BZ,
        kv_offsets=starts_BZ,
        scale=form.scale,
        mask_type=cudnn.MaskType.PADDING_CAUSAL,
        sliding_window_length=form.windows[0] if form.windows else None,
    )
    assert isinstance(out_BTNH, jax.Array)  # return_residual would add to it
    return out_BTNH


def _spans(segments_BT: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lengths [B, M] and starts [B, Z] of segments, -1 where there are no more, and whether all
    of them are in there, each in one piece. Padding counts as a segment, which sees itself.

    segments [1 1 1 2 2 0], count 4:   lengths [3 2 1 -1]   starts [0 3 5 -1 -1]
    """
    length = segments_BT.shape[1]
    order_BT = in_order(segments_BT)
    begins_BT = jnp.diff(order_BT, axis=1, prepend=order_BT[:, :1] - 1) != 0

    def starts_of(begins_T):
        return jnp.nonzero(begins_T, size=count + 1, fill_value=length)[0].astype(jnp.int32)

    starts_BZ = jax.vmap(starts_of)(begins_BT)
    lengths_BM = jnp.diff(starts_BZ, axis=1)
    fits = jnp.all(starts_BZ[:, -1] == length) & jnp.all(jnp.diff(order_BT, axis=1) >= 0)
    lengths_BM = jnp.where(lengths_BM > 0, lengths_BM, -1)
    return lengths_BM, jnp.where(starts_BZ < length, starts_BZ, -1), fits
