"""Copies a tensor of a file into a part of a parameter on the host: cast, transposed and checked.

numpy's own copy of a transposed bfloat16 matrix reads memory across; in blocks it is several times
as fast.
"""

import math
import mmap

import ml_dtypes
import numpy as np

_BLOCK_ITEMS = 2**15  # 128 KiB of float32: within the second-level cache
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def zeros(shape: tuple[int, ...] | list[int]) -> np.ndarray:
    """A float32 array of zeros in pages of its own, which the kernel hands out at once.

    Page-aligned, so that jax takes it as it lies where the device is the CPU. numpy would ask for
    huge pages, and finding those can take three times as long as everything else here.
    """
    num_items = math.prod(shape)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)  # Linux has it
    memory = mmap.mmap(-1, max(1, 4 * num_items), flags=flags)
    return np.frombuffer(memory, np.float32, num_items).reshape(shape)


def copy(target: np.ndarray, source: np.ndarray) -> bool:
    """Fills float32 `target` from `source`, of any float dtype and order; whether it is finite."""
    assert target.shape == source.shape, (target.shape, source.shape)
    if source.ndim == 0:
        target[...] = source
        return bool(np.isfinite(target))
    # The source's slowest axis: its blocks lie together in the file.
    axis = int(np.argmax(np.abs(source.strides)))
    step = max(1, _BLOCK_ITEMS * source.shape[axis] // max(1, source.size))
    finite = True
    for start in range(0, source.shape[axis], step):
        place = (slice(None),) * axis + (slice(start, start + step),)
        block = _widened(source[place])
        target[place] = block
        finite = finite and _is_finite(block)
    return finite


def _widened(block: np.ndarray) -> np.ndarray:
    """The block as float32; a bfloat16 is the upper half of one."""
    if block.dtype != _BFLOAT16:
        return block.astype(np.float32, order="K", copy=False)
    bits = block.view(np.uint16).astype(np.uint32, order="K")
    bits <<= 16
    return bits.view(np.float32)


def _is_finite(block: np.ndarray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        total = block.sum(dtype=np.float32)
    return bool(np.isfinite(total)) or bool(np.isfinite(block).all())
