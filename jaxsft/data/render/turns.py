"""Where an assistant's turn ends: learnt from what the template writes after it."""

import dataclasses
import hashlib
import json
import os.path
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.render.provenance import Traced
from jaxsft.data.render.rendering import Rendering

_PROBE = "ok"
# The look of control tokens of the common chat formats: <|im_end|>, <|end_of_text|>...
_LOOKS_LIKE_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|<(?:start|end)_of_turn>"
)
_LONG_TAIL = 200  # characters; one that long is seen once
_MAX_KNOWN = 10_000  # endings that are remembered


def new_tokens_flag(tokens: Sequence[str]) -> str:
    """The flag that makes these control tokens, as a shell takes it."""
    return f"--config.model.new_tokens={shlex.quote(json.dumps(list(tokens), ensure_ascii=False))}"


@dataclasses.dataclass(frozen=True)
class Control:
    """A control token that the template wrote at [start, stop)."""

    start: int
    stop: int
    token: str


class ControlTokens:
    """Finds the added tokens of a tokenizer where a template writes them."""

    def __init__(self, tokens: Iterable[str]):
        longest_first = sorted(tokens, key=len, reverse=True)
        # (?!) never matches: a tokenizer may have no control token.
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def find(self, text: Traced) -> list[Control]:
        """Those wholly in template characters, leftmost and longest, in the order of the text."""
        matches = _in_template(self._pattern, text)
        return [Control(match.start(), match.end(), match.group()) for match in matches]

    def unknown(self, text: Traced) -> list[str]:
        """What looks like a control token in template characters but is none of these; each
        once."""
        found = dict.fromkeys(match.group() for match in _in_template(_LOOKS_LIKE_CONTROL, text))
        return [token for token in found if not self._pattern.fullmatch(token)]


