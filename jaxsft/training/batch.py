"""A batch of packed rows, as the step takes it.

A: micro-batch, B: batch row, T: position, X: likeliest token of a teacher.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxsft.devices import mesh as mesh_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    tokens_BT: jax.Array  # int32
    targets_BT: jax.Array  # int32: the next token of the same segment
    segments_BT: jax.Array  # int32; 0 is padding
    positions_BT: jax.Array  # int32, from 0 in each segment
    weights_BT: jax.Array  # float32: loss weight of the target; 0 where there is none
    sources_BT: jax.Array | None = None  # int32: which source of a mixture the target is from
    # float32: weight of the target in what is minimised; None: weights_BT
    objective_weights_BT: jax.Array | None = None
    examples_BT: jax.Array | None = None  # int32: which example of the data the token is from
    # The likeliest tokens that rows say a teacher had in the target's place, -1 behind the last of
    # them, and their log-probabilities, float32; None: no rows are read for that.
    teacher_ids_BTX: jax.Array | None = None
    teacher_logprobs_BTX: jax.Array | None = None
    keys_BT: jax.Array | None = None  # of random numbers, made of examples_BT; None: no noise


def split_rows(microbatches: int, rows_BTx: jax.Array) -> jax.Array:
    """[B, T] as [A, B / A, T]; micro-batch m has rows m, m + A, ...: each device keeps its own."""
    batch, length, *others = rows_BTx.shape
    parts = rows_BTx.reshape(batch // microbatches, microbatches, length, *others).swapaxes(0, 1)
    return mesh_lib.constrain(parts, None, "batch", "sequence", *[None] * len(others))


def with_firsts(batch: Batch, num_sources: int) -> Batch:
    """The batch whose sources tell a target that begins an answer from the others.

    Of 2 sources, such a target of source 1 has 1, another one 1 + 2.

        weights    0  1  1  0  0  1  0
        sources    1  1  1  1  1  1  1
        becomes    3  1  3  3  3  1  3
    """
    weights_BT, sources_BT = batch.weights_BT, batch.sources_BT
    # The last token of an example, or of a row, has no target, so that its weight is 0.
    before_BT = jnp.roll(weights_BT, 1, axis=1)
    later_BT = ~((weights_BT > 0) & (before_BT == 0))
    known_BT = jnp.zeros(weights_BT.shape, jnp.int32) if sources_BT is None else sources_BT
    return dataclasses.replace(batch, sources_BT=known_BT + num_sources * later_BT)
