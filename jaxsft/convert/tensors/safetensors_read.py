"""The tensors of a directory of safetensors files, as views that read only what is indexed."""

import dataclasses
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jaxsft.convert import source
from jaxsft.errors import ConversionError
from jaxsft.files import untrusted

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
PACKED = {**DTYPES, "U8": np.dtype(np.uint8)}  # where weights may be quantised
# The types of tensors that training only passes on, as a multimodal model's vision tower.
ANY_DTYPES = {
    **PACKED,
    **{f"{kind}{8 * n}": np.dtype(f"{kind.lower()}{n}") for kind in "IU" for n in (1, 2, 4, 8)},
    **{"BOOL": np.dtype(np.bool_), "F64": np.dtype(np.float64)},
}
# The oldest GPT-NeoX checkpoints keep causal masks in these types, which no weight has.
MASK_DTYPES = {"BOOL": np.dtype(np.bool_), "U8": np.dtype(np.uint8)}
MASK = ".attention.bias"
ROTARY = ".rotary_emb."  # holds no weight either: frequencies, which may be of double precision
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file


class Directory:
    """The tensors of model.safetensors, or of the files that model.safetensors.index.json names.

    An index of that one file, which some programs write beside it, is checked with the others.
    """

    def __init__(
        self, directory: Path, single: str = SINGLE, dtypes: Mapping[str, np.dtype] = DTYPES
    ):
        """Reads the headers only.

        Args:
            single: its name where it is no model's; its index is NAME.index.json.
            dtypes: that tensors may have.

        Raises:
            ConversionError: a file that is broken or missing, a tensor missing or repeated.
        """
        self._entries: dict[str, Entry] = {}
        weight_map = _weight_map(directory, single)
        for name in dict.fromkeys(weight_map.values()) or [single]:
            for tensor, entry in read_header(directory / name, dtypes).items():
                if tensor in self._entries:
                    other = self._entries[tensor].path.name
                    raise ConversionError(f"{directory}: {tensor} is in both {other} and {name}")
                self._entries[tensor] = entry
        if weight_map:
            self._check_index(directory / _index_of(single), weight_map)
        self._maps: dict[Path, np.memmap] = {}

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self._entries[name].dtype

    def read(self, name: str) -> np.ndarray:
        """The tensor as a read-only view of the file; indexing it reads those pages."""
        entry = self._entries[name]
        if entry.path not in self._maps:
            self._maps[entry.path] = np.memmap(entry.path, np.uint8, "r")
        size = entry.dtype.itemsize * int(np.prod(entry.shape))
        raw = self._maps[entry.path][entry.start : entry.start + size]
        return np.asarray(raw).view(entry.dtype).reshape(entry.shape)

    def _check_index(self, index: Path, weight_map: dict[str, str]) -> None:
        for tensor, shard in weight_map.items():
            if tensor not in self._entries or self._entries[tensor].path.name != shard:
                raise ConversionError(f"{index}: {tensor} is not in {shard}")
        for tensor in self._entries:
            if tensor not in weight_map:
                shard = self._entries[tensor].path
                raise ConversionError(f"{shard}: {tensor} is not in the index")


def _index_of(single: str) -> str:
    return f"{single}.index.json"


def _weight_map(directory: Path, name: str) -> dict[str, str]:
    """The index: tensor name -> file name; empty when there is one file only."""
    single, index = directory / name, directory / _index_of(name)
    if not index.exists():
        if not single.exists() and name == SINGLE:
            source.refuse_pickles(directory)
        return {}
    weight_map = untrusted.read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConversionError(f"{index}: weight_map={weight_map!r}, expected tensor: file")
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard:
            raise ConversionError(f"{index}: file {shard!r} is not a plain name in this directory")
    if single.exists() and any(shard != name for shard in weight_map.values()):
        raise ConversionError(
            f"{directory}: has both {name} and {index.name} of other files; remove the one that is"
            " out of date"
        )
    for shard in dict.fromkeys(weight_map.values()):
        if not (directory / shard).is_file():
            raise ConversionError(f"{index}: shard {shard} is missing; download it again")
    return weight_map


def read_header(path: Path, dtypes: Mapping[str, np.dtype]) -> dict[str, Entry]:
    """The tensors of one file, its header checked by the safetensors library.

    Raises:
        ConversionError: not a safetensors file, cut short, or with another dtype than `dtypes`.
    """
    untrusted.refuse_impostor(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        text = file.read(length) if length <= untrusted.MAX_JSON_BYTES else b""
    if not text.startswith(b"{") or len(text) < length:
        raise ConversionError(
            f"{path}: is not a whole safetensors file ({size} bytes); download it again"
        )
    header = untrusted.parse_json(text, f"{path}: header")
    header.pop("__metadata__", None)
    expected = 8 + length + max((_end(entry) for entry in header.values()), default=0)
    if size != expected:
        raise ConversionError(
            f"{path}: file size {size}, header says {expected}; download it again"
        )
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ConversionError(f"{path}: {error}") from None
    start = 8 + length
    return {name: _entry(path, start, name, value, dtypes) for name, value in header.items()}


def _end(entry: Any) -> int:
    """Where an entry's bytes end; 0 for an ill-formed one, which the library will name."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    well_formed = isinstance(offsets, list) and all(isinstance(n, int) for n in offsets)
    return offsets[-1] if well_formed and offsets else 0


def _entry(
    path: Path, data_start: int, name: str, value: dict[str, Any], dtypes: Mapping[str, np.dtype]
) -> Entry:
    allowed = {**dtypes, **MASK_DTYPES} if name.endswith(MASK) else dtypes
    allowed = ANY_DTYPES if ROTARY in name else allowed
    if value["dtype"] not in allowed:
        raise ConversionError(
            f"{path}: {name} has dtype {value['dtype']}; {', '.join(dtypes)} are supported"
            " (quantised weights can't be trained: name the checkpoint they were made from)"
        )
    start = data_start + value["data_offsets"][0]
    return Entry(path, allowed[value["dtype"]], tuple(value["shape"]), start)
