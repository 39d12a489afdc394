"""Answers by a model behind an OpenAI-compatible URL, several questions at a time."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from jaxsft.answering import written
from jaxsft.answering.own_model import number_of
from jaxsft.answering.questions import Question
from jaxsft.answering.written import Answer
from jaxsft.data.conversation import Message
from jaxsft.errors import ConfigError, PeerError
from jaxsft.evaluation.endpoint import AwayError, Endpoint, NoCompletionError, RefusedError

REFUSED = "refused by the server"
NO_COMPLETION = "no chat completion"
# Statuses that are about one question: it is too long, or holds what the server does not want.
_OF_A_QUESTION = (400, 413, 422)
_GIVES_UP = 5  # questions in a row, of which none before was answered
_AHEAD = 4  # requests that wait for each that is on its way
_NOT_ENDED = {"length": written.CUT, "content_filter": written.FILTERED}  # by finish_reason
_Answered = list[tuple[Question, list[Answer]]]


@dataclasses.dataclass(frozen=True)
class _Waiting:
    question: Question
    answers: Sequence[Future[Answer]]

    @property
    def over(self) -> bool:
        return all(one.done() for one in self.answers)

    def all(self) -> tuple[Question, list[Answer]]:
        return self.question, [one.result() for one in self.answers]


class ServedModel:
    """
    Args:
        settings: of a request, as the API calls them.
        seed: of all chance.
        samples: answers to each question, each of a request of its own.
        workers: requests at a time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Mapping[str, Any],
        seed: int,
        samples: int,
        workers: int,
    ):
        self._endpoint, self._settings = endpoint, settings
        self._seed, self._samples, self._workers = seed, samples, workers
        self._streak = itertools.count(1)  # of questions without an answer
        self._answers_at_all = False

    def answered(self, questions: Iterable[Question]) -> Iterator[_Answered]:
        """The questions with their answers, as many as are ready at a time, in order.

        Raises:
            ConfigError: the server does not want what it is asked, or whoever asks.
            PeerError: nobody answers.
        """
        pool = ThreadPoolExecutor(self._workers)
        waiting: collections.deque[_Waiting] = collections.deque()
        try:
            for question in questions:
                waiting.append(self._asked(pool, question))
                if len(waiting) * self._samples >= self._workers * _AHEAD:
                    yield self._ready(waiting)
            while waiting:
                yield self._ready(waiting)
        finally:  # a stop too: what is on its way is not waited for
            pool.shutdown(wait=False, cancel_futures=True)

    def _asked(self, pool: ThreadPoolExecutor, question: Question) -> _Waiting:
        return _Waiting(
            question,
            [pool.submit(self._answer, question, sample) for sample in range(self._samples)],
        )

    def _ready(self, waiting: "collections.deque[_Waiting]") -> _Answered:
        """The first that waits, and those behind it that are over by then."""
        ready = [waiting.popleft().all()]
        while waiting and waiting[0].over:
            ready.append(waiting.popleft().all())
        for _, answers in ready:
            for answer in answers:
                self._count(answer)
        return ready

    def _count(self, answer: Answer) -> None:
        if answer.why not in (REFUSED, NO_COMPLETION):
            self._answers_at_all = True
        elif not self._answers_at_all and next(self._streak) >= _GIVES_UP:
            raise ConfigError(f"--url={self._endpoint.url}: {answer.why}: {answer.detail}")

    def _answer(self, question: Question, sample: int) -> Answer:
        number = number_of(question.key, sample, self._seed)
        where = f"--url={self._endpoint.url}"
        try:
            reply = self._endpoint.completed(self._body(question, number))
        except RefusedError as error:
            if error.status in _OF_A_QUESTION:
                return Answer({}, number, 0, REFUSED, str(error))
            raise ConfigError(f"{where}: refuses: {error}") from None
        except NoCompletionError as error:
            return Answer({}, number, 0, NO_COMPLETION, f"the {error}")
        except AwayError as error:
            raise PeerError(
                f"{where}: could not be asked: {error}; what was answered is kept: start the same"
                " command again"
            ) from None
        return _answer_of(reply, number)

    def _body(self, question: Question, number: int) -> dict[str, Any]:
        prompt = question.prompt
        body = {
            "messages": [_sent(message) for message in prompt.messages],
            **self._settings,
            "seed": number,
        }
        if prompt.tools:
            body["tools"] = list(prompt.tools)
        if prompt.template_options:
            body["chat_template_kwargs"] = dict(prompt.template_options)
        return body


def _sent(message: Message) -> dict[str, Any]:
    """As the API takes it: the arguments of calls are text there."""
    said = written.plain(message)
    if message.tool_calls:
        said["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.dumps(_arguments(call))}}
            for call in message.tool_calls
        ]
    return said


def _arguments(call: Mapping[str, Any]) -> Any:
    return call["function"].get("arguments", {})


def _answer_of(reply: Mapping[str, Any], number: int) -> Answer:
    choice, tokens = reply["choices"][0], _tokens(reply.get("usage"))
    given, ended = choice["message"], choice.get("finish_reason")
    words = given.get("content") or ""
    if not isinstance(words, str):
        return Answer({}, number, tokens, NO_COMPLETION, "its content is no text")
    own = [given.get(key) for key in ("reasoning_content", "reasoning")]
    reasoning = next((one for one in own if isinstance(one, str) and one.strip()), None)
    calls = given.get("tool_calls")
    if reasoning is None and not calls and ended not in _NOT_ENDED:
        return written.of_text(
            words, has_tools=False, ended=True, seed=number, tokens=tokens, controls=_no_controls
        )
    message: dict[str, Any] = {"role": "assistant", "content": words.strip()}
    message |= {} if reasoning is None else {"reasoning_content": reasoning.strip()}
    message |= {"tool_calls": calls} if calls else {}
    if ended in _NOT_ENDED:
        said = f"finish_reason is {ended!r}"
        return Answer(message, number, tokens, _NOT_ENDED[ended], said)
    return written.checked(message, number, tokens)


def _tokens(usage: Any) -> int:
    """Of the answer, as the server counts them; 0: it does not say."""
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _no_controls(text: str) -> list[str]:
    """Those of a served model are its server's: what it sends is text."""
    return []
