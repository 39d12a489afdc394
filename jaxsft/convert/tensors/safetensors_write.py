"""Writes safetensors files one tensor at a time, in shards with an index, as transformers does."""

import dataclasses
import hashlib
import itertools
import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.convert.tensors.safetensors_read import ANY_DTYPES, INDEX, SINGLE
from jaxsft.files.whole_files import write_text

MAX_SHARD_BYTES = 5 * 10**9
CODES = {dtype: code for code, dtype in ANY_DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor that is going to be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    block: str = ""  # of neighbours that come into one shard; "": the tensor is by itself

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape))


def write(
    directory: Path,
    tensors: Sequence[Planned],
    produce: Callable[[str], np.ndarray],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    single: str = SINGLE,
) -> dict[str, str]:
    """Writes the tensors and returns the sha256 of each one's bytes.

    Each file gets its name when it is complete, the index last.

    Args:
        single: the name of the file where one is enough.
        produce: the tensor of that name, in the planned dtype and shape; asked for once each.
    """
    shards = plan_shards(tensors, max_shard_bytes)
    names = file_names(len(shards), single)
    digests: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        digests |= _write_file(directory / name, shard, produce)
    if len(shards) > 1:
        total = sum(tensor.num_bytes for tensor in tensors)
        place = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(place.items()))}
        write_text(directory / INDEX, json.dumps(index, indent=2) + "\n")
    return digests


def plan_shards(tensors: Sequence[Planned], max_bytes: int) -> list[list[Planned]]:
    """The blocks in order, a new shard begun where one would grow past max_bytes.

    One that is larger gets a shard of its own, before the one that has been begun. Within a shard
    wider dtypes come first, which keeps every tensor aligned to its items.
    """
    shards: list[list[Planned]] = []
    begun: list[Planned] = []
    for _, group in itertools.groupby(tensors, lambda tensor: tensor.block or tensor.name):
        block = list(group)
        if _num_bytes(block) > max_bytes:
            shards.append(block)
            continue
        if _num_bytes(begun) + _num_bytes(block) > max_bytes:
            shards.append(begun)
            begun = []
        begun += block
    shards += [begun] if begun else []
    return [sorted(shard, key=lambda tensor: -tensor.dtype.itemsize) for shard in shards]


def _num_bytes(tensors: Sequence[Planned]) -> int:
    return sum(tensor.num_bytes for tensor in tensors)


def file_names(count: int, single: str = SINGLE) -> list[str]:
    if count == 1:
        return [single]
    return [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]


def digest(array: np.ndarray) -> str:
    """The sha256 of an array's bytes in row-major order."""
    return hashlib.sha256(_bytes(array)).hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    """The array's memory in row-major order; no copy when it lies so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write_file(
    path: Path, tensors: Sequence[Planned], produce: Callable[[str], np.ndarray]
) -> dict[str, str]:
    digests = {}
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(_header(tensors))
        for tensor in tensors:
            array = produce(tensor.name)
            assert (array.dtype, array.shape) == (tensor.dtype, tensor.shape), tensor
            array = np.ascontiguousarray(array)  # which gives a single number a dimension
            digests[tensor.name] = digest(array)
            file.write(_bytes(array))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return digests


def _header(tensors: Sequence[Planned]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.num_bytes],
        }
        offset += tensor.num_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
