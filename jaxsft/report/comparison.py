"""The figures of held-out data before and after training, side by side."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

# What a forward pass gives; all others are scores of answers.
_OF_LOSS = ("loss", "first_token_loss", "perplexity", "entropy", "token_accuracy")

_LEAST_SHARES = ("over_refused",)  # of which less is better


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
        for name, value in of_evaluation(line).items()
    }


def of_evaluation(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are compared; intervals and counts have names of their own."""
    return {name: value for name, value in figures.items() if name.startswith("eval/")}


Ranges = Mapping[str, tuple[float, float]]  # by figure


def compared(
    before: Mapping[str, float],
    after: Mapping[str, float],
    before_ranges: Ranges = MappingProxyType({}),
    after_ranges: Ranges = MappingProxyType({}),
) -> list[Comparison]:
    """One for each figure that either has: matching answers first, other scores, then losses."""
    kinds = ("match", "match_with_instruction", "match_with_shots", "", *_OF_LOSS)
    rank = {kind: place for place, kind in enumerate(kinds)}
    names = dict.fromkeys([*before, *after])
    names = sorted(names, key=lambda name: rank.get(_metric(name), rank[""]))
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
    """Whether a figure is a share, as scores are."""
    return _metric(name) == "token_accuracy" or _metric(name) not in _OF_LOSS


def shown(name: str, value: float | None, missing: str = "–") -> str:
    if value is None:
        return missing
    # A function of the user's may give other numbers.
    return f"{value:.1%}" if is_share(name) and 0 <= value <= 1 else f"{value:.4f}"


def _compare(name: str, before: float | None, after: float | None) -> Comparison:
    change, said = "", ""
    if before is not None and after is not None:
        difference = after - before
        if is_share(name) and 0 <= before <= 1 and 0 <= after <= 1:
            change = f"{100 * difference:+.1f} points"
        else:
            change = f"{difference:+.4f}" + (f" ({difference / before:+.1%})" if before else "")
        if difference and _metric(name) != "entropy":  # of which neither more nor less is better
            more = is_share(name) and _metric(name) not in _LEAST_SHARES
            said = "better" if (difference > 0) == more else "worse"
    return Comparison(_label(name), shown(name, before), shown(name, after), change, said)


def _label(name: str) -> str:
    source, _, metric = name.removeprefix("eval/").rpartition("/")
    words = {
        "match": "matching answers",
        "match_with_instruction": "matching answers, instructed",
        "match_with_shots": "matching answers, shown examples",
    }
    return f"{source}: {words.get(metric, metric.replace('_', ' '))}"


def _metric(name: str) -> str:
    return name.rpartition("/")[2]
