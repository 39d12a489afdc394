"""`jaxsft.Chat`: a model that answers conversations, as its template renders them. T: token."""

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxsft.convert import api
from jaxsft.convert.source import tokenizer_directory
from jaxsft.data.conversation import Conversation, Message
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.read.messages import parse_message
from jaxsft.data.render.rendering import Option
from jaxsft.devices import mesh as mesh_lib
from jaxsft.generation import serving
from jaxsft.generation.generate import generate
from jaxsft.generation.sampling import Sampling
from jaxsft.generation.texts import TextRules

_Messages = Sequence[Mapping[str, Any] | Message]
_TOKENS_BETWEEN = 16  # where nobody reads along


@dataclasses.dataclass(frozen=True)
class Reply:
    """
    Attributes:
        text: without the token or string that ended it.
        ids: of the answer, with the token that ended it.
        ended: False: cut at max_new_tokens, or at the last position of the model.
    """

    text: str
    ids: list[int]
    ended: bool


@dataclasses.dataclass(frozen=True)
class Tokens:
    """
    Attributes:
        ids_T: int32.
        weights_T: float32, of each as a target.
        texts: what each decodes to by itself; of a part of a character U+FFFD.
    """

    ids_T: np.ndarray
    weights_T: np.ndarray
    texts: list[str]


class Chat:
    """A model, its tokenizer and its template.

    Args:
        source: as of `jaxsft.load_model`, or an adapter.
        mesh: None: one local device.
        dtype: of the computation.
        parameter_dtype: of the parameters.
        template: a .jinja file in the place of the model's own template.
        template_options: variables of the template; None: those that the source was trained with.

    Raises:
        ConversionError, DataError: a model, tokenizer or template that can't be used.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        mesh: Mesh | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        parameter_dtype: Literal["float32", "bfloat16"] = "float32",
        template: str | None = None,
        template_options: Mapping[str, Option] | None = None,
    ):
        served = serving.as_trained(source)
        options = served.template_options if template_options is None else template_options
        self.tokenizer = ChatTokenizer(
            str(tokenizer_directory(source)),
            template,
            template_options=options,
            trusted_control_tokens=served.trusted_control_tokens,
            today=None if served.date is None else datetime.date.fromisoformat(served.date),
        )
        self.stop_ids = serving.stop_ids(source, self.tokenizer)
        self._mesh = mesh_lib.single_device_mesh() if mesh is None else mesh
        model = api.load_model(source, self._mesh, dtype, parameter_dtype)
        self.settings = model.settings
        self._graphdef, state = nnx.split(model, nnx.Param)
        self._params = nnx.to_pure_dict(state)

    def answer(
        self,
        messages: _Messages,
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        stop: Sequence[str] = (),
        on_text: Callable[[str], object] | None = None,
        **sampling: Any,
    ) -> str:
        """The next message of the assistant.

        Args:
            messages: of the conversation so far, such as {"role": "user", "content": "Hi!"}.
            tools: that the model may call, as JSON schemas.
            stop: strings that end the answer and are not part of it.
            on_text: is given each piece of the text as soon as it is written.
            sampling: fields of `jaxsft.generation.sampling.Sampling`; none: the likeliest tokens.

        Raises:
            ConfigError: a conversation that is too long for the model, or a wrong field.
            DataError, RowError: one that the template can't render.
        """
        return self.answers([messages], tools, stop=stop, on_text=on_text, **sampling)[0].text

    def answers(
        self,
        conversations: Sequence[_Messages],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        stop: Sequence[str] = (),
        on_text: Callable[[str], object] | None = None,
        **sampling: Any,
    ) -> list[Reply]:
        """As `answer`, of several conversations at once; `on_text` is told of the first."""
        prompts = [self.tokenizer.encode_prompt(_parsed(one), tools) for one in conversations]
        return self.replies(prompts, Sampling(**sampling), stop=stop, on_text=on_text)

    def replies(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        numbers: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        on_text: Callable[[str], object] | None = None,
    ) -> list[Reply]:
        """As `answers`, of prompts that `tokenizer.encode_prompt` gave.

        Args:
            numbers: of the prompts, on which what chance gives them depends; None: their places.
        """
        rules = TextRules(self.tokenizer.decode, self.stop_ids, stop)
        shown = 0

        def watch(index: int, ids: list[int]) -> bool:
            nonlocal shown
            found = rules.of(ids, more=True)
            if index == 0 and on_text is not None and found.settled > shown:
                on_text(found.text[shown : found.settled])
                shown = found.settled
            return found.ended

        with jax.set_mesh(self._mesh):
            answers = generate(
                self._graphdef,
                self._params,
                prompts,
                sampling,
                stop_ids=self.stop_ids,
                numbers=numbers,
                watch=watch if stop or on_text is not None else None,
                tokens_between=1 if on_text is not None else _TOKENS_BETWEEN,
            )
        replies = [
            Reply(rules.of(answer.ids, more=False).text, answer.ids, answer.ended)
            for answer in answers
        ]
        if on_text is not None and (rest := replies[0].text[shown:]):
            on_text(rest)
        return replies

    def tokens(self, messages: _Messages, tools: Sequence[dict[str, Any]] | None = None) -> Tokens:
        """The tokens of a conversation: what an answer would follow on or, where the assistant has
        the last word, what would be trained, with weights."""
        parsed = _parsed(messages)
        if not parsed or parsed[-1].role != "assistant":
            ids = np.asarray(self.tokenizer.encode_prompt(parsed, tools), np.int32)
            return self._tokens(ids, np.zeros(len(ids), np.float32))
        row = Conversation(tuple(parsed), None if tools is None else tuple(tools), "given", 1)
        last = self.tokenizer.encode(row)[-1]
        return self._tokens(last.ids, last.weights)

    def _tokens(self, ids_T: np.ndarray, weights_T: np.ndarray) -> Tokens:
        return Tokens(ids_T, weights_T, [self.tokenizer.decode([int(one)]) for one in ids_T])


def _parsed(messages: _Messages) -> list[Message]:
    return [
        one if isinstance(one, Message) else parse_message(dict(one), f"messages[{index}]")
        for index, one in enumerate(messages)
    ]
