"""A trace of some steps, and what took longest in it: operations, or kernels of a GPU."""

import collections
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from bench import gpu_time
from bench.gpu_time import Event, GpuTime
from jaxsft.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Operation:
    name: str  # in the compiled program, or the kernel's
    origin: str  # the call in the model's code, as jax names it; empty where not known
    count: int
    seconds: float  # by itself, without the operations inside it
    share: float  # of all operations


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The events of a trace: of GPUs alone, where there is one."""

    gpus: list[list[Event]]  # of all streams of each
    threads: list[list[Event]]  # of each thread or stream of other devices


def trace(directory: Path, work: Callable[[], Any]) -> Path:
    """Runs `work` under jax's profiler; the trace's own file, for xprof or Perfetto."""
    before = set(directory.rglob("*.xplane.pb"))
    with jax.profiler.trace(str(directory)):
        work()
    new = set(directory.rglob("*.xplane.pb")) - before
    if not new:
        raise ConfigError(f"--profile={directory}: the profiler left no trace there")
    return max(new)


def read(file: Path) -> Recorded:
    gpus, threads = [], []
    with warnings.catch_warnings():
        # jaxlib makes types here of which Python 3.12 warns; as an error that ends the process.
        warnings.simplefilter("ignore", DeprecationWarning)
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            events = [[_event(one) for one in line.events] for line in plane.lines]
            if plane.name.startswith("/device:GPU"):
                gpus.append([one for line in events for one in line])
            else:
                threads += [[one for one in line if one.hlo_op] for line in events]
    return Recorded([events for events in gpus if events], threads)


def _event(one: Any) -> Event:
    said = {name: str(value) for name, value in one.stats if name in ("hlo_op", "name")}
    hlo_op, origin = said.get("hlo_op", ""), said.get("name", "")
    return Event(one.name, one.start_ns, one.duration_ns, hlo_op, origin)


def costliest(recorded: Recorded, program_text: str, most: int = 20) -> list[Operation]:
    """The operations of the trace with the most time by themselves; of a GPU, its kernels.

    Args:
        program_text: `compiled.as_text()` of the traced program, which says where each is from.
    """
    seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for key, own in _own(recorded, origin_of(program_text)):
        seconds[key] += own
        counts[key] += 1
    total = sum(seconds.values())
    found = [
        Operation(*key, counts[key], own, own / total) for key, own in seconds.items() if total
    ]
    return sorted(found, key=lambda one: -one.seconds)[:most]


def _own(recorded: Recorded, origins: dict[str, str]) -> Iterator[tuple[tuple[str, str], float]]:
    """(name, origin) and seconds of each event."""
    for events in recorded.gpus:  # where what overlaps runs side by side
        for one in events:
            origin = gpu_time.origin_of(one, origins)
            yield (gpu_time.short(one.name), origin), one.duration / 1e9
    for events in () if recorded.gpus else recorded.threads:
        for name, own in own_seconds(event[:3] for event in events):
            yield (name, origins.get(name, "")), own


def time_of_gpus(recorded: Recorded, num_steps: int) -> GpuTime | None:
    """None for a trace without a GPU."""
    return gpu_time.of_step(recorded.gpus, num_steps) if recorded.gpus else None


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
    return {name: gpu_time.end_of_path(origin) for name, origin in found}


def table(operations: Sequence[Operation], of_gpus: GpuTime | None = None) -> str:
    lines = [gpu_time.table(of_gpus), ""] if of_gpus else []
    lines.append("   ms       share   times  operation")
    for one in operations:
        name = f"{one.name}  {one.origin}"
        lines.append(f"{one.seconds * 1e3:9.1f} {one.share:7.1%} {one.count:7}  {name}")
    return "\n".join(lines)
