"""What one call of a compiled program computes and sends, per device.

Counted from its text, loops included, since XLA's own analysis counts a loop's body once.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np

from jaxsft.plan import hlo
from jaxsft.plan.hlo import Computation, HloProgram, Instruction
from jaxsft.plan.kernel_flops import NOTHING_SKIPPED, Skipped, kernel_flops

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(
    r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}"
)
_LIBRARY_MATMUL = re.compile(r'custom_call_target="[^"]*(?:matmul|gemm)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of communication over one set of device groups."""

    kind: str
    groups: tuple[tuple[int, ...], ...]  # of devices, by their place in the mesh; () is all
    across_slices: bool  # over the network, between like devices of the slices
    bytes: float  # that a device sends at least, in one call of the program
    count: float  # of operations


def matmul_flops(program: HloProgram, skipped: Skipped = NOTHING_SKIPPED) -> float:
    """Of all matrix products, wherever they stand; two for each product of two numbers.

    Args:
        skipped: what kernels leave out, by the data.
    """
    return sum(
        times * products_of(program, computation, one, skipped)
        for computation, times in program.running()
        for one in computation.instructions.values()
    )


def products_of(
    program: HloProgram, computation: Computation, one: Instruction, skipped: Skipped
) -> float:
    """FLOPs of the matrix products of one operation, and of those fused into it."""
    if one.op in hlo.FUSIONS:
        return sum(
            products_of(program, program.computations[name], inner, skipped)
            for name in one.called
            for inner in program.computations[name].instructions.values()
        )
    if one.op == "dot":
        lhs = computation.instructions[one.operands[0]].arrays[0]
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
        assert axes, one
        contracted = math.prod(lhs.shape[int(axis)] for axis in axes[1].split(",") if axis)
        return 2.0 * one.arrays[0].size * contracted
    if one.op == "convolution":
        return _convolution(one, computation)
    if one.op == "custom-call" and _LIBRARY_MATMUL.search(one.attributes):
        return _library_matmul(one, computation)
    return kernel_flops(one, computation, skipped) if one.op == "custom-call" else 0.0


def _convolution(one: Instruction, computation: Computation) -> float:
    """The TPU's way to spell a matrix product: padding and gaps of its windows cost nothing."""
    lhs, rhs = (computation.instructions[name].arrays[0] for name in one.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels, one
    left, right, out = (dict(zip(label, count())) for label in labels.groups())
    products = one.arrays[0].shape[out["b"]] * one.arrays[0].shape[out["f"]] * rhs.shape[right["i"]]
    window = re.search(r"window=\{(.*?)\}", one.attributes)
    for axis in (name for name in out if name.isdigit()):
        products *= _pairs(
            lhs.shape[left[axis]],
            rhs.shape[right[axis]],
            one.arrays[0].shape[out[axis]],
            {} if window is None else _window(window[1], int(axis)),
        )
    return 2.0 * products


def _window(text: str, axis: int) -> dict[str, int]:
    """`size=8x4 pad=0_0x3_3` as the values of one axis; of a pad, its lower side."""
    parts = (part.split("=") for part in text.split())
    values = {name: value.split("x")[axis] for name, value in parts}
    return {name: int(value.partition("_")[0]) for name, value in values.items()}


def _pairs(inputs: int, kernel: int, outputs: int, window: dict[str, int]) -> int:
    """How many (output, kernel) places meet an input, along one axis of a convolution."""
    gap = window.get("lhs_dilate", 1)
    starts = np.arange(outputs)[:, None] * window.get("stride", 1) - window.get("pad", 0)
    places = starts + np.arange(kernel)[None] * window.get("rhs_dilate", 1)
    return int(np.sum((places >= 0) & (places <= (inputs - 1) * gap) & (places % gap == 0)))


def _library_matmul(one: Instruction, computation: Computation) -> float:
    """cuBLAS and oneDNN calls: [.., M, K] x [.., K, N] or either transposed; K from the sizes."""
    lhs, rhs = (computation.instructions[name].arrays[0] for name in one.operands[:2])
    out = one.arrays[0]
    # lhs has B M K numbers, rhs B K N, out B M N: lhs x rhs / out is B K ** 2.
    batch = math.prod(out.shape[:-2])
    return 2.0 * out.size * math.sqrt(lhs.size * rhs.size / out.size / max(batch, 1))


def collectives(program: HloProgram) -> list[Collective]:
    """All communication of one call, alike ones together, the greatest first."""
    found: dict[tuple[Any, ...], Collective] = {}
    for name, computation, times in _with_fusions(program):
        for one in computation.instructions.values():
            kind = kind_of(one)
            if kind is None:
                continue
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # the TPU's way to spell one
            slices = _slices(one)
            groups = () if slices else device_groups(one.attributes)
            size = slices or (len(groups[0]) if groups else 2)
            sent = times * _sent(kind, one, computation, size)
            key = (kind, groups, slices > 0)
            before = found.get(key, Collective(*key, 0.0, 0.0))
            found[key] = Collective(*key, before.bytes + sent, before.count + times)
    return sorted(found.values(), key=lambda one: -one.bytes)


def _slices(one: Instruction) -> int:
    """How many slices an instruction of the TPU's network runtime joins; 0 for any other."""
    target = re.search(r'_xla_megascale_target="\{([\d,:]+)\}', one.attributes)
    if target is None:
        return 0
    ends = [part.split(":") for part in target[1].split(",")]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in ends)


