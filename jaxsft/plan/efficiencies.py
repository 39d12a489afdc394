"""What well-tuned programs reach of the peaks: for estimates, beside bounds that none passes."""

from collections.abc import Sequence

from jaxsft.devices.chips import Chip
from jaxsft.plan.kernels import Kernel

_MATMUL_SHARE, _MEMORY_SHARE, _LINK_SHARE = 0.7, 0.8, 0.7
# Of chips that run kernels in turn: attention's, slower than other products, is among them.
_IN_TURN_MATMUL_SHARE = 0.68


def expected_seconds(chip: Chip, kernels: Sequence[Kernel], communication: float) -> float:
    """Of a step of these kernels that takes so many seconds to send at the links' peak.

    A TPU loads one operation's data while it multiplies another's. A GPU does so within a kernel
    alone, which its products or its data bound, and runs one after the other.
    """
    sending = communication / _LINK_SHARE
    matmul_share = _IN_TURN_MATMUL_SHARE if chip.runs_in_turn else _MATMUL_SHARE
    multiplying = [one.flops / chip.bf16_flops / matmul_share for one in kernels]
    moving = [one.bytes / chip.memory_bandwidth / _MEMORY_SHARE for one in kernels]
    if chip.runs_in_turn:
        return max(sum(map(max, multiplying, moving)), sending)
    return max(sum(multiplying), sum(moving), sending)
