"""How answers to held-out prompts are scored: a class for each way.

    from jaxsft.config import Eval, scorers

    Eval(prompts=64, scorers=("exact", scorers.Regex(pattern=r"\\d+ kg", name="weight")))

In JSON, as in --config.eval.scorers and config.json, an object with its `kind`. All of them have
`name`, of the figure eval/<set>/<name> (None: the kind), and `sets`, the sets of evaluation whose
answers it scores (none named: all of them). More of a score is better.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

# Of the answer, and a row: `messages` before the answer, `tools`, `reference`, `source`, `row`.
ScoreFunction = Callable[[str, Mapping[str, Any]], bool | float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
    """The answer is the reference's text, but for space around it."""

    kind: Literal["exact"] = "exact"
    name: str | None = None
    sets: tuple[str, ...] = ()
    ignore_case: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contains:
    """The answer has a text in it."""

    kind: Literal["contains"] = "contains"
    name: str | None = None
    sets: tuple[str, ...] = ()
    text: str | None = None  # None: the reference, without space around it
    ignore_case: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regex:
    """A regular expression is found in the answer; by option, what it finds is compared."""

    pattern: str  # of the package `regex`, which knows what Python's `re` does
    kind: Literal["regex"] = "regex"
    name: str | None = None
    sets: tuple[str, ...] = ()
    # Its first group, of the first place where it is found, must be the same text as in the
    # reference: found there by the same pattern or, where it has none, all of it.
    compare: bool = False
    timeout_seconds: float = 2.0  # for an answer; what takes longer has no score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number:
    """The number after a mark is the reference's: 1,234.50, $18 and -3 are numbers."""

    kind: Literal["number"] = "number"
    name: str | None = None
    sets: tuple[str, ...] = ()
    mark: str = "####"  # the first of it counts; a reference without it ends with its number
    last: bool = False  # an answer without the mark: its last number counts
    tolerance: float = 0.0  # largest difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonValue:
    """The answer spells the same JSON value as the reference, and nothing beside it."""

    kind: Literal["json"] = "json"
    name: str | None = None
    sets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonSchema:
    """The answer spells a JSON value that a JSON schema allows, and nothing beside it."""

    schema: str | dict[str, Any]  # a file, or the schema itself
    kind: Literal["json_schema"] = "json_schema"
    name: str | None = None
    sets: tuple[str, ...] = ()
    timeout_seconds: float = 2.0  # for each regular expression of the schema in an answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolCalls:
    """The answer calls the tools that the reference calls, in its order, with its arguments."""

    kind: Literal["tool_calls"] = "tool_calls"
    name: str | None = None
    sets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Function:
    """What a function of the config file says of the answer: true or false, or a number.

    config.json has its name, which a later start does not need: it reads the config file again.
    """

    function: ScoreFunction | str  # of this file, or in JSON its name
    kind: Literal["function"] = "function"
    name: str | None = None  # None: the function's
    sets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """What a model behind an OpenAI-compatible URL says of the answer: 0 to 10, as 0 to 1."""

    url: str  # up to /v1: .../chat/completions is asked
    model: str  # as its server calls it
    kind: Literal["judge"] = "judge"
    name: str | None = None
    sets: tuple[str, ...] = ()
    # What it is to look at; question, reference, answer and how to reply are told beside it.
    instruction: str = "Is the answer as right and as useful as the reference?"
    key_variable: str | None = None  # the environment variable with the key; None: there is none
    timeout_seconds: float = 60.0  # for a reply
    retries: int = 2  # after a failure that may pass
    workers: int = 4  # questions at a time
    max_tokens: int = 512  # of a reply


Plain = Literal["exact", "contains", "number", "json", "tool_calls"]  # kinds that need nothing more
Scorer = (
    Plain
    | Exact
    | Contains
    | Regex
    | Number
    | JsonValue
    | JsonSchema
    | ToolCalls
    | Function
    | Judge
)
