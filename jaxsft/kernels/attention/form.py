"""The static form of attention, its keys and values, and who sees whom.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, H: head_dim.
"""

import dataclasses
from collections.abc import Sequence

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionForm:
    """All that is static of a model's attention: the same in each layer, made with the program.

    Sizes of blocks are not in it: each back end derives its own from the arrays' shapes.
    """

    scale: float  # of query x key
    back_end: str = "xla"  # a name in attend.BACK_ENDS
    max_segments: int | None = None  # of a row, its padding being one of them; None: not known
    windows: tuple[int, ...] = ()  # that layers have, one without having a wide one; or none
    soft_cap: float | None = None  # logits become soft_cap * tanh(logits / soft_cap)
    sinks: bool = False  # heads have a logit that takes part in the softmax and has no value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeysAndValues:
    k_BSKH: jax.Array
    v_BSKH: jax.Array
    sinks_N: jax.Array | None = None  # where the form says so


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visibility:
    """A query sees keys of its segment, up to its own position, within the window."""

    q_segments_BT: jax.Array  # int32; padding (0) attends to padding, so that no row is empty
    kv_segments_BS: jax.Array
    first_query: jax.Array | int = 0  # the key position of query 0
    window: jax.Array | int | None = None  # its own key and window - 1 before it; one of the form's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """A run's attention, as it is on each of its devices."""

    form: AttentionForm
    platform: str
    length: int  # of a row: keys
    query_length: int  # of a row's part on one device
    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str


def first_limit(limits: Sequence[tuple[str, bool]]) -> str | None:
    """Why a back end can't do what is asked: the first of its limits that is met; or None."""
    return next((f"can't do {what}" for what, is_met in limits if is_met), None)
