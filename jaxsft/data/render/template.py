"""A conversation as the text that the model sees, and the spans of it that are trained."""

import dataclasses
import datetime
import hashlib
import json
import os.path
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from jaxsft.data.read.records import Conversation, Message, RowError
from jaxsft.data.render.provenance import Traced, concat
from jaxsft.data.render.rendering import TOOLS as TOOLS
from jaxsft.data.render.rendering import Option, Renderer, Rendering, trace_content
from jaxsft.data.render.rendering import message_dict as message_dict
from jaxsft.data.render.turns import Control as Control
from jaxsft.data.render.turns import ControlTokens, TurnEndings


@dataclasses.dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a text that are trained with `weight`."""

    start: int
    stop: int
    weight: float
    message: int  # index in the conversation


@dataclasses.dataclass(frozen=True)
class TrainingText:
    text: Traced
    spans: tuple[Span, ...]
    controls: tuple[Control, ...]  # in the order of the text
    end_of_turn: frozenset[str]  # the control tokens that end the spans
    # The last characters of the text, if they are not of the rendering: what the template would
    # begin the next message with, where only that ends a turn.
    appended: str = ""
    # What the template prompts an answer with at inference beside its header, if it leaves that
    # out of the answers in a conversation.
    unprompted: str = ""
    # What the template prompts an answer with, where the answer's own text begins so: the text is
    # then the generation prompt and the rest of the answer, and not the rendering.
    prefilled: str = ""


class _NotAPrefix(Exception):
    """A later rendering does not begin with what was rendered at a turn."""

    def __init__(self, message: int, reason: str):
        super().__init__(reason)
        self.message = message


class _Prefilled(_NotAPrefix):
    """The generation prompt begins the answer with `prefill`, and so does the content."""

    def __init__(self, message: int, prefill: str):
        super().__init__(message, f"the generation prompt begins it with {prefill!r}")
        self.prefill = prefill


class ChatTemplate:
    """A Jinja chat template, rendered as transformers renders it but with provenance.

    Args:
        source: the template.
        special_tokens: bos_token and so on, as the tokenizer gives them to the template.
        control_tokens: added tokens of the tokenizer, recognised where the template writes them.
        options: variables of the template, such as enable_thinking; a conversation's own win.
        today: the date that the template is told, if it asks.

    Raises:
        DataError: the template is not valid Jinja, or an option is none of its variables.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        control_tokens: Iterable[str],
        options: Mapping[str, Option] | None = None,
        today: datetime.date | None = None,
    ) -> None:
        self.source = source
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        self.today = today or datetime.date.today()
        self._renderer = Renderer(str(self), source, special_tokens, options or {}, self.today)
        self.uses_date = self._renderer.uses_date
        self.variables = self._renderer.variables
        self.special_tokens = dict(special_tokens)
        self._controls = ControlTokens(control_tokens)
        self._endings = TurnEndings(str(self), self._controls)

    def training_texts(
        self, conversation: Conversation, train_on: str = "all_turns"
    ) -> tuple[list[TrainingText], bool]:
        """The texts to train on, and whether the conversation had to be split for that.

        A supervised span starts where the generation prompt of its turn ends and stops after
        the token that ends the turn. One text holds every turn, unless the template renders
        earlier turns otherwise later on: then each supervised turn has its own text.

        Raises:
            RowError: naming the template, the message and the reason.
        """
        messages = conversation.messages
        turns = supervised_turns(messages, train_on)
        rendering = self._renderer.of(messages, conversation.tools, conversation.template_options)
        self._check_context(conversation, rendering.traced(len(messages)))
        try:
            return [self._text(rendering, turns, len(messages))], False
        except _NotAPrefix:
            return [self._own_text(rendering, turn) for turn in turns], True

    def _own_text(self, rendering: Rendering, turn: int) -> TrainingText:
        """The text that ends with the turn, as inference makes it."""
        try:
            return self._text(rendering, [turn], turn + 1)
        except _Prefilled as error:
            return self._prefilled_text(rendering, turn, error.prefill)
        except _NotAPrefix as error:
            self._fail("not a prefix", error.message, str(error))

    def _text(self, rendering: Rendering, turns: Sequence[int], until: int) -> TrainingText:
        """The rendering of the first messages with the spans of `turns`."""
        text = rendering.traced(until)
        controls = self.controls(text)
        spans, ends = [], set()
        appended, unprompted = Traced(), ""
        for turn in turns:
            start, unprompted = self._start(rendering, turn, text)
            stop, token, appended = self._stop(rendering, turn, until, start, controls)
            spans.append(Span(start, stop, _weight(rendering.messages[turn]), turn))
            ends.add(token)
            self._check_recovered(rendering.messages[turn], turn, text, start, stop)
        if appended:
            text = concat((text, appended))
            controls = self.controls(text)
        return TrainingText(
            text, tuple(spans), tuple(controls), frozenset(ends), appended, unprompted
        )

    def _start(self, rendering: Rendering, turn: int, text: Traced) -> tuple[int, str]:
        """Where the generation prompt of the turn ends, and what of it the text lacks."""
        prompt = rendering.plain(turn, True)
        if text.startswith(prompt):
            return len(prompt), ""
        own, field = next(
            ((start, field) for start, _, (index, field) in text.runs if index == turn), (0, "")
        )
        header = str.__getitem__(text, slice(own))
        # A header is there and the prompt has it too: it only prompts with more (DeepSeek R1).
        is_header = field == "content" and own > len(rendering.plain(turn))
        if is_header and prompt.startswith(header):
            prefill = prompt[own:]
            if rendering.messages[turn].content.startswith(prefill):
                raise _Prefilled(turn, prefill)
            return own, prefill
        raise _NotAPrefix(
            turn,
            f"its rendering does not begin with the generation prompt ...{prompt[-40:]!r}: an "
            "option of the template may fit (enable_thinking), or weight 0 keep it as context",
        )

    def _stop(
        self,
        rendering: Rendering,
        turn: int,
        until: int,
        start: int,
        controls: Sequence[Control],
    ) -> tuple[int, str, Traced]:
        """Where the turn's end token stops, the token, and what to append if it is not there."""
        text, alone = rendering.traced(until), rendering.plain(turn + 1)
        ending = self._endings.of(rendering, turn, alone[_own_stop(text, turn, alone, start) :])
        stop = len(alone) - ending.trailing
        if not text.startswith(alone[:stop]):
            raise _NotAPrefix(turn, "later messages change how it is rendered")
        if ending.appended is None:
            return stop, ending.tokens[0], Traced()
        if until == turn + 1:
            return stop + len(ending.appended), ending.tokens[0], ending.appended
        first = next((start for start, _, _ in text.runs if start >= stop), len(text))
        for control in controls:
            if control.start >= stop:
                between = str.__getitem__(text, slice(stop, control.start))
                if control.start < first and not between.strip():
                    if control.token in ending.tokens:
                        return control.stop, control.token, Traced()
                break
        raise _NotAPrefix(turn, f"none of {list(ending.tokens)} follows it")

    def _prefilled_text(self, rendering: Rendering, turn: int, prefill: str) -> TrainingText:
        """The generation prompt, then the content from where the prompt leaves off.

        For a template that prompts with the beginning of an answer ("<think>\\n") which the
        content has too, but which leaves an answer's reasoning out of a conversation.
        """
        message, prompt = rendering.messages[turn], rendering.traced(turn, True)
        alone = rendering.traced(turn + 1)
        own = [(start, stop) for start, stop, (index, _) in alone.runs if index == turn]
        kept = "".join(str.__getitem__(alone, slice(*run)) for run in own)
        said = message.content if message.content.endswith(kept) else message.content.rstrip()
        if message.reasoning or message.tool_calls or not said.endswith(kept.rstrip()):
            self._fail("not a prefix", turn, f"its generation prompt begins it with {prefill!r}")
        last = own[-1][1] if own else len(alone)
        ending = self._endings.of(rendering, turn, str.__getitem__(alone, slice(last, None)))
        end = alone[last : len(alone) - ending.trailing]
        answer = trace_content(message, turn)[len(prefill) : len(said)]
        text = concat((prompt, answer, end, ending.appended or ""))
        span = Span(len(prompt), len(text), _weight(message), turn)
        controls = tuple(self.controls(text))
        return TrainingText(
            text,
            (span,),
            controls,
            frozenset(ending.tokens[:1]),
            ending.appended or "",
            prefilled=prefill,
        )

    def message_dicts(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        options: Mapping[str, Option] | None = None,
    ) -> list[dict[str, Any]]:
        """The messages in the form that the template takes: the arguments of calls are objects, or
        JSON text where it wants that."""
        return [message_dict(m) for m in self._renderer.of(messages, tools, options).messages]

    @property
    def unknown_controls(self) -> list[str]:
        """What its source writes that looks like a control token but is none of the tokenizer."""
        return self._controls.unknown(Traced(self.source))

    def controls(self, text: Traced) -> list[Control]:
        """The control tokens that lie wholly in template characters, leftmost and longest."""
        return self._controls.find(text)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        options: Mapping[str, Option] | None = None,
    ) -> Traced:
        """The rendered text with provenance, checked to be what transformers renders.

        Raises:
            RowError: the template refuses the messages, an option is none of its variables, or
                provenance can't be kept.
        """
        rendering = self._renderer.of(messages, tools, options)
        return rendering.traced(len(messages), add_generation_prompt)

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
    """Indices of the assistant messages to train; none that has weight 0.

    With "weighted_turns" only those that were given a weight.
    """
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if train_on == "last_turn":
        turns = turns[-1:]
    if train_on == "weighted_turns":
        turns = [i for i in turns if messages[i].weight is not None]
    return [i for i in turns if messages[i].weight != 0]


def _weight(message: Message) -> float:
    return 1.0 if message.weight is None else message.weight


def _own_stop(text: Traced, turn: int, alone: str, start: int) -> int:
    """Where the turn's own text stops in `alone`, its rendering with nothing after it."""
    shared = len(alone)
    if not text.startswith(alone):
        plain = str.__getitem__(text, slice(len(alone)))
        shared = len(os.path.commonprefix([plain, alone]))
    own = [stop for _, stop, (index, _) in text.runs if index == turn and stop <= shared]
    return own[-1] if own else start


def _said_in_calls(message: Message) -> Iterable[str]:
    for call in message.tool_calls:
        function = call.get("function", call)
        yield function["name"]
        arguments = function["arguments"]
        for key, value in (json.loads(arguments) if type(arguments) is str else arguments).items():
            yield key
            if isinstance(value, str):
                yield value
