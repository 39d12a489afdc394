"""What a compiled program's operations compute and move, one by one."""

from typing import NamedTuple

from jaxsft.plan import cost, memory_traffic
from jaxsft.plan.hlo import HloProgram
from jaxsft.plan.kernel_flops import NOTHING_SKIPPED, Skipped


class Kernel(NamedTuple):
    """An operation that is fused into no other, as often as it runs."""

    flops: float  # of matrix products
    bytes: float  # read and written


def of_program(program: HloProgram, skipped: Skipped = NOTHING_SKIPPED) -> list[Kernel]:
    """Those of one call, on one device.

    Args:
        skipped: what kernels leave out, by the data.
    """
    found = []
    for computation, times in program.running():
        for one in computation.instructions.values():
            flops = times * cost.products_of(program, computation, one, skipped)
            moved = times * memory_traffic.moved_by(program, computation, one)
            if flops or moved:
                found.append(Kernel(flops, moved))
    return found
