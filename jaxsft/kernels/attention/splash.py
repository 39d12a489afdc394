"""The back end `splash`: jax's Pallas kernel for TPU, which skips blocks that no query may see.

The kernel reads from an array which blocks to skip. It is filled here from the segments, so that a
row of many segments costs their own pairs and not those between them.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, H: head_dim,
I / J: block of queries / keys.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jax.typing import DTypeLike

from jaxsft.kernels.attention import blocks
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Use, Visibility

_BLOCK_SIZES = (1024, 512, 256, 128)  # the largest that divides; 128 is the lanes of a register
# The largest block of one head's queries: with the next size the backward kernels, compiled for
# v5p and v5e, need more than their fast memory.
_MAX_BLOCK_BYTES = 1024 * 128 * 2
# Up to so many rows each has its own kernel; more share one in a loop, which compiles in seconds
# but keeps padded results of all rows: 0.7 GB more for 2 rows of 8192 tokens with 32 heads of 128.
_MAX_UNROLLED_ROWS = 4
# How often each program of the kernel multiplies a block of queries with one of keys or the like:
# scores and output; scores, their gradient and that of the queries; and for keys and values scores,
# their gradient and those two.
_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}


def refusal(use: Use) -> str | None:
    """Why a run's attention is not for this back end, or None."""
    length, query_length = use.length, use.query_length
    if length % _BLOCK_SIZES[-1] or query_length % _BLOCK_SIZES[-1]:
        return f"needs a multiple of {_BLOCK_SIZES[-1]} queries and keys, not {query_length}" + (
            "" if query_length == length else f" of {length}"
        )
    return None


def attend(
    q_BTNH: jax.Array,
    kv: KeysAndValues,
    visibility: Visibility,
    form: AttentionForm,
    interpret: bool = False,
) -> jax.Array:
    """`kernels.attention.attend` for lengths that `refusal` lets pass.

    Args:
        interpret: runs the kernel without a TPU, slowly.
    """
    length, head_dim = q_BTNH.shape[1], q_BTNH.shape[3]
    q_BTNH *= form.scale
    first_query, window = visibility.first_query, visibility.window
    q_positions_T = first_query + jnp.arange(length, dtype=jnp.int32)
    mask = _Mask(form.windows)
    sizes = _block_sizes(length, kv.k_BSKH.shape[1], _head_bytes(head_dim, q_BTNH.dtype))

    def row(q_NTH, k_KSH, v_KSH, q_segments_T, kv_segments_S):
        needed_IJ = blocks.needed(
            q_segments_T, kv_segments_S, first_query, window, (sizes.block_q, sizes.block_kv)
        )
        sequence_T = mask.encode(q_positions_T, window)
        by_query = _mask_info(needed_IJ, _next_needed(needed_IJ), sequence_T)
        by_key = _mask_info(needed_IJ, _next_needed(needed_IJ.T).T, sequence_T)
        kernel = splash.SplashAttentionKernel(
            by_query,
            by_query,
            by_key,
            block_sizes=sizes,
            is_mqa=False,
            save_residuals=False,
            mask_value=splash.DEFAULT_MASK_VALUE,
            attn_logits_soft_cap=form.soft_cap,
            residual_checkpoint_name=blocks.RESIDUAL_NAME,
            mask_function=mask,
            interpret=interpret,
        )
        segments = splash.SegmentIds(q_segments_T, kv_segments_S)
        out_NTH = kernel(q_NTH, k_KSH, v_KSH, segments, kv.sinks_N)
        assert isinstance(out_NTH, jax.Array)  # save_residuals would add to it
        return out_NTH

    by_row = (q_BTNH, kv.k_BSKH, kv.v_BSKH)
    q_BNTH, k_BKSH, v_BKSH = (jnp.swapaxes(array, 1, 2) for array in by_row)
    arrays = (q_BNTH, k_BKSH, v_BKSH, visibility.q_segments_BT, visibility.kv_segments_BS)
    if len(q_BNTH) > _MAX_UNROLLED_ROWS:
        out_BNTH = jax.vmap(row)(*arrays)
    else:
        out_BNTH = jnp.stack([row(*parts) for parts in zip(*arrays, strict=True)])
    return jnp.swapaxes(out_BNTH, 1, 2)


def products(instruction: str) -> int | None:
    """Products of a query block and a key block in a compiled call of that name; None: another's.

    Its third operand are the queries [N, T, H], the fourth the keys [K, S, H].
    """
    return next((n for name, n in _PRODUCTS.items() if instruction.startswith(name)), None)


def block_sizes(use: Use) -> tuple[int, int]:
    """Of queries and keys, in the forward and the backward pass."""
    sizes = _block_sizes(use.query_length, use.length, _head_bytes(use.head_dim, use.dtype))
    return sizes.block_q, sizes.block_kv


def _head_bytes(head_dim: int, dtype: DTypeLike) -> int:
    """Of a position of one head, as it lies in registers of 128 lanes."""
    return max(head_dim, _BLOCK_SIZES[-1]) * jnp.dtype(dtype).itemsize


def _block_sizes(q_length: int, kv_length: int, head_bytes: int) -> splash.BlockSizes:
    allowed = [size for size in _BLOCK_SIZES if size * head_bytes <= _MAX_BLOCK_BYTES]
    q_size, kv_size = (
        next(size for size in allowed if length % size == 0) for length in (q_length, kv_length)
    )
    return splash.BlockSizes(
        block_q=q_size,
        block_kv=kv_size,
        block_q_dkv=q_size,
        block_kv_dkv=kv_size,
        block_q_dq=q_size,
        block_kv_dq=kv_size,
    )


@dataclasses.dataclass(frozen=True)
class _Mask:
    """Whether a key lies at or before a query and in its window; runs inside the kernel.

    The kernel hands it one integer for each query: the position, and which of `windows` holds.
    """

    windows: tuple[int, ...]

    @property
    def _bits(self) -> int:
        return max(len(self.windows) - 1, 0).bit_length()

    def encode(self, positions_T: jax.Array, window: jax.Array | int | None) -> jax.Array:
        if window is None:
            return positions_T
        which = jnp.argmax(jnp.asarray(self.windows) == window)
        return (positions_T << self._bits) + which.astype(jnp.int32)

    def __call__(self, codes, keys):
        positions = codes >> self._bits
        visible = keys <= positions
        if not self.windows:
            return visible
        which, window = codes & ((1 << self._bits) - 1), self.windows[0]
        for index, other in enumerate(self.windows[1:], 1):
            window = jnp.where(which == index, other, window)
        return visible & (keys > positions - window)


def _mask_info(needed_IJ: jax.Array, next_IJ: jax.Array, sequence_T: jax.Array) -> MaskInfo:
    return MaskInfo(
        data_next=next_IJ[None],
        mask_next=None,
        block_mask=needed_IJ[None].astype(jnp.int32),
        partial_mask_blocks=None,
        q_sequence=sequence_T,  # pyright: ignore[reportArgumentType]  # declared as numpy's
    )


def _next_needed(needed_IJ: jax.Array) -> jax.Array:
    """For each block the column of the first needed one from it on, in row-major order.

    The kernel fetches that one, so a skipped block costs no transfer of its own.

        needed  0 1 0 0    next  1 1 2 2
                0 0 1 0          2 2 2 0
    """
    number = jnp.arange(needed_IJ.size, dtype=jnp.int32)
    behind_all = jnp.int32(needed_IJ.size)
    later = jax.lax.cummin(jnp.where(needed_IJ.ravel(), number, behind_all), reverse=True)
    return (later % needed_IJ.shape[1]).reshape(needed_IJ.shape)
