"""A conversation as the text that the model sees, and the spans of it that are trained."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateSyntaxError

from jaxsft.data.provenance import MAX_CHARS, Origin, ProvenanceError, Traced, concat, trace
from jaxsft.data.records import Conversation, Message, RowError
from jaxsft.data.sandbox import TracingEnvironment
from jaxsft.errors import DataError

TOOLS: Origin = (-1, "tools")


@dataclasses.dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a text that are trained with `weight`."""

    start: int
    stop: int
    weight: float
    message: int  # index in the conversation


@dataclasses.dataclass(frozen=True)
class Control:
    """A control token that the template wrote at [start, stop)."""

    start: int
    stop: int
    token: str


@dataclasses.dataclass(frozen=True)
class TrainingText:
    text: Traced
    spans: tuple[Span, ...]
    controls: tuple[Control, ...]  # in the order of the text
    end_of_turn: frozenset[str]  # the control tokens that end the spans


class _NotAPrefix(Exception):
    """A later rendering does not begin with what was rendered at a turn."""

    def __init__(self, message: int, reason: str):
        super().__init__(reason)
        self.message = message


class ChatTemplate:
    """A Jinja chat template, rendered as transformers renders it but with provenance.

    Args:
        source: the template.
        special_tokens: bos_token and so on, as the tokenizer gives them to the template.
        control_tokens: added tokens of the tokenizer, recognised where the template writes them.

    Raises:
        DataError: the template is not valid Jinja.
    """

    def __init__(
        self, source: str, special_tokens: dict[str, str], control_tokens: Iterable[str]
    ) -> None:
        from transformers.utils import chat_template_utils as reference

        self.source = source
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        self._special_tokens: dict[str, Any] = dict(special_tokens)
        self._reference = reference
        try:
            environment = reference._compile_jinja_template(source).environment
            self._template = TracingEnvironment(environment).from_string(source)
        except TemplateSyntaxError as error:
            raise DataError(f"{self}: line {error.lineno}: {error.message}") from None
        longest_first = sorted(control_tokens, key=len, reverse=True)
        # (?!) never matches: a tokenizer may have no control token.
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def training_texts(
        self, conversation: Conversation, train_on: str = "all_turns"
    ) -> tuple[list[TrainingText], bool]:
        """The texts to train on, and whether the conversation had to be split for that.

        A supervised span starts where the generation prompt of its turn ends and stops after
        the turn's last control token. One text holds every turn, unless the template renders
        earlier turns otherwise later on: then each supervised turn has its own text.

        Raises:
            RowError: naming the template, the message and the reason.
        """
        turns = supervised_turns(conversation.messages, train_on)
        full = self.render(conversation.messages, conversation.tools)
        self._check_context(conversation, full)
        try:
            return [self._training_text(conversation, turns, full)], False
        except _NotAPrefix:
            pass
        texts = []
        for turn in turns:
            until = conversation.messages[: turn + 1]
            try:
                text = self.render(until, conversation.tools)
                texts.append(self._training_text(conversation, [turn], text, until=turn + 1))
            except _NotAPrefix as error:
                self._fail("not a prefix", error.message, str(error))
        return texts, True

    def _training_text(
        self,
        conversation: Conversation,
        turns: Sequence[int],
        text: Traced,
        until: int | None = None,
    ) -> TrainingText:
        num_messages = len(conversation.messages) if until is None else until
        controls = self.controls(text)
        spans, ends = [], set()
        for turn in turns:
            at_turn = text if turn + 1 == num_messages else self._at_turn(conversation, turn, text)
            start = self._start(conversation, turn, text)
            last_own = max([stop for _, stop, (m, _) in at_turn.runs if m == turn], default=start)
            found = controls if text.startswith(at_turn) else self.controls(at_turn)
            after = [c for c in found if max(start, last_own) <= c.start and c.stop <= len(at_turn)]
            if not after:
                self._fail(
                    "no end of turn", turn, "no control token of the tokenizer follows its text"
                )
            end = after[-1]
            if not text.startswith(str.__getitem__(at_turn, slice(end.stop))):
                raise _NotAPrefix(turn, "later messages change how it is rendered")
            weight = conversation.messages[turn].weight
            spans.append(Span(start, end.stop, 1.0 if weight is None else weight, turn))
            ends.add(end.token)
            self._check_recovered(conversation.messages[turn], turn, text, start, end.stop)
        return TrainingText(text, tuple(spans), tuple(controls), frozenset(ends))

    def _start(self, conversation: Conversation, turn: int, text: Traced) -> int:
        """Where the generation prompt of the turn ends."""
        prompt = self._plain(conversation.messages[:turn], conversation.tools, True)
        if not text.startswith(prompt):
            raise _NotAPrefix(
                turn,
                "its rendering does not begin with the generation prompt "
                f"...{prompt[-40:]!r} (weight 0 would keep it as context)",
            )
        return len(prompt)

    def _at_turn(self, conversation: Conversation, turn: int, text: Traced) -> Traced:
        """The conversation up to the turn; a slice of `text` where that is the same."""
        until = conversation.messages[: turn + 1]
        plain = self._plain(until, conversation.tools, False)
        if text.startswith(plain):
            return text[: len(plain)]
        return self.render(until, conversation.tools)

    def controls(self, text: Traced) -> list[Control]:
        """The control tokens that lie wholly in template characters, leftmost and longest."""
        found, at = [], 0
        for start, stop, _ in (*text.runs, (len(text), len(text), None)):
            for match in self._control.finditer(text, at, start):
                found.append(Control(match.start(), match.end(), match.group()))
            at = stop
        return found

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> Traced:
        """The rendered text with provenance, checked to be what transformers renders.

        Raises:
            RowError: the template refuses the messages, or provenance can't be kept.
        """
        try:
            values = {
                "messages": [_template_message(m, i) for i, m in enumerate(messages)],
                "tools": None if tools is None else trace(list(tools), TOOLS),
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
                **self._special_tokens,
            }
            text = concat(self._template.root_render_func(self._template.new_context(values)))
        except ProvenanceError as error:
            raise RowError("template loses provenance", f"{self}: {error}") from None
        except Exception as error:  # whatever the template's own code may raise
            self._refuse(error)
        if text != self._plain(messages, tools, add_generation_prompt):
            raise RowError("template not reproduced", f"{self} renders otherwise in transformers")
        return text

    def _plain(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> str:
        """What transformers' apply_chat_template(tokenize=False) renders."""
        try:
            rendered, _ = self._reference.render_jinja_template(
                [[message_dict(message) for message in messages]],
                tools=None if tools is None else list(tools),
                chat_template=self.source,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except Exception as error:  # whatever the template's own code may raise
            self._refuse(error)
        if len(rendered[0]) > MAX_CHARS:
            raise RowError("template output", f"{self} renders {len(rendered[0])} characters")
        return rendered[0]

    def _refuse(self, error: Exception) -> NoReturn:
        kind = type(error).__name__
        said = str(error) if kind == "TemplateError" else f"{kind}: {error}"
        raise RowError(f"template refused: {said[:80]}", f"{self} refused: {said}") from None

    def _check_context(self, conversation: Conversation, text: Traced) -> None:
        """Neither tools nor a context message may vanish."""
        seen = {origin for _, _, origin in text.runs}
        if conversation.tools and TOOLS not in seen:
            raise RowError("tools left out", f"{self} leaves out the tools")
        for i, message in enumerate(conversation.messages):
            content = message.content.strip()
            if message.role != "assistant" and content and (i, "content") not in seen:
                if content not in text:  # a template may write a tool's "42" as a number
                    self._fail("message left out", i, f"role {message.role!r} is left out")
            if message.tool_calls and (i, "tool_calls") not in seen:
                self._fail("tool call not rendered", i, "its tool_calls are left out")

    def _check_recovered(
        self, message: Message, turn: int, text: Traced, start: int, stop: int
    ) -> None:
        """All that the message says stands in its span; white space at edges may change."""
        span = str.__getitem__(text, slice(start, stop))
        own: dict[str, list[str]] = {}
        for a, b, (index, field) in text.runs:
            if index == turn and a >= start and b <= stop:
                own.setdefault(field, []).append(str.__getitem__(text, slice(a, b)))
        for field, said in (("content", message.content), ("reasoning", message.reasoning or "")):
            if "".join(own.get(field, ())).strip() == said.strip():
                continue
            # A template may take <think> marks apart and write them anew.
            if "".join(said.split()) not in "".join(span.split()):
                self._fail(f"{field} not rendered", turn, f"its {field} {said[:60]!r} is changed")
        for said in _said_in_calls(message):
            if said not in span and json.dumps(said)[1:-1] not in span:
                self._fail("tool call not rendered", turn, f"{said[:60]!r} of a tool call is lost")

    def _fail(self, kind: str, index: int, reason: str) -> NoReturn:
        raise RowError(f"template: {kind}", f"{self}: messages[{index}]: {reason}")

    def __str__(self) -> str:
        return f"template {self.sha256[:12]}"


def supervised_turns(messages: Sequence[Message], train_on: str) -> list[int]:
    """Indices of the assistant messages to train; none that has weight 0."""
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if train_on == "last_turn":
        turns = turns[-1:]
    return [i for i in turns if messages[i].weight != 0]


def message_dict(message: Message) -> dict[str, Any]:
    """The message as a template reads it."""
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        result["reasoning_content"] = message.reasoning
    if message.tool_calls:
        result["tool_calls"] = list(message.tool_calls)
    if message.name is not None:
        result["name"] = message.name
    return {**result, **message.fields}


def _template_message(message: Message, index: int) -> dict[str, Any]:
    """message_dict with every string traced but the role, which is one of four words.

    Templates build control tokens from the role, so its characters count as the template's.
    """
    result: dict[str, Any] = {}
    for key, value in message_dict(message).items():
        if key == "role":
            result[key] = value
        elif key == "reasoning_content":
            result[key] = trace(value, (index, "reasoning"))
        else:
            result[key] = trace(value, (index, key))
    if message.reasoning is not None:
        # gpt-oss reads `thinking`; transformers fills both.
        result = {"thinking": result["reasoning_content"], **result}
    return result


def _said_in_calls(message: Message) -> Iterable[str]:
    for call in message.tool_calls:
        function = call.get("function", call)
        yield function["name"]
        for key, value in function["arguments"].items():
            yield key
            if isinstance(value, str):
                yield value
