"""The scorers that a config asks for, by name."""

import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Any

from jaxsft.config import Eval, scorers
from jaxsft.errors import ConfigError
from jaxsft.evaluation.scoring import calls, functions, json_values, judge, numbers, texts
from jaxsft.evaluation.scoring.case import ScoreOne

_MAKERS: dict[type, Any] = {  # settings, the name of their field -> ScoreOne
    scorers.Exact: texts.exact,
    scorers.Contains: texts.contains,
    scorers.Regex: texts.by_pattern,
    scorers.Number: numbers.number,
    scorers.JsonValue: json_values.same_value,
    scorers.JsonSchema: json_values.allowed,
    scorers.ToolCalls: calls.same_calls,
    scorers.Function: functions.by_function,
    scorers.Judge: judge.by_judge,
}
PLAIN: dict[str, Any] = {
    "exact": scorers.Exact,
    "contains": scorers.Contains,
    "number": scorers.Number,
    "json": scorers.JsonValue,
    "tool_calls": scorers.ToolCalls,
}
MATCH = "match"  # what eval.match asks for
# Figures of a set that are no score, and what the names of scores end with.
_TAKEN = ("loss", "token_accuracy", "accuracy", "perplexity", "entropy", "first_token_loss")
_TAKEN += ("refused", "over_refused")
ENDINGS = ("_with_instruction", "_with_shots")


@dataclasses.dataclass(frozen=True)
class Scorer:
    """
    Attributes:
        name: of its figure: eval/<set>/<name>.
        sets: whose answers it scores; none: all.
        workers: answers that it scores at a time.
    """

    name: str
    score: ScoreOne
    sets: tuple[str, ...] = ()
    workers: int = 1

    def scores_set(self, name: str) -> bool:
        return not self.sets or name in self.sets


def scorers_of(evaluation: Eval) -> list[Scorer]:
    """eval.match, and those of eval.scorers.

    Raises:
        ConfigError: one is not what it should be; two have one name.
    """
    found = [made(one, f"config.eval.scorers[{i}]") for i, one in enumerate(evaluation.scorers)]
    if evaluation.match is not None:
        match = PLAIN[evaluation.match](name=MATCH)
        found.insert(0, made(match, "config.eval.match"))
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"config.eval.scorers: two are called {name!r}; give each a name of its own"
            )
    return found


def made(given: Any, where: str) -> Scorer:
    """
    Args:
        given: what config.eval.scorers holds one of.
        where: what holds it, for the message.

    Raises:
        ConfigError: it is not what it should be.
    """
    settings = plain(given)
    name = settings.name if settings.name is not None else _own_name(settings)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or name in _TAKEN or name.endswith(ENDINGS):
        raise ConfigError(
            f"{where}.name={name!r}: is part of a figure's name, eval/<set>/<name>: letters, digits"
            f" and _.-; not one of {', '.join(_TAKEN)}, nor with {' or '.join(ENDINGS)} at its end"
        )
    workers = settings.workers if isinstance(settings, scorers.Judge) else 1
    return Scorer(name, _MAKERS[type(settings)](settings, where), settings.sets, workers)


def plain(given: Any) -> Any:
    """The settings of a scorer that may be named by its kind."""
    return PLAIN[given]() if isinstance(given, str) else given


def _own_name(settings: Any) -> str:
    if isinstance(settings, scorers.Function) and not isinstance(settings.function, str):
        name = getattr(settings.function, "__name__", "")  # an object that is called has none
        return name if name.isidentifier() else settings.kind  # nor has a lambda a useful one
    return settings.kind


def refuse_unknown_sets(made: Sequence[Scorer], known: Collection[str]) -> None:
    """
    Args:
        known: sets with prompts.

    Raises:
        ConfigError: a scorer is for a set that has none.
    """
    for scorer in made:
        for name in scorer.sets:
            if name not in known:
                there_are = ", ".join(known) or "none"
                raise ConfigError(
                    f"config.eval.scorers: {scorer.name!r} is for the set {name!r}, which has no"
                    f" prompts; sets with prompts: {there_are}"
                )
