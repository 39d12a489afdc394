"""The metadata and tensor list of a .gguf file, read with bounds: neither jax nor the gguf package.

The gguf package's reader makes numpy objects for each of 50,000 tokens and trusts every length.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

import dataclasses
import hashlib
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.errors import ConversionError
from jaxsft.files import untrusted

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"}
_SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
_FLOAT, _STRING, _ARRAY = 6, 8, 9


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]  # row-major, as numpy has it
    kind: int  # ggml type
    offset: int  # bytes from the beginning of the file


@dataclasses.dataclass(frozen=True)
class Header:
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    sha256: str  # of everything before the tensors


def read(path: Path) -> Header:
    """The header of a little-endian GGUF file of version 2 or 3.

    Raises:
        ConversionError: not one, cut short, or a name given twice.
    """
    untrusted.refuse_impostor(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Cursor(data, path).header()


class _Cursor:
    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.at = data, path, 0

    def header(self) -> Header:
        if self.data[:4] != b"GGUF":
            raise ConversionError(f"{self.path}: is no GGUF file, it begins {self.data[:4]!r}")
        self.at = 4
        version = self.scalar("<I")
        if version not in (2, 3):
            raise ConversionError(f"{self.path}: GGUF version {version}; 2 and 3 are supported")
        num_tensors, num_values = self.scalar("<Q"), self.scalar("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(num_values):
            key = self.string()
            self.refuse_twice(key, metadata)
            metadata[key] = self.value(self.scalar("<I"))
        tensors: dict[str, TensorInfo] = {}
        for _ in range(num_tensors):
            name = self.string()
            self.refuse_twice(name, tensors)
            tensors[name] = self.tensor()
        alignment = metadata.get("general.alignment", 32)
        if alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise ConversionError(f"{self.path}: general.alignment={alignment!r}")
        start = -(-self.at // alignment) * alignment
        digest = hashlib.sha256(self.data[: self.at]).hexdigest()
        placed = {
            name: dataclasses.replace(t, offset=start + t.offset) for name, t in tensors.items()
        }
        return Header(metadata, placed, digest)

    def refuse_twice(self, name: str, there: dict[str, Any]) -> None:
        if name in there:
            raise ConversionError(f"{self.path}: {name} is given twice")

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ConversionError(
                f"{self.path}: is cut short: {len(self.data)} bytes, its header needs at least"
                f" {self.at + size}; download it again"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def scalar(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def string(self) -> str:
        text = self.take(self.scalar("<Q"))
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            raise ConversionError(f"{self.path}: {text[:40]!r} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise ConversionError(f"{self.path}: metadata type {kind} is unknown")
        value = self.scalar(_SCALARS[kind])
        return shortest(value) if kind == _FLOAT else value

    def array(self) -> list[Any]:
        kind, length = self.scalar("<I"), self.scalar("<Q")
        if kind == _STRING:
            return [self.string() for _ in range(length)]
        if kind not in _SCALARS:
            raise ConversionError(f"{self.path}: arrays of metadata type {kind} are not supported")
        dtype = np.dtype(_SCALARS[kind][1]).newbyteorder("<")
        return np.frombuffer(self.take(length * dtype.itemsize), dtype).tolist()

    def tensor(self) -> TensorInfo:
        num_dims = self.scalar("<I")
        if not 0 < num_dims <= 4:
            raise ConversionError(
                f"{self.path}: a tensor has {num_dims} dimensions, expected 1 to 4"
            )
        dims = [self.scalar("<Q") for _ in range(num_dims)]
        return TensorInfo(tuple(reversed(dims)), self.scalar("<I"), self.scalar("<Q"))


def shortest(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 1e-05, not 9.99999975e-06."""
    return float(str(np.float32(value)))
