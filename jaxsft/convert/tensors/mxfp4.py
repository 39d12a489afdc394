"""Weights that gpt-oss files hold as 4-bit floats with a power of two for each block of 32.

E: expert, R: output row, G: blocks of a row, B: bytes of a block, two values each; K = G x 2B.
"""

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxsft.convert.tensors.safetensors_read import PACKED, Directory
from jaxsft.errors import ConversionError

# Source: OCP Microscaling Formats v1.0, FP4 E2M1: sign, two bits of exponent, one of mantissa.
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_VALUES = np.concatenate([_VALUES, -_VALUES])
_BIAS = 127  # of E8M0, the scale's exponent
_BLOCKS, _SCALES = "_blocks", "_scales"


def dequantise(blocks_ERGB: np.ndarray, scales_ERG: np.ndarray) -> np.ndarray:
    """The matrices, float32 [E, K, R]: transposed, as transformers holds them.

    Every value but those of the two highest scales is exact in bfloat16 too.

    Args:
        blocks_ERGB: uint8; the low four bits come first.
        scales_ERG: uint8.
    """
    num_experts, num_rows = blocks_ERGB.shape[:2]
    pairs = np.stack([blocks_ERGB & 0x0F, blocks_ERGB >> 4], axis=-1)
    exponents = scales_ERG.astype(np.int32)[..., None, None] - _BIAS
    with np.errstate(over="ignore"):  # infinite, as in transformers; the reader refuses it
        values = np.ldexp(_VALUES[pairs], exponents)
    return values.reshape(num_experts, num_rows, -1).transpose(0, 2, 1)


@dataclasses.dataclass(frozen=True)
class Packed:
    """An array [E, K, R] in the making: its slices are packed too, np.asarray makes it float32.

    So a process reads and dequantises what its devices hold, one expert at a time.
    """

    blocks_ERGB: np.ndarray
    scales_ERG: np.ndarray
    inputs: range  # of K

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.blocks_ERGB.shape[0], len(self.inputs), self.blocks_ERGB.shape[1])

    def reshape(self, shape: tuple[int, ...]) -> "Packed":
        assert shape == self.shape, (shape, self.shape)
        return self

    def __getitem__(self, index: tuple[Any, ...]) -> "Packed":
        """A slice of each dimension, or of the last ones behind an ellipsis."""
        if index[0] is Ellipsis:
            index = (slice(None),) * (4 - len(index)) + index[1:]
        experts, inputs, rows = index
        return Packed(
            self.blocks_ERGB[experts, rows], self.scales_ERG[experts, rows], self.inputs[inputs]
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        assert dtype in (None, np.float32) and self.inputs.step == 1, (dtype, self.inputs)
        del copy  # always a new array
        length = 2 * self.blocks_ERGB.shape[3]
        first = self.inputs.start // length
        groups = slice(first, -(-self.inputs.stop // length))
        wanted = slice(self.inputs.start - first * length, self.inputs.stop - first * length)
        num_experts, num_inputs, num_rows = self.shape
        rows_ERK = np.empty((num_experts, num_rows, num_inputs), np.float32)
        for expert in range(num_experts):
            one = np.s_[expert : expert + 1, :, groups]
            matrix_KR = dequantise(self.blocks_ERGB[one], self.scales_ERG[one])[0, wanted]
            rows_ERK[expert] = matrix_KR.T
        return rows_ERK.transpose(0, 2, 1)


class Dequantised:
    """The tensors of a directory, each pair of name_blocks and name_scales as `name`."""

    def __init__(self, directory: Path):
        """Reads headers only.

        Raises:
            ConversionError: blocks and scales that are not there, or do not belong together.
        """
        self._base, self._where = base, where = Directory(directory, dtypes=PACKED), str(directory)
        there = set(base.names())
        blocks = (name for name in there if name.endswith(_BLOCKS))
        names = (name.removesuffix(_BLOCKS) for name in blocks)
        self._packed = {name for name in names if name + _SCALES in there}
        parts = {name + part for name in self._packed for part in (_BLOCKS, _SCALES)}
        self._plain = there - parts
        if not self._packed:
            raise ConversionError(
                f"{where}: quantization_config says mxfp4, but no tensor is called *{_BLOCKS}"
            )
        for name in sorted(there):
            if (base.dtype(name) == np.uint8) != (name in parts):
                raise ConversionError(
                    f"{where}: {name} is {base.dtype(name)}; {_BLOCKS} and {_SCALES} come in pairs"
                    " of uint8, and nothing else is uint8"
                )

    def names(self) -> list[str]:
        return sorted(self._plain | self._packed)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._open(name).shape if name in self._packed else self._base.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """Bfloat16 for the packed ones: as transformers saves them where it has unpacked them."""
        packed = name in self._packed
        return np.dtype(ml_dtypes.bfloat16) if packed else self._base.dtype(name)

    def read(self, name: str) -> Any:
        """A view of the file, or what becomes an array where it has been sliced."""
        return self._open(name) if name in self._packed else self._base.read(name)

    def _open(self, name: str) -> Packed:
        blocks, scales = self._base.read(name + _BLOCKS), self._base.read(name + _SCALES)
        if blocks.ndim != 4 or blocks.shape[:3] != scales.shape:
            raise ConversionError(
                f"{self._where}: {name} has blocks {blocks.shape} and scales {scales.shape};"
                " expected [E, R, G, B] and [E, R, G]"
            )
        return Packed(blocks, scales, range(2 * blocks.shape[2] * blocks.shape[3]))