def _with_fusions(program: HloProgram) -> Iterator[tuple[str, Computation, float]]:
    for computation, times in program.running():
        yield computation.name, computation, times
        for one in computation.instructions.values():
            if one.op in hlo.FUSIONS:
                for name in one.called:
                    yield name, program.computations[name], times


def kind_of(one: Instruction) -> str | None:
    """The communication that an instruction is or begins."""
    op = one.op.removesuffix("-start")
    if op == "send" and (found := re.search(r'_megascale_transfer_type="(\w+)"', one.attributes)):
        op = found[1].lower().replace("_", "-")
    return op if op in KINDS else None


def _sent(kind: str, one: Instruction, computation: Computation, size: int) -> float:
    """Bytes that a device of a ring sends at least. Source: ring algorithms of NCCL's manual."""
    operands = sum(
        array.size * hlo.BYTES.get(array.dtype, 0.0)
        for name in one.operands
        if name in computation.instructions
        for array in computation.instructions[name].arrays
    )
    share = (size - 1) / size
    match kind:
        case "all-gather":
            return operands * (size - 1)
        case "all-reduce":
            return 2 * operands * share
        case "reduce-scatter" | "all-to-all":
            return operands * share
        case _:
            return operands


def device_groups(attributes: str) -> tuple[tuple[int, ...], ...]:
    """Which devices talk to each other: lists of ids, or one of XLA's short forms."""
    if pairs := re.search(r"source_target_pairs=\{\{(.*?)\}\}", attributes):
        return tuple(_ints(pair) for pair in pairs[1].split("},{"))
    found = re.search(r"replica_groups=\{\{(.*?)\}\}", attributes)
    if found:
        return tuple(_ints(group) for group in found[1].split("},{"))
    if found := _IOTA.search(attributes):
        shape, dims = _ints(found[1]), _ints(found[2])
        order = _ints(found[3]) if found[3] else tuple(range(len(dims)))
        return _cut(_transposed(dims, order), shape[-1])
    if found := _NAMED.search(attributes):
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        chosen = re.findall(r"'([^']+)'", found[4])
        ids = np.arange(math.prod(axes.values()))
        if found[2]:
            dims = _ints(found[2])
            ids = ids.reshape(dims).transpose(_ints(found[3] or "") or tuple(range(len(dims))))
        names = list(axes)
        order = [names.index(n) for n in names if n not in chosen]
        order += [names.index(n) for n in names if n in chosen]
        ids = ids.reshape(tuple(axes.values())).transpose(order).ravel().tolist()
        return _cut(ids, math.prod(axes[n] for n in chosen))
    return ()


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _transposed(dims: tuple[int, ...], order: tuple[int, ...]) -> list[int]:
    """0, 1, 2... in an array of these dimensions, read in another order of its axes."""
    return np.arange(math.prod(dims)).reshape(dims).transpose(order).ravel().tolist()


def _cut(ids: list[int], size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(ids[i : i + size]) for i in range(0, len(ids), size))
