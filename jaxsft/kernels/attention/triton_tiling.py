"""Sizes of the blocks that the kernels for GPUs work on, with the warps and stages for them."""

from typing import NamedTuple


class Tiling(NamedTuple):
    """How one kernel is cut up: a program holds one block and loops over those of the other kind.

    `num_stages` is the number of blocks in shared memory at once, of each array in the loop.
    """

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int


class Tilings(NamedTuple):
    forward: Tiling
    keys: Tiling  # the gradients of keys and values: holds keys, loops over queries
    queries: Tiling  # the gradient of queries: holds queries, loops over keys


# By the greatest head_dim that they are for.
_BY_HEAD_DIM = {
    64: Tilings(Tiling(128, 64, 4, 3), Tiling(64, 64, 4, 2), Tiling(64, 64, 4, 3)),
    128: Tilings(Tiling(64, 64, 4, 3), Tiling(64, 64, 4, 2), Tiling(64, 64, 4, 2)),
}
MAX_HEAD_DIM = max(_BY_HEAD_DIM)
# What every block size above divides.
LENGTH_UNIT = 128


def for_head_dim(head_dim: int) -> Tilings:
    return _BY_HEAD_DIM[min(size for size in _BY_HEAD_DIM if size >= head_dim)]
