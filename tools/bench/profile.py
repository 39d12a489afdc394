"""A trace of some steps, and the operations that took longest in it."""

import collections
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxsft.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Operation:
    name: str  # in the compiled program
    origin: str  # the call in the model's code, as jax names it
    count: int
    seconds: float  # by itself, without the operations inside it
    share: float  # of all operations


def trace(directory: Path, work: Callable[[], Any]) -> Path:
    """Runs `work` under jax's profiler; the trace's own file, for xprof or Perfetto."""
    before = set(directory.rglob("*.xplane.pb"))
    with jax.profiler.trace(str(directory)):
        work()
    new = set(directory.rglob("*.xplane.pb")) - before
    if not new:
        raise ConfigError(f"--profile={directory}: the profiler left no trace there")
    return max(new)


def costliest(file: Path, program_text: str, most: int = 20) -> list[Operation]:
    """The operations of the trace with the most time by themselves.

    Args:
        program_text: `compiled.as_text()` of the traced program, which says where each is from.
    """
    seconds: dict[str, float] = collections.defaultdict(float)
    counts: collections.Counter[str] = collections.Counter()
    for events in _operations(file):
        for name, own in own_seconds(events):
            seconds[name] += own
            counts[name] += 1
    total = sum(seconds.values())
    origins = origin_of(program_text)
    found = [
        Operation(name, origins.get(name, ""), counts[name], own, own / total)
        for name, own in seconds.items()
    ]
    return sorted(found, key=lambda one: -one.seconds)[:most]


def _operations(file: Path) -> Iterator[list[tuple[str, float, float]]]:
    """(name, start, duration) in nanoseconds of the operations of each thread or stream."""
    with warnings.catch_warnings():
        # jaxlib makes types here of which Python 3.12 warns; as an error that ends the process.
        warnings.simplefilter("ignore", DeprecationWarning)
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                yield [
                    (event.name, event.start_ns, event.duration_ns)
                    for event in line.events
                    if "hlo_op" in dict(event.stats)
                ]


def own_seconds(events: Iterable[tuple[str, float, float]]) -> list[tuple[str, float]]:
    """Name and seconds of each event, less those of the events inside it (a loop's body).

    Args:
        events: (name, start, duration) in nanoseconds, of one thread or stream.
    """
    own: list[list[Any]] = []
    running: list[tuple[float, int]] = []  # (end, its place in own), the innermost last
    for name, start, duration in sorted(events, key=lambda event: (event[1], -event[2])):
        while running and running[-1][0] <= start:
            running.pop()
        if running:
            own[running[-1][1]][1] -= duration
        running.append((start + duration, len(own)))
        own.append([name, duration])
    return [(name, nanoseconds / 1e9) for name, nanoseconds in own]


def origin_of(program_text: str) -> dict[str, str]:
    """What jax wrote beside each instruction: `jit(train_step)/.../dot_general`."""
    found = re.findall(r'^ *(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', program_text, re.M)
    return {name: "/".join(origin.split("/")[-4:]) for name, origin in found}


def table(operations: Sequence[Operation]) -> str:
    lines = ["   ms       share   times  operation"]
    for one in operations:
        name = f"{one.name}  {one.origin}"
        lines.append(f"{one.seconds * 1e3:9.1f} {one.share:7.1%} {one.count:7}  {name}")
    return "\n".join(lines)
