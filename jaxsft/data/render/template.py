"""A conversation as the text that the model sees, and the spans of it that are trained."""

import bisect
import dataclasses
import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.render import served, views
from jaxsft.data.render.provenance import Traced, concat
from jaxsft.data.render.recovered import Sources, lost_context, lost_tool, lost_turn
from jaxsft.data.render.refused import refused, without_prompt
from jaxsft.data.render.rendering import Option, Renderer, Rendering
from jaxsft.data.render.rendering import message_dict as message_dict
from jaxsft.data.render.turns import Control as Control
from jaxsft.data.render.turns import ControlTokens, TurnEndings

_MAX_HEADERS = 1000  # that are remembered


@dataclasses.dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a text that are trained with `weight`."""

    start: int
    stop: int
    weight: float
    message: int  # index in the conversation


@dataclasses.dataclass(frozen=True)
class TrainingText:
    """One text to train on, and which of its characters are."""

    text: Traced
    spans: tuple[Span, ...]
    controls: tuple[Control, ...]  # in the order of the text
    end_of_turn: frozenset[str]  # the control tokens that end the spans
    # The last characters of the text, if they are not of the rendering: what the template would
    # begin the next message with, where only that ends a turn.
    appended: str = ""
    # Text that the template prompts an answer with and that its rendering of the answer has not, or
    # that the answer's own text begins with: the text is then the generation prompt and the rest.
    prefilled: str = ""
    # Text that the template writes before an answer; trained, as there is no generation prompt.
    header: str = ""
    # Turns whose prompts were compared with the text near by only.
    num_near: int = 0


class _NotAPrefix(Exception):
    """A later rendering does not begin with what was rendered at a turn."""


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
        self._unprompted: dict[str, bool] = {}  # by what stands before an answer

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
        rendering = self._rendering(conversation)
        try:
            return [self._text(rendering, turns, len(messages))], False
        except _NotAPrefix:
            return [self._own_text(rendering, turn) for turn in turns], True

    def turn_text(self, conversation: Conversation, turn: int) -> TrainingText:
        """The text that ends with the turn, the only one that it trains: as inference makes it.

        Raises:
            RowError: as training_texts.
        """
        return self._own_text(self._rendering(conversation), turn)

    def _rendering(self, conversation: Conversation) -> Rendering:
        messages = conversation.messages
        rendering = self._renderer.of(messages, conversation.tools, conversation.template_options)
        try:
            rendering.traced(len(messages))
        except RowError as error:
            raise refused(rendering, error) from None
        return rendering

    def _own_text(self, rendering: Rendering, turn: int) -> TrainingText:
        try:
            return self._text(rendering, [turn], turn + 1)
        except _NotAPrefix:
            return self._served_text(rendering, turn)

    def _text(self, rendering: Rendering, turns: Sequence[int], until: int) -> TrainingText:
        """The rendering of the first messages with the spans of `turns`."""
        text = rendering.traced(until)
        messages, controls = rendering.messages, self.controls(text)
        sources = self._sources(rendering, text, until)
        seen = views.Views(rendering, turns, sources, until)
        spans, ends, appended, header = [], set(), Traced(), ""
        for turn in turns:
            borders = self._borders(seen.of(turn), turn, until, sources, controls)
            start, stop, token, appended = borders
            spans.append(Span(start, stop, _weight(messages[turn]), turn))
            ends.add(token)
            header = header or self._header(rendering, turn, sources, start)
            self._check_turn(messages[turn], spans[-1], sources)
        if appended:
            text = concat((text, appended))
            controls = self.controls(text)
        return TrainingText(
            text,
            tuple(spans),
            tuple(controls),
            frozenset(ends),
            appended,
            header=header,
            num_near=seen.num_near,
        )

    def _sources(self, rendering: Rendering, text: Traced, until: int) -> Sources:
        """The runs of the text, in which neither tools nor a message are missing."""
        sources = Sources(text)
        tool = lost_tool(sources, rendering.tools)
        if tool is not None:
            raise RowError("tools left out", f"{self} leaves out tools[{tool}]")
        loss = lost_context(sources, rendering.messages[:until])
        if loss:
            self._fail(loss.kind, loss.message, loss.reason)
        return sources

    def _check_turn(self, message: Message, span: Span, sources: Sources) -> None:
        loss = lost_turn(sources, message, span.message, span.start, span.stop)
        if loss:
            self._fail(loss.kind, loss.message, loss.reason)

    def _borders(
        self,
        view: views.View,
        turn: int,
        until: int,
        sources: Sources,
        controls: Sequence[Control],
    ) -> tuple[int, int, str, Traced]:
        """Where the turn starts and stops, its end token, and what to append for it."""
        try:
            start = self._start(view, turn, sources)
            return start, *self._stop(view, turn, until, start, sources, controls)
        except (_NotAPrefix, RowError):
            if view.whole is None:
                raise
        # A turn seen near by may be rendered otherwise than with all that stands before it.
        return self._borders(view.whole, turn, until, sources, controls)

    def _start(self, view: views.View, turn: int, sources: Sources) -> int:
        """Where the generation prompt of the turn ends."""
        try:
            prompt = view.prompt()
        except RowError as error:
            raise without_prompt(view.rendering, turn, error) from None
        if prompt is None or not sources.text.startswith(prompt.text, prompt.at):
            raise _NotAPrefix
        return prompt.stop

    def _header(self, rendering: Rendering, turn: int, sources: Sources, start: int) -> str:
        """What stands between the start of the turn and its own text, if nothing prompts for it."""
        header = sources.text[start : sources.next_start(start)]
        if not header.strip():
            return ""
        if header not in self._unprompted:
            if len(self._unprompted) >= _MAX_HEADERS:
                self._unprompted.clear()
            self._unprompted[header] = not rendering.prompts(turn)
        return header if self._unprompted[header] else ""

    def _stop(
        self,
        view: views.View,
        turn: int,
        until: int,
        start: int,
        sources: Sources,
        controls: Sequence[Control],
    ) -> tuple[int, str, Traced]:
        """Where the turn's end token stops, the token, and what to append if it is not there."""
        text, alone = sources.text, view.alone(start)
        if alone is None:
            raise _NotAPrefix
        own = [run[1] for run in sources.of(turn) if start <= run[1] <= alone.shared(text)]
        tail = alone.text[(own[-1] if own else start) - alone.at :]
        ending = self._endings.of(view.rendering, view.turn, tail)
        stop = alone.stop - ending.trailing
        if not text.startswith(alone.text[: stop - alone.at], alone.at):
            raise _NotAPrefix
        if ending.appended is None:
            return stop, ending.tokens[0], Traced()
        if until == turn + 1:
            return stop + len(ending.appended), ending.tokens[0], ending.appended
        after = bisect.bisect_left(controls, stop, key=lambda control: control.start)
        for control in controls[after : after + 1]:
            if control.start < sources.next_start(stop) and control.token in ending.tokens:
                if not text[stop : control.start].strip():
                    return control.stop, control.token, Traced()
        raise _NotAPrefix

    def _served_text(self, rendering: Rendering, turn: int) -> TrainingText:
        """The generation prompt and what goes on after it, where the rendering has less of it."""
        found = served.continued_answer(rendering, turn)
        if found is None:
            raise served.otherwise(rendering, turn)
        prompt, answer, tail = found.prompt, found.answer, found.tail
        ending = self._endings.of(rendering, turn, str.__getitem__(tail, slice(None)))
        end = tail[: len(tail) - ending.trailing]
        text = concat((prompt, answer, end, ending.appended or ""))
        span = Span(len(prompt), len(text), _weight(rendering.messages[turn]), turn)
        self._check_turn(rendering.messages[turn], span, self._sources(rendering, text, turn + 1))
        return TrainingText(
            text,
            (span,),
            tuple(self.controls(text)),
            frozenset(ending.tokens[:1]),
            ending.appended or "",
            prefilled=found.prefill,
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
