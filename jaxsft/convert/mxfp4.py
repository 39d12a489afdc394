"""Weights that gpt-oss files hold as 4-bit floats with a power of two for each block of 32.

E: expert, R: output row, G: blocks of a row, B: bytes of a block, two values each; K = G x 2B.
"""

import numpy as np

from jaxsft.errors import ConversionError

# Source: OCP Microscaling Formats v1.0, FP4 E2M1: sign, two bits of exponent, one of mantissa.
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_VALUES = np.concatenate([_VALUES, -_VALUES])
_BIAS = 127  # of E8M0, the scale's exponent


def dequantise(blocks_ERGB: np.ndarray, scales_ERG: np.ndarray, name: str) -> np.ndarray:
    """The matrices, float32 [E, K, R]: transposed, as transformers holds them.

    Every value but those of the two highest scales is exact in bfloat16 too.

    Args:
        blocks_ERGB: uint8; the low four bits come first.
        scales_ERG: uint8.
        name: what to call the tensor in errors.

    Raises:
        ConversionError: blocks and scales that do not belong together.
    """
    for part, array in (("blocks", blocks_ERGB), ("scales", scales_ERG)):
        if array.dtype != np.uint8:
            raise ConversionError(f"{name}_{part}: is {array.dtype}, expected uint8")
    if blocks_ERGB.ndim != 4 or blocks_ERGB.shape[:3] != scales_ERG.shape:
        raise ConversionError(
            f"{name}: blocks {blocks_ERGB.shape} and scales {scales_ERG.shape} do not belong"
            " together; expected [E, R, G, B] and [E, R, G]"
        )
    num_experts, num_rows = blocks_ERGB.shape[:2]
    pairs = np.stack([blocks_ERGB & 0x0F, blocks_ERGB >> 4], axis=-1)
    exponents = scales_ERG.astype(np.int32)[..., None, None] - _BIAS
    with np.errstate(over="ignore"):  # infinite, as in transformers; the reader refuses it
        values = np.ldexp(_VALUES[pairs], exponents)
    return values.reshape(num_experts, num_rows, -1).transpose(0, 2, 1)
