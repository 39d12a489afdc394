"""What this process holds of one array: filled on the host a tensor at a time, then placed."""

import dataclasses
from concurrent.futures import Executor

import jax
import numpy as np

from jaxsft.convert.tensors import host_copy

Index = tuple[slice, ...]  # of what a device holds of a leaf


@dataclasses.dataclass(frozen=True)
class HostParts:
    shape: tuple[int, ...]
    sharding: jax.sharding.Sharding
    parts: dict[str, tuple[Index, np.ndarray]]  # by what they take, which several devices may

    @classmethod
    def of(cls, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> "HostParts":
        """Zeros, for each part of the leaf that a device of this process holds."""
        shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
        parts: dict[str, tuple[Index, np.ndarray]] = {}
        for index in sharding.addressable_devices_indices_map(shape).values():
            index = _full(index, shape)
            if str(index) not in parts:
                sizes = [s.stop - s.start for s in index]
                parts[str(index)] = (index, host_copy.zeros(sizes, dtype))
        return cls(shape, sharding, parts)

    def fill(self, at: tuple[int, ...], array: np.ndarray, threads: Executor) -> bool:
        """Copies what the parts take of the array at an index of the leaf; whether it is finite."""
        return all([_fill(part, index, at, array, threads) for index, part in self.parts.values()])

    def placed(self) -> jax.Array:
        return jax.make_array_from_callback(
            self.shape, self.sharding, lambda index: self.parts[str(_full(index, self.shape))][1]
        )


def _fill(
    part: np.ndarray, index: Index, at: tuple[int, ...], array: np.ndarray, threads: Executor
) -> bool:
    for place in at:
        if not index[0].start <= place < index[0].stop:
            return True
        part, index = part[place - index[0].start], index[1:]
    taken = np.asarray(array[index])
    if part.dtype.kind in "iu":
        part[...] = taken
        return True
    return host_copy.copy(part, taken, threads)


def _full(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Index:
    """The index with its open slices closed: one spelling for each part of the array."""
    assert index is not None
    return tuple(slice(*s.indices(size)[:2]) for s, size in zip(index, shape, strict=True))
