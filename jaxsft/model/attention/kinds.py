"""What the rest of the program asks of a kind of attention, so that it needn't know which it is.

B: batch row, T: position, S: cache slot, R: rotation, X: rope.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxsft.model import settings
from jaxsft.model.remat import Part


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CacheSlots:
    """What all layers share of a cache: where the tokens read so far lie, alike in every row."""

    segments_BS: jax.Array  # int32; 0 is padding and slots not yet written
    length: jax.Array  # int32 scalar: slots written
    text_lengths_B: jax.Array  # int32: of a row's whole text, that which is still to come too


@dataclasses.dataclass(frozen=True)
class Context:
    """What all layers share of one batch."""

    segments_BT: jax.Array
    cos_XBTR: jax.Array
    sin_XBTR: jax.Array
    slots: CacheSlots | None  # None: whole rows, without a cache
    keys_BT: jax.Array | None = None  # of a training step's random numbers; None: it has none


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerPlace:
    """What tells a layer from the others of its stack beside its weights; int32 scalars."""

    index: jax.Array  # in the stack, and in its cache
    rope: jax.Array | None  # index into the context's ropes; None: there is one
    window: jax.Array | None  # None: no layer has one


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunShape:
    """What the choice of a back end asks of a run."""

    platform: str  # of its devices
    mesh_sizes: Mapping[str, int]  # by axis
    length: int  # of a row
    dtype: str  # of what is computed
    max_segments: int | None = None  # of a row, its padding being one of them; None: not known


@dataclasses.dataclass(frozen=True)
class AttentionKind:
    """One way to mix positions.

    `module(s, rngs=rngs)` is a layer's attention. Called with (x_BTD, context, cache, place) it
    returns what is added to x_BTD, and its stack's cache with the new tokens; None without one.
    """

    module: Callable[..., Any]
    saved: Mapping[Part, tuple[str, ...]]  # names of its results, for jax.checkpoint's policies
    weights: Callable[[settings.DecoderSettings], Mapping[Part, int]]  # that a token meets, a layer
    # Multiplications that mixing takes in a layer: of (settings, its window, real tokens of a
    # batch, the batch's (query, key) pairs by window).
    mixing_products: Callable[
        [settings.DecoderSettings, int | None, int, Mapping[int | None, int]], int
    ]
    mixed_dims: Callable[[settings.DecoderSettings], int]  # numbers of a token it makes, in a layer
    turned_dims: Callable[[settings.DecoderSettings], int]  # of a vector that positions turn
    read_by_others: Callable[[settings.DecoderSettings], int]  # numbers of a token, in a layer
    # A pytree with room for (settings, layers of the stack, rows, slots, dtype).
    empty_cache: Callable[[settings.DecoderSettings, int, int, int, str], Any]
    # Numbers of each query and key of a cache, of all heads together, that are held at once.
    pair_dims: Callable[[settings.DecoderSettings], int]
    back_ends: tuple[str, ...]  # that config.model.attention may ask for
    # The settings with the back end that a name, or auto, stands for in a run; its name, and why.
    # The device is one of the run's, to test a kernel on; None: there is none, as in a plan.
    # A ConfigError: no such back end, or it can't do what is asked.
    with_back_end: Callable[
        [settings.DecoderSettings, str, RunShape, Any],
        tuple[settings.DecoderSettings, str, str],
    ]
    # The share of (query, key) pairs that its kernel computes, in rows of segments of a length.
    needed_pairs: Callable[[settings.DecoderSettings, RunShape, float], float]
