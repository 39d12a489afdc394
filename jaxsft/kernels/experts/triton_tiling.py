"""Sizes of the blocks that the experts' kernels for GPUs work on, with their warps and stages."""

from typing import NamedTuple


class Tiling(NamedTuple):
    """A program sums up a block of the result, `height` x `width`, in steps of `depth`.

    `num_stages` is the number of steps whose factors are in shared memory at once.
    """

    height: int
    width: int
    depth: int
    num_warps: int
    num_stages: int


class Tilings(NamedTuple):
    rows: Tiling  # rows times their matrices
    rows_gradient: Tiling  # times the matrices' transposes
    weights: Tiling  # the gradient of matrices, whose steps go over rows


# Not measured yet: what the compiler fits into a Hopper's shared memory and registers.
TABLE = Tilings(
    Tiling(128, 256, 64, 8, 3),
    Tiling(128, 256, 64, 8, 3),
    Tiling(128, 256, 64, 8, 3),
)
UNIT = 16  # of a matrix's sides, so that a step is no smaller than what a product of Triton's takes
_WIDE = 128  # smaller blocks read their factors too often


def dividing(size: int, most: int) -> int:
    """The greatest power of two that divides `size`, or `most`, which is one."""
    return min(size & -size, most)


def block(size: int, most: int) -> int:
    """A block's side along `size`: it divides that, but where it would be small for it."""
    return max(dividing(size, most), min(most, _WIDE, 1 << (size - 1).bit_length()))
