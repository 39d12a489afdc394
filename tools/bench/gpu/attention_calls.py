"""Our back ends of attention, called as the measurements need them: packed rows, no windows.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxsft.kernels.attention import attend, choose, selftest
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Use, Visibility

ALLOWED = selftest.ALLOWED
Call = Callable[..., jax.Array]  # of q_BTNH, k_BTKH, v_BTKH, segments_BT
Shape = tuple[int, int, int, int]  # T, N, K, H


def packed(back_end: str, max_segments: int | None = None) -> Call:
    """A back end's attention; cuDNN has room for so many segments of a row."""

    def call(q_BTNH, k_BTKH, v_BTKH, segments_BT):
        form = AttentionForm(
            scale=q_BTNH.shape[-1] ** -0.5, back_end=back_end, max_segments=max_segments
        )
        visibility = Visibility(segments_BT, segments_BT)
        return attend.attend(q_BTNH, KeysAndValues(k_BTKH, v_BTKH), visibility, form)

    return call


def use(shape: Shape, platform: str, dtype: str, windows: tuple[int, ...]) -> Use:
    length, num_heads, num_kv_heads, head_dim = shape
    return Use(
        platform=platform,
        length=length,
        query_length=length,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        form=AttentionForm(scale=head_dim**-0.5, windows=windows),
    )


def refusal(back_end: str, asked: Use) -> str | None:
    return choose.refusal(back_end, asked)


def difference(back_end: str, asked: Use, device: Any) -> float:
    """What the self-test finds at the start of a run."""
    return selftest.difference(attend.BACK_ENDS[back_end], asked, device)


def cudnn_dense(q_BTNH, k_BTKH, v_BTKH, segments_BT) -> jax.Array:
    """cuDNN's causal attention over whole rows, whatever their segments."""
    del segments_BT
    return jax.nn.dot_product_attention(
        q_BTNH, k_BTKH, v_BTKH, is_causal=True, implementation="cudnn"
    )