def _in_template(pattern: re.Pattern[str], text: Traced) -> Iterator[re.Match[str]]:
    at = 0
    for start, stop, *_ in text.runs:
        yield from pattern.finditer(text, at, start)
        at = stop
    yield from pattern.finditer(text, at)


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a turn ends in the rendering up to it.

    Most templates write an end token: `trailing` characters of the rendering follow it. Some
    (GLM's) write none, and the model stops by writing the token that begins the next message:
    the turn then ends with one of `tokens`, and `appended` stands for it after the last turn.
    """

    tokens: tuple[str, ...]
    trailing: int = 0
    appended: Traced | None = None


class TurnEndings:
    """The endings of one template, each learnt once.

    A turn is rendered alone and with one more message after it. What both have in common after
    the turn's own text is the end of the turn; the last control token in it is its end token. If
    they have none in common, the template either ends a conversation with a token of its own
    (gpt-oss), or begins each message with one and ends none (GLM). A token that also stands
    between two tool calls of one turn ends no turn.
    """

    def __init__(self, name: str, controls: ControlTokens):
        self._name = name
        self._controls = controls
        self._known: dict[tuple[Any, ...], Ending] = {}

    def of(self, rendering: Rendering, turn: int, tail: str) -> Ending:
        """The ending of the turn, of which `tail` follows its own text in the rendering up to it.

        Raises:
            RowError: no ending can be established.
        """
        calls = bool(rendering.messages[turn].tool_calls)
        if len(self._known) >= _MAX_KNOWN:  # tails and options may hold words of rows
            self._known.clear()
        options = json.dumps(rendering.options, sort_keys=True).encode()
        key = (tail, calls, hashlib.sha256(options).digest() if rendering.options else b"")
        if key not in self._known:
            # Text before the first control token, such as "}, makes no difference.
            controls = self._controls.find(Traced(tail))
            short = (tail[controls[0].start :] if controls else "", *key[1:])
            if short not in self._known:
                self._known[short] = self._learn(rendering, turn)
            if len(tail) > _LONG_TAIL:
                return self._known[short]
            self._known[key] = self._known[short]
        return self._known[key]

    def _learn(self, rendering: Rendering, turn: int) -> Ending:
        plain = self._ending(rendering.followed_by(Message("assistant", _PROBE), turn), turn)
        ending = self._ending(rendering, turn, by_header=plain.appended is not None)
        if plain.appended is not None or ending.tokens == plain.tokens:
            return ending
        (token,) = ending.tokens
        if not rendering.messages[turn].tool_calls or self._stands_inside(rendering, turn, token):
            reason = f"it ends with {token!r}, but other answers end with {plain.tokens[0]!r}"
            self._fail(turn, reason)
        return ending

    def _ending(self, rendering: Rendering, turn: int, by_header: bool | None = None) -> Ending:
        """The ending as two or more renderings show it; `by_header` where that is known."""
        text = rendering.traced(turn + 1)
        tail = text[_own_stop(rendering, text, turn) :]
        controls = self._controls.find(tail)
        following = list(self._following(rendering, turn))
        if not by_header:
            common = [tail, *following[:1]]
            length = len(os.path.commonprefix([str.__getitem__(t, slice(None)) for t in common]))
            shared = [control for control in controls if control.stop <= length]
            if self._writes_prompt(rendering, turn, text, tail):
                starters = self._starters(text)
                controls = shared = [c for c in shared if c.token not in starters]
            if shared or controls:
                end = (shared or controls)[-1]
                return Ending((end.token,), trailing=len(tail) - end.stop)
        if by_header is not False:
            headers = [self._header(tail, after) for after in following]
            if headers and headers[0] is not None:
                known = [header for header in headers if header is not None]
                tokens = tuple(self._controls.find(header)[-1].token for header in known)
                return Ending(tokens, appended=headers[0])
        reason = "no control token of the tokenizer follows its text"
        if unknown := self._controls.unknown(text):
            reason += f"; {unknown} look like control tokens: {new_tokens_flag(unknown)} makes them"
            reason += " such (add them to those that it names already)"
        self._fail(turn, reason)

    def _following(self, rendering: Rendering, turn: int) -> Iterator[Traced]:
        """What stands between the turn's own text and that of one more message, for each kind of
        message that the template takes there; first the one that is expected."""
        calls = rendering.messages[turn].tool_calls
        user, tool = Message("user", _PROBE), _tool_result(calls)
        for message in (tool, user) if calls else (user, tool):
            try:
                text = rendering.followed_by(message, turn + 1).traced(turn + 2)
            except RowError:
                continue
            starts = [run[0] for run in text.runs if run[2][0] == turn + 1]
            own = _own_stop(rendering, text, turn)
            if starts and own <= min(starts):
                yield text[own : min(starts)]

    def _writes_prompt(self, rendering: Rendering, turn: int, text: Traced, tail: str) -> bool:
        """Whether the template writes a generation prompt at the end without being asked."""
        if rendering.plain(turn + 1) != rendering.plain(turn + 1, True):
            return False
        start = min([run[0] for run in text.runs if run[2][0] == turn], default=0)
        before = max([run[1] for run in text.runs if run[1] <= start], default=0)
        prompt = rendering.plain(turn)[before:]
        ours, theirs = self._controls.find(Traced(tail)), self._controls.find(Traced(prompt))
        if not ours or not theirs:
            return False
        return tail[ours[-1].start :] == prompt[theirs[-1].start :]

    def _starters(self, text: Traced) -> set[str]:
        """The control tokens with which the text begins, before any other character."""
        starters, at = set(), 0
        for control in self._controls.find(text):
            if control.start != at:
                break
            starters.add(control.token)
            at = control.stop
        return starters

    def _header(self, tail: str, following: Traced) -> Traced | None:
        """The beginning of the next message up to its first control token."""
        if not following.startswith(tail):
            return None
        rest = following[len(tail) :]
        for control in self._controls.find(rest)[:1]:
            if not rest[: control.start].strip():
                return rest[: control.stop]
        return None

    def _stands_inside(self, rendering: Rendering, turn: int, token: str) -> bool:
        """Whether a turn with twice as many tool calls holds the token more than once."""
        message = rendering.messages[turn]
        twice = dataclasses.replace(message, tool_calls=message.tool_calls * 2)
        try:
            text = rendering.followed_by(twice, turn).traced(turn + 1)
        except RowError:
            return False
        own = [run[0] for run in text.runs if run[2][0] == turn]
        return sum(c.token == token and c.start >= min(own) for c in self._controls.find(text)) > 1

    def _fail(self, turn: int, reason: str) -> NoReturn:
        detail = f"{self._name}: messages[{turn}]: {reason}; so the end of its turn is not known"
        raise RowError("template: no end of turn", detail)


def _own_stop(rendering: Rendering, text: Traced, turn: int) -> int:
    """Where the turn's own text stops; where the text before it does if it has none."""
    own = [run[1] for run in text.runs if run[2][0] == turn]
    return own[-1] if own else len(rendering.plain(turn, True))


def _tool_result(calls: tuple[dict[str, Any], ...]) -> Message:
    call = calls[0] if calls else {}
    name = call.get("function", call).get("name", _PROBE)
    fields = {"tool_call_id": call["id"]} if "id" in call else {}
    return Message("tool", _PROBE, name=name, fields=fields)
