"""What a row of a data set becomes: a conversation, plain text, tokens, or a named defect."""

import dataclasses
from typing import Any

import numpy as np

from jaxsft.errors import DataError

ROLES = ("system", "user", "assistant", "tool")

# (where a part of a message stops in its content, its own weight)
PartWeights = tuple[tuple[int, float | None], ...]
Columns = tuple[str, ...]  # of a row, that hold something but are not read


class RowError(DataError):
    """One row can't be used; `kind` is the short reason under which reports count it."""

    def __init__(self, kind: str, detail: str):
        super().__init__(kind, detail)  # both, so that it can be sent between processes
        self.kind = kind

    def __str__(self) -> str:
        return self.args[1]


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn; `content` is "" where the row has none beside its tool calls."""

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()  # {"type", "function": {"name", "arguments": {}}}
    name: str | None = None
    weight: float | None = None  # of the loss on this message; None means 1
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # for the template
    # Weights of the parts of a content in parts: each multiplies the message's own.
    part_weights: PartWeights = ()


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A row of messages, to be written by a chat template."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None
    file: str
    row: int  # from 1: a line of the file, or a place in its array or table
    template_options: dict[str, Any] = dataclasses.field(default_factory=dict)  # this row's own
    unread: Columns = dataclasses.field(default=(), compare=False)


@dataclasses.dataclass(frozen=True)
class PlainText:
    """A row of text that is trained as it stands, without a template."""

    text: str
    file: str
    row: int
    unread: Columns = dataclasses.field(default=(), compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherTargets:
    """A teacher's likeliest tokens where a token is trained, the likeliest first.

    S: trained tokens, in their order; X: tokens of a place.
    """

    ids_SX: np.ndarray  # int32; -1 behind the last of a place that has fewer than others
    logprobs_SX: np.ndarray  # float32, natural; 0 there


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenized:
    """Tokens made by another program.

    ids      1  9 40  2   int32
    weights  0  0  1  1   float32, of each token as a target; the first is never one
    """

    ids: np.ndarray
    weights: np.ndarray
    file: str
    row: int
    unread: Columns = ()
    teacher: TeacherTargets | None = None


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that can't be used, with the reason counted in reports and the full sentence."""

    file: str
    row: int
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}:{self.row}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A row that says itself that it is not to be trained."""

    file: str
    row: int
    reason: str


Record = Conversation | PlainText | Tokenized | LeftOut | BadRow


@dataclasses.dataclass(frozen=True)
class RawRow:
    """A row as the file has it, cheap to read and to send to the process that parses it."""

    file: str
    row: int
    # JSON text; an object of Arrow, whose nulls may be Arrow's own; None: a line too long to keep
    data: bytes | dict[str, Any] | None
