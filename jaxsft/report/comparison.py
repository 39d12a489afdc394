"""The figures of held-out data before and after training, side by side."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

_NO_SHARES = ("loss", "perplexity", "entropy", "kl")  # how the names of other figures begin


@dataclasses.dataclass(frozen=True)
class Comparison:
    name: str
    before: str
    after: str
    change: str
    verdict: str  # "better", "worse" or "": whether the change is what training is for
    before_range: str = ""  # of a share of answers, in which it lies with 95 % confidence
    after_range: str = ""
    figure: str = ""  # its name in metrics.jsonl


def figures_at(lines: Iterable[Mapping[str, Any]], step: int | None) -> dict[str, float]:
    """The evaluation figures in the lines of metrics.jsonl, taken at a step."""
    return {
        name: value
        for line in lines
        if line["step"] == step
        for name, value in line.items()
        if name.startswith("eval/")
    }


Ranges = Mapping[str, tuple[float, float]]  # by figure


def compared(
    before: Mapping[str, float],
    after: Mapping[str, float],
    before_ranges: Ranges = MappingProxyType({}),
    after_ranges: Ranges = MappingProxyType({}),
) -> list[Comparison]:
    """One for each figure that either has: matching answers first, then losses."""
    kinds = ("match", "match_with_instruction", "loss")
    rank = {kind: place for place, kind in enumerate(kinds)}
    names = dict.fromkeys([*before, *after])
    names = sorted(names, key=lambda name: rank.get(_metric(name), len(kinds)))
    found = [(name, _compare(name, before.get(name), after.get(name))) for name in names]
    return [
        dataclasses.replace(
            one,
            before_range=_range(before_ranges.get(name)),
            after_range=_range(after_ranges.get(name)),
            figure=name,
        )
        for name, one in found
    ]


def _range(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"[{found[0]:.1%}, {found[1]:.1%}]"


def is_share(name: str) -> bool:
    """Whether a figure is a share, of which more is better: all but those in nats a token."""
    return not _metric(name).startswith(_NO_SHARES)


def shown(name: str, value: float | None, missing: str = "–") -> str:
    if value is None:
        return missing
    return f"{value:.1%}" if is_share(name) else f"{value:.4f}"


def _compare(name: str, before: float | None, after: float | None) -> Comparison:
    change, said = "", ""
    if before is not None and after is not None:
        difference = after - before
        if is_share(name):
            change = f"{100 * difference:+.1f} points"
        else:
            change = f"{difference:+.4f}" + (f" ({difference / before:+.1%})" if before else "")
        if difference:
            said = "better" if (difference > 0) == is_share(name) else "worse"
    return Comparison(_label(name), shown(name, before), shown(name, after), change, said)


def _label(name: str) -> str:
    source, _, metric = name.removeprefix("eval/").rpartition("/")
    words = {
        "match": "matching answers",
        "match_with_instruction": "matching answers, instructed",
    }
    return f"{source}: {words.get(metric, metric.replace('_', ' '))}"


def _metric(name: str) -> str:
    return name.rpartition("/")[2]
