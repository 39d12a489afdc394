"""What a soak has seen so far, kept so that it can be stopped and continued."""

import collections
import dataclasses


@dataclasses.dataclass(frozen=True)
class Injected:
    """A fault, and how the run took it."""

    kind: str = ""
    lap: int = 0
    step: int = 0  # that the run had logged
    seconds: float = 0.0  # until all processes had ended; 0: they went on
    codes: list[int | None] = dataclasses.field(default_factory=list)
    wrong: str = ""  # what should have been otherwise


@dataclasses.dataclass
class Record:
    faults: list[Injected] = dataclasses.field(default_factory=list)
    laps: list[str] = dataclasses.field(default_factory=list)  # what differed; empty: nothing
    starts: int = 0

    def counts(self) -> collections.Counter[str]:
        return collections.Counter(one.kind for one in self.faults)

    @property
    def wrong(self) -> list[str]:
        faults = [f"lap {one.lap}, {one.kind}: {one.wrong}" for one in self.faults if one.wrong]
        return faults + [f"lap {n}: {text}" for n, text in enumerate(self.laps) if text]


def table(record: Record) -> str:
    """By kind: how many, and how long it took until all processes had ended."""
    lines = [
        "| fault | times | seconds to the end, median | at most |",
        "| --- | --- | --- | --- |",
    ]
    for kind, count in sorted(record.counts().items()):
        took = sorted(one.seconds for one in record.faults if one.kind == kind and one.seconds)
        middle = f"{took[len(took) // 2]:.1f}" if took else "goes on"
        lines.append(f"| {kind} | {count} | {middle} | {f'{took[-1]:.1f}' if took else ''} |")
    return "\n".join(lines)
