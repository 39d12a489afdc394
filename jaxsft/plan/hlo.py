"""A compiled program's text, read: computations, their instructions, how often each one runs."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

FUSIONS = ("fusion", "fusion-start")  # the latter runs beside others until its fusion-done
BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2", "f8e4m3", "f8e4m3b11fnuz"), 1.0),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2.0),
    **dict.fromkeys(("s32", "u32", "f32"), 4.0),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8.0),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 0.5),
    **dict.fromkeys(("token", "opaque"), 0.0),
}
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,<= ]*)\](\{[^}]*\})?")
_ON_CHIP = re.compile(r"S\([1-9]")  # a memory space of the chip's own, as layouts spell it
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (ROOT )?%?([\w.\-]+) = ")
_OP = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count[^}]*?"?n"?\s*[:=]\s*"?(\d+)')
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Array:
    dtype: str
    shape: tuple[int, ...]
    on_chip: bool  # in a memory that is part of the chip's core, not in its main memory

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """In main memory."""
        return 0.0 if self.on_chip else self.size * BYTES.get(self.dtype, 0.0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    op: str
    arrays: tuple[Array, ...]  # its result; several for a tuple
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    @property
    def number(self) -> int:
        """Of a parameter or a whole constant: what stands in its parentheses."""
        return int(self.attributes.partition(")")[0])

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs or applies."""
        found = _CALLED.findall(self.attributes)
        for names in _BRANCHES.findall(self.attributes):
            found += [name.strip().lstrip("%") for name in names.split(",")]
        return tuple(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(one for one in self.instructions.values() if one.is_root)


@dataclasses.dataclass(frozen=True)
class HloProgram:
    computations: dict[str, Computation]
    entry: str
    open_trips: float  # taken for a loop whose length is decided at run time
    named_trips: Mapping[str, float]  # the same for loops within a jax.named_scope

    @functools.cached_property
    def times(self) -> dict[str, float]:
        """How often each computation runs in one call.

        Computations inside a fusion are not run by themselves and are not in it.
        """
        times: dict[str, float] = dict.fromkeys([self.entry], 1.0)
        for name in self._callers_first():
            for one in self.computations[name].instructions.values():
                for called in self.run_by(one):
                    trips = self._trips_or_open(one) if one.op == "while" else 1
                    times[called] = times.get(called, 0.0) + times[name] * trips
        return times

    def run_by(self, one: Instruction) -> tuple[str, ...]:
        """The computations that an instruction runs as they stand."""
        runs = one.op in ("while", "conditional", "call", "async-start", "custom-call")
        return one.called if runs else ()

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop's body runs; None where that is decided at run time."""
        if found := _TRIPS.search(loop.attributes):
            return int(found[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
        assert condition, loop
        root = self.computations[condition[1]].root
        inside = self.computations[condition[1]].instructions
        if root.op != "compare" or "direction=LT" not in root.attributes:
            return None
        limit = inside[root.operands[1]]
        return limit.number if limit.op == "constant" else None

    def _trips_or_open(self, loop: Instruction) -> float:
        trips = self.trips(loop)
        if trips is not None:
            return trips
        named = (count for name, count in self.named_trips.items() if name in loop.attributes)
        return next(named, self.open_trips)

    def running(self) -> Iterator[tuple[Computation, float]]:
        """Each computation that runs by itself, and how often."""
        return ((self.computations[name], count) for name, count in self.times.items())

    def _callers_first(self) -> list[str]:
        order: list[str] = []
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name in seen or name not in self.computations:
                return
            seen.add(name)
            for one in self.computations[name].instructions.values():
                for called in self.run_by(one):
                    visit(called)
            order.append(name)

        visit(self.entry)
        return order[::-1]


def parse(
    text: str, open_trips: float = 1.0, named_trips: Mapping[str, float] = MappingProxyType({})
) -> HloProgram:
    """A program from `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = Computation(head[2], {})
            computations[head[2]] = current
            entry = head[2] if head[1] else entry
        elif current is not None and (start := _INSTRUCTION.match(line)):
            one = _instruction(start, _COMMENT.sub("", line[start.end() :]))
            current.instructions[one.name] = one
    assert entry, "no ENTRY computation"
    return HloProgram(computations, entry, open_trips, named_trips)


def _instruction(start: re.Match[str], rest: str) -> Instruction:
    """From `%name = TYPE op(operands), attributes`; TYPE may be a tuple with spaces in it."""
    found = _OP.search(" " + rest if not rest.startswith("(") else rest)
    assert found, rest
    shift = 0 if rest.startswith("(") else -1
    kind, inside = rest[: found.start() + shift + 1], rest[found.end() + shift :]
    end = _closing(inside)
    return Instruction(
        name=start[2],
        op=found[1],
        arrays=tuple(_arrays(kind)),
        operands=tuple(re.findall(r"%([\w.\-]+)", inside[:end])),
        # A constant's value and a parameter's number stand where others have operands.
        attributes=inside if found[1] in ("constant", "parameter") else inside[end:],
        is_root=bool(start[1]),
    )


def _closing(text: str) -> int:
    depth = 1
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return place
    return len(text)


def _arrays(kind: str) -> Iterator[Array]:
    for dtype, sizes, layout in _ARRAY.findall(kind):
        shape = tuple(int(size.strip("<= ")) for size in sizes.split(",") if size)
        yield Array(dtype, shape, bool(_ON_CHIP.search(layout)))
