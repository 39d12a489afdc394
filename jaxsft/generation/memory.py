"""How many answers are written at once: as many as the devices have memory for."""

import os

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.devices import distributed
from jaxsft.generation import decoding
from jaxsft.generation.shapes import MOST_ROWS, BatchShape
from jaxsft.model.attention.choice import kind_of
from jaxsft.model.state import Params, model_of

# Of what is free: the rest is for what the compiler holds beside, and for what fragments.
_SHARE = 0.6
_SHARE_OF_HOST = 0.25  # which has other programs, too


def rows_that_fit(graphdef: nnx.GraphDef, params: Params, shape: BatchShape) -> int:
    """Rows for each part of the mesh that rows are split over, at most MOST_ROWS.

    The same on all processes. One at least: whether that fits the allocator says.
    """
    free = _free_bytes()
    if jax.process_count() > 1:
        free = min(one["free"] for one in distributed.gather({"free": free}))
    return max(1, min(MOST_ROWS, free // row_bytes(graphdef, params, shape)))


def row_bytes(graphdef: nnx.GraphDef, params: Params, shape: BatchShape) -> int:
    """What one more row takes where heads are not split: its cache, its logits and those of
    attention while a chunk is read."""
    ints, unsigned = jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.uint32)

    def start(params: Params) -> decoding.Decoding:
        return decoding.start(graphdef, shape.slots, 1, True, params, ints, unsigned, jnp.int32(1))

    s = model_of(graphdef, params).settings
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(_shapes(start, params)))
    sorted_logits = 4 * 4 * s.vocab_size
    reading = 2 * 4 * kind_of(s).pair_dims(s) * shape.chunk * shape.slots
    return held + sorted_logits + reading


def _shapes(start, params: Params) -> decoding.Decoding:
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return jax.eval_shape(start, params)


def _free_bytes() -> int:
    """On each of this process's devices."""
    known = [device.memory_stats() for device in jax.local_devices()]
    if all(stats and "bytes_limit" in stats for stats in known):
        free = [stats["bytes_limit"] - stats["bytes_in_use"] for stats in known if stats]
        return int(_SHARE * min(free))
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(_SHARE_OF_HOST * pages / len(known))
