"""What a GPU did in some steps: how long it worked, at what kind of work, in which kernels."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_LONGEST_NAME = 80
_NUMBER = re.compile(r"[._](\d+)$")
# Of kernel names, the first that is found; what a fusion of XLA does stands in its name.
_MOVED = r"(?:dynamic_slice|dynamic_update_slice|slice|copy|concatenate|transpose)"
_KINDS = (
    ("communication", r"nccl|all_?reduce"),
    ("attention", r"sdpa|attention|flash|mha|cudnn::fusion"),
    ("matrix products", r"nvjet|gemm|cublas|cutlass|xmma"),
    ("memsets", r"memset|^(?:loop|wrapped)_broadcast(?:_fusion)?(?:_\d+)*$"),
    ("copies", rf"^memcpy|^(?:loop|input|wrapped)(?:_{_MOVED})+(?:_fusion)?(?:_\d+)*$"),
    ("elementwise, reductions", r"fusion|^wrapped_|^sort"),
    ("other", ""),
)


class Event(NamedTuple):
    """A kernel, a copy or a memset; elsewhere than on a GPU an operation of the program."""

    name: str
    start: float  # nanoseconds
    duration: float
    hlo_op: str  # the instruction that it is of, or the CUDA graph
    origin: str = ""  # as the profiler says, which it does of some


@dataclasses.dataclass(frozen=True)
class KindTime:
    kind: str
    ms: float  # of a step, the sum over streams
    share: float  # of all kinds
    count: float  # in a step


@dataclasses.dataclass(frozen=True)
class GpuTime:
    """Of one step; the mean of the GPUs."""

    span_ms: float  # from the first event to the end of the last
    busy_ms: float  # with at least one event
    idle_ms: float
    kinds: tuple[KindTime, ...]  # the longest first


def of_step(gpus: Sequence[Sequence[Event]], num_steps: int) -> GpuTime:
    """Takes each GPU's events of all streams, of `num_steps` steps."""
    each_ms = 1e6 * num_steps * len(gpus)
    span = sum(max(map(_end, gpu)) - min(one.start for one in gpu) for gpu in gpus) / each_ms
    busy = sum(map(_busy, gpus)) / each_ms
    return GpuTime(span, busy, span - busy, _by_kind(gpus, each_ms))


def _end(event: Event) -> float:
    return event.start + event.duration


def _busy(events: Iterable[Event]) -> float:
    """Nanoseconds with at least one event: those of several streams run at once."""
    total = covered = 0.0
    for one in sorted(events, key=lambda event: event.start):
        total += max(0.0, _end(one) - max(one.start, covered))
        covered = max(covered, _end(one))
    return total


def _by_kind(gpus: Sequence[Sequence[Event]], each_ms: float) -> tuple[KindTime, ...]:
    durations: dict[str, list[float]] = {}
    for one in (event for gpu in gpus for event in gpu):
        durations.setdefault(kind_of(one.name), []).append(one.duration)
    total = sum(map(sum, durations.values()))
    each = each_ms / 1e6
    found = [
        KindTime(kind, sum(taken) / each_ms, sum(taken) / total, len(taken) / each)
        for kind, taken in durations.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.ms))


def kind_of(kernel: str) -> str:
    return next(kind for kind, names in _KINDS if re.search(names, kernel, re.IGNORECASE))


def short(kernel: str) -> str:
    """Without `void` and the arguments of a C++ signature, and cut where it is still long."""
    kernel = _before_arguments(kernel).removeprefix("void ")
    return kernel if len(kernel) <= _LONGEST_NAME else kernel[: _LONGEST_NAME - 3] + "..."


def _before_arguments(signature: str) -> str:
    """Up to the parenthesis that stands in no template's brackets."""
    depth = 0
    for place, letter in enumerate(signature):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0 and not signature.startswith("(anon", place):
            return signature[:place]
    return signature


def origin_of(event: Event, origins: dict[str, str]) -> str:
    """The call in the model's code, or else the kind of instruction; empty where neither is known.

    Of a CUDA graph only the kernels of fusions can be told: loop_fusion_3 is loop_fusion.3.
    """
    in_graph = event.hlo_op.startswith("command_buffer")
    names = (event.name, _NUMBER.sub(r".\1", event.name)) if in_graph else (event.hlo_op,)
    instruction = "" if in_graph else _NUMBER.sub("", event.hlo_op)
    said = end_of_path(event.origin)  # the text knows some copies by other names
    return next((origins[name] for name in names if name in origins), said or instruction)


def end_of_path(origin: str) -> str:
    return "/".join(origin.split("/")[-4:])


def table(found: GpuTime) -> str:
    lines = [
        f"a step takes {found.span_ms:.1f} ms of the GPU: {found.busy_ms:.1f} ms busy, "
        f"{found.idle_ms:.1f} ms idle ({found.idle_ms / found.span_ms:.1%})",
        "   ms       share   times  kind (of one step)",
    ]
    for one in found.kinds:
        lines.append(f"{one.ms:9.1f} {one.share:7.1%} {one.count:7.0f}  {one.kind}")
    return "\n".join(lines)
