"""What the operations of a compiled program read from memory and write to it, per device."""

import math

from jaxsft.plan import hlo
from jaxsft.plan.cost import kind_of
from jaxsft.plan.hlo import Computation, HloProgram, Instruction

_NOT_MOVED = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("while", "conditional", "call", "partition-id", "replica-id", "add-dependency"),
    *("opt-barrier", "copy-done", "fusion-done", "send", "recv", "send-done", "recv-done"),
}
_SLICES = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "copy", "transpose", "reshape", "convert")  # inside a fusion they move nothing


def moved_by(program: HloProgram, computation: Computation, one: Instruction) -> float:
    """Bytes, if what is not fused moves its arrays; what is sent to others is not counted."""
    if one.op in _NOT_MOVED or kind_of(one) is not None:
        return 0.0
    if one.op in _SLICES:
        return 2 * one.bytes
    if one.op == "dynamic-update-slice":
        return 2 * computation.instructions[one.operands[1]].bytes
    inside = (
        program.computations.get(one.called[0]) if one.op in hlo.FUSIONS and one.called else None
    )
    if inside is None:
        return one.bytes + sum(_held(computation, name) for name in one.operands)
    read = sum(
        min(_held(computation, name), _read(program, inside, _parameter(inside, place)))
        for place, name in enumerate(one.operands)
    )
    return read + min(one.bytes, _written(program, inside, inside.root))


def _held(computation: Computation, name: str) -> float:
    return computation.instructions[name].bytes if name in computation.instructions else 0.0


def _parameter(inside: Computation, place: int) -> str:
    return next(
        one.name
        for one in inside.instructions.values()
        if one.op == "parameter" and one.number == place
    )


def _read(program: HloProgram, inside: Computation, name: str) -> float:
    """What a fusion reads of one of its arrays: slices, where it takes nothing else of it."""
    total = 0.0
    for user in inside.instructions.values():
        for place, operand in enumerate(user.operands):
            if operand == name:
                total += _read_by(program, inside, user, place)
    return total


def _read_by(program: HloProgram, inside: Computation, user: Instruction, place: int) -> float:
    if user.op in _SLICES:
        return _size(user) if place == 0 else 0.0  # the others say where
    if user.op == "dynamic-update-slice" and place != 1:
        return 0.0  # what it replaces is not read
    if user.op == "fusion":
        nested = program.computations[user.called[0]]
        if _is_view(nested) and not user.is_root:
            return _read(program, inside, user.name)
        return _read(program, nested, _parameter(nested, place))
    if user.op in _VIEWS and not user.is_root:
        return _read(program, inside, user.name)
    return math.inf


def _is_view(computation: Computation) -> bool:
    """Whether it gives the bytes of its parameter, in another order at most."""
    one = computation.root
    while one.op in _VIEWS:
        one = computation.instructions[one.operands[0]]
    return one.op == "parameter"


def _written(program: HloProgram, inside: Computation, root: Instruction) -> float:
    """A fusion that ends in a slice put into a larger array writes that slice alone."""
    if root.op == "dynamic-update-slice":
        return _size(inside.instructions[root.operands[1]])
    if root.op == "tuple":
        parts = (inside.instructions[name] for name in root.operands)
        return sum(_written(program, inside, part) for part in parts)
    if root.op == "bitcast":
        return min(_size(root), _written(program, inside, inside.instructions[root.operands[0]]))
    if root.op == "fusion":
        nested = program.computations[root.called[0]]
        return _written(program, nested, nested.root)
    return _size(root)


def _size(one: Instruction) -> float:
    """Bytes of its result, wherever that lies."""
    return sum(array.size * hlo.BYTES.get(array.dtype, 0.0) for array in one.arrays)
