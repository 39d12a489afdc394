"""Operations of kernels, whose products a compiled program's text doesn't show.

N: query heads, T / S: query / key position, H: head_dim, B: batch row,
K: key-value heads.
"""

import dataclasses
import re

from jaxsft.kernels.attention import cudnn_calls, splash, triton_calls
from jaxsft.kernels.experts import triton_kernels as experts_kernels
from jaxsft.plan.hlo import Computation, Instruction

_SAID = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')  # as a TPU kernel itself says
_GROUPED = ("ragged-dot", "tgmm")  # of XLA, of jax; they say what all rows would cost


@dataclasses.dataclass(frozen=True)
class Skipped:
    """The shares that kernels compute of what they could: the data decide."""

    used_rows: float = 1.0  # of grouped products
    needed_pairs: float = 1.0  # of (query, key) pairs, by whole blocks of attention


NOTHING_SKIPPED = Skipped()


def kernel_flops(one: Instruction, computation: Computation, skipped: Skipped) -> float:
    """Of a custom call; 0 for one that says nothing and is not known."""
    shapes = (computation.instructions[name].arrays[0].shape for name in one.operands)
    if (of_all_rows := experts_kernels.flops(one.attributes, shapes)) is not None:
        return of_all_rows * skipped.used_rows
    if (products := splash.products(one.name)) is not None:
        q_NTH, k_KSH = (computation.instructions[name].arrays[0] for name in one.operands[2:4])
        return 2.0 * products * q_NTH.size * k_KSH.shape[-2] * skipped.needed_pairs
    if (products := cudnn_calls.products(one.attributes)) is not None:
        q_BTNH, k_BSKH = (computation.instructions[name].arrays[0] for name in one.operands[:2])
        return 2.0 * products * q_BTNH.size * k_BSKH.shape[1] * skipped.needed_pairs
    if (products := triton_calls.products(one.attributes)) is not None:
        q_BTNH, k_BSKH = (computation.instructions[name].arrays[0] for name in one.operands[1:3])
        return 2.0 * products * q_BTNH.size * k_BSKH.shape[1] * skipped.needed_pairs
    if (said := _SAID.search(one.attributes)) is None:
        return 0.0
    return float(said[1]) * (skipped.used_rows if one.name.startswith(_GROUPED) else 1.0)
