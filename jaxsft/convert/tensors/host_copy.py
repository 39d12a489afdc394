"""Copies a tensor of a file into a part of a parameter on the host: cast, transposed and checked.

numpy's own copy of a transposed matrix reads memory across. In blocks that stay in the cache it is
several times as fast, and blocks are what threads can share without a second copy of anything.
"""

import math
import mmap
from collections.abc import Iterator
from concurrent.futures import Executor

import numpy as np

_BLOCK_ITEMS = 2**15  # 128 KiB of float32: within the second-level cache
_TASK_BLOCKS = 32  # that one thread copies: enough to outweigh handing them out

BlockPlace = tuple[slice, ...]  # of one block in both arrays


def zeros(shape: tuple[int, ...] | list[int], dtype: np.dtype) -> np.ndarray:
    """An array of zeros in pages of its own, which the kernel hands out as they are written.

    Page-aligned, so that jax takes it as it lies where the device is the CPU. numpy would ask for
    huge pages, and finding those can take three times as long as everything else here.
    """
    num_items = math.prod(shape)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, max(1, dtype.itemsize * num_items), flags=flags)
    return np.frombuffer(memory, dtype, num_items).reshape(shape)


def copy(target: np.ndarray, source: np.ndarray, threads: Executor) -> bool:
    """Fills `target` from `source`, of any float dtypes and orders; whether it is finite now."""
    assert target.shape == source.shape, (target.shape, source.shape)
    blocks = list(_blocks(source))
    tasks = [blocks[n : n + _TASK_BLOCKS] for n in range(0, len(blocks), _TASK_BLOCKS)]
    return all(list(threads.map(lambda task: _copy_blocks(target, source, task), tasks)))


def _blocks(source: np.ndarray, place: BlockPlace = ()) -> Iterator[BlockPlace]:
    """Cuts an array along its slowest axis: what lies together in the file stays together."""
    place = (*place, *[slice(None)] * (source.ndim - len(place)))
    size = source[place].size
    if size <= _BLOCK_ITEMS:
        if size:
            yield place
        return
    whole = [axis for axis, cut in enumerate(place) if cut == slice(None)]
    axis = max(whole, key=lambda axis: (source.shape[axis] > 1, abs(source.strides[axis])))
    step = max(1, _BLOCK_ITEMS * source.shape[axis] // size)
    for start in range(0, source.shape[axis], step):
        cut = slice(start, start + step)
        yield from _blocks(source, (*place[:axis], cut, *place[axis + 1 :]))


def _copy_blocks(target: np.ndarray, source: np.ndarray, places: list[BlockPlace]) -> bool:
    bits = np.dtype(f"u{target.itemsize}")  # numpy copies integers faster than bfloat16
    finite = True
    for place in places:
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            block = source[place].astype(target.dtype, order="K", copy=False)
        target.view(bits)[place] = block.view(bits)
        finite = finite and _is_finite(block)
    return finite


def _is_finite(block: np.ndarray) -> bool:
    """NaN and the infinite values are the largest of all bits, with either sign."""
    unsigned, signed = (np.dtype(f"{kind}{block.itemsize}") for kind in "ui")
    infinity, minus_infinity = np.array([np.inf, -np.inf], block.dtype).view(unsigned)
    return bool(block.view(signed).max() < infinity and block.view(unsigned).max() < minus_infinity)
