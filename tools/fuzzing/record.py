"""What has been tried so far and what was found, kept so that it can be stopped and continued."""

import dataclasses


@dataclasses.dataclass
class Tried:
    """Of one kind."""

    cases: int = 0
    seconds: float = 0.0
    next: int = 0  # number of the first case that was not tried


@dataclasses.dataclass
class Found:
    """A way in which something broke."""

    times: int = 0
    case: str = ""  # the first that did, a folder in found/
    text: str = ""


@dataclasses.dataclass
class Record:
    tried: dict[str, Tried] = dataclasses.field(default_factory=dict)
    found: dict[str, Found] = dataclasses.field(default_factory=dict)  # by kind, error and place

    def add(self, kind: str, case: str, said: str) -> bool:
        """Whether this is the first of its sort."""
        place, _, text = said.partition("\t")
        entry = self.found.setdefault(f"{kind}: {place}", Found(case=case, text=text))
        entry.times += 1
        return entry.times == 1


def table(record: Record) -> str:
    lines = ["| kind | cases | minutes |", "| --- | --- | --- |"]
    for kind, tried in sorted(record.tried.items()):
        lines.append(f"| {kind} | {tried.cases:,} | {tried.seconds / 60:.1f} |")
    cases = sum(tried.cases for tried in record.tried.values())
    seconds = sum(tried.seconds for tried in record.tried.values())
    return "\n".join([*lines, f"| all | {cases:,} | {seconds / 60:.1f} |"])
