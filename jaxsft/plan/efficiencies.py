"""What well-tuned programs reach of the peaks: for estimates, beside bounds that none passes."""

from jaxsft.devices.chips import Chip

_MATMUL_SHARE, _MEMORY_SHARE, _LINK_SHARE = 0.7, 0.8, 0.7
# Of chips that run kernels in turn: what an H200 reached with large products and with copies.
_IN_TURN_MATMUL_SHARE = 0.8


def expected_seconds(chip: Chip, matmuls: float, memory: float, communication: float) -> float:
    """Of a step that takes so many seconds of each at the chip's peaks.

    A TPU loads while it multiplies. A GPU does one after the other, but for what runs beside both.
    """
    sending = communication / _LINK_SHARE
    if chip.runs_in_turn:
        return max(matmuls / _IN_TURN_MATMUL_SHARE + memory / _MEMORY_SHARE, sending)
    return max(matmuls / _MATMUL_SHARE, memory / _MEMORY_SHARE, sending)
