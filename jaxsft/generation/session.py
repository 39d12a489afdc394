"""A conversation that somebody has with a model, and may change, look at and keep."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsft.errors import ConfigError
from jaxsft.files import places
from jaxsft.generation.called import tool_calls, words_before
from jaxsft.generation.chat import Chat, Tokens
from jaxsft.generation.sampling import Sampling

_OPTIONAL = {"none", "off", ""}


class Session:
    """
    Attributes:
        messages: as OpenAI writes them, the system's first if there is one.
        sampling: of the answers to come.
    """

    def __init__(self, chat: Chat, tools: Sequence[dict[str, Any]] | None, sampling: Sampling):
        self.chat, self.tools, self.sampling = chat, tools, sampling
        self.messages: list[dict[str, Any]] = []

    def ask(self, text: str, on_text: Callable[[str], object] | None = None) -> str:
        """The model's answer to a user's words, both of which the conversation has from now on."""
        return self._answered([{"role": "user", "content": text}], on_text)

    def give_results(
        self, results: Sequence[str], on_text: Callable[[str], object] | None = None
    ) -> str:
        """The model's answer to what its calls gave, one text for each of `calls`."""
        names = [call["function"]["name"] for call in self.calls()]
        given = [
            {"role": "tool", "name": name, "content": result}
            for name, result in zip(names, results, strict=True)
        ]
        return self._answered(given, on_text)

    def retry(self, on_text: Callable[[str], object] | None = None) -> str:
        """Another answer in the place of the last one, by the next seed.

        Raises:
            ConfigError: there is none yet, or no chance for another one.
        """
        last = self.last_answer()
        if not self.sampling.temperature:
            raise ConfigError("at temperature 0 the answer stays; first /set temperature=0.7")
        self.messages.pop()
        before = self.sampling
        self.sampling = dataclasses.replace(before, seed=(before.seed + 1) % 2**32)
        try:
            return self._answered([], on_text)
        except BaseException:
            self.messages.append(last)
            raise

    def edit(self, text: str) -> None:
        """Puts the right answer in the place of the last one.

        Raises:
            ConfigError: there is none yet.
        """
        self.last_answer()
        self.messages[-1] = _answer(text)

    def set_system(self, text: str) -> None:
        """Begins the conversation with a system message; "": with none."""
        others = [message for message in self.messages if message["role"] != "system"]
        self.messages = [{"role": "system", "content": text}] * bool(text) + others

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.messages = [one for one in self.messages if one["role"] == "system"]

    def set(self, name: str, value: str) -> None:
        """Another value of a field of `sampling`, as text; "none" for none.

        Raises:
            ConfigError: no such field, or no such value.
        """
        fields = {field.name: field for field in dataclasses.fields(Sampling)}
        if name not in fields:
            raise ConfigError(f"/set {name}: no such setting; there are {', '.join(fields)}")
        current = getattr(Sampling(temperature=1.0), name)
        parse = int if name in ("max_new_tokens", "top_k", "seed") else float
        try:
            parsed = None if current is None and value.lower() in _OPTIONAL else parse(value)
        except ValueError:
            raise ConfigError(f"/set {name}={value}: expected a number") from None
        self.sampling = dataclasses.replace(self.sampling, **{name: parsed})

    def calls(self) -> list[dict[str, Any]]:
        """The tool calls of the last message, which wait for their results."""
        return list(self.messages[-1].get("tool_calls", ())) if self.messages else []

    def tokens(self) -> Tokens:
        """As `Chat.tokens`, of the conversation so far."""
        return self.chat.tokens(self.messages, self.tools)

    def save(self, path: Path) -> int:
        """Appends the conversation to a file of rows to train on; how many it has now.

        Raises:
            ConfigError: the assistant has not the last word, or the file can't be written.
        """
        self.last_answer()
        row = {"messages": self.messages} | ({"tools": self.tools} if self.tools else {})
        with places.using(f"/save {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                file.seek(0)
                before = file.read()
                begins = b"" if before.endswith(b"\n") or not before else b"\n"
                file.write(begins + json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return len(before.splitlines()) + 1

    def last_answer(self) -> dict[str, Any]:
        """The message with which the assistant has the last word.

        Raises:
            ConfigError: it has not.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise ConfigError("there is no answer yet")
        return self.messages[-1]

    def _answered(
        self, given: list[dict[str, Any]], on_text: Callable[[str], object] | None
    ) -> str:
        pieces: list[str] = []

        def tell(piece: str) -> None:
            pieces.append(piece)
            if on_text is not None:
                on_text(piece)

        asked = [*self.messages, *given]
        try:
            text = self.chat.answer(asked, self.tools, on_text=tell, **vars(self.sampling))
        except KeyboardInterrupt:  # what has been written by then stays
            text = "".join(pieces)
            if not text:
                raise
        self.messages = [*asked, _answer(text)]
        return text


def _answer(text: str) -> dict[str, Any]:
    """The assistant's message; its calls as calls, so that it is rendered as those of the data."""
    calls = tool_calls(text)
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": words_before(text), "tool_calls": calls}
