"""Answers by a model that is opened here."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from jaxsft.answering import written
from jaxsft.answering.questions import Question, blocks
from jaxsft.answering.written import Answer
from jaxsft.convert import source as sources
from jaxsft.data.conversation import RowError
from jaxsft.data.render.provenance import Traced
from jaxsft.errors import DataError
from jaxsft.generation.chat import Chat
from jaxsft.generation.sampling import Sampling
from jaxsft.generation.shapes import MOST_ROWS

TOO_LONG = "prompt too long"
NOT_RENDERED = "prompt can't be rendered"
_DIGESTED = ("*.safetensors", "*.gguf", "*config.json", "tokenizer*.json", "*.jinja", "*.model")


class OwnModel:
    """
    Args:
        samples: answers to each question.
        sampling: of all of them; what chance gives one depends on the question and its number too.
    """

    def __init__(self, chat: Chat, sampling: Sampling, samples: int):
        self._chat, self._sampling, self._samples = chat, sampling, samples

    def answered(
        self, questions: Iterable[Question]
    ) -> Iterator[list[tuple[Question, list[Answer]]]]:
        """The questions with their answers, some at a time, in order."""
        for block in blocks(questions, max(1, MOST_ROWS // self._samples)):
            yield self._of_block(block)

    def _of_block(self, block: Sequence[Question]) -> list[tuple[Question, list[Answer]]]:
        found: dict[int, list[Answer]] = {}
        prompts: dict[int, list[int]] = {}
        for index, question in enumerate(block):
            prompt = self._encoded(question)
            if isinstance(prompt, Answer):
                found[index] = [prompt]
            else:
                prompts[index] = prompt
        asked = [(index, sample) for index in prompts for sample in range(self._samples)]
        numbers = [number_of(block[index].key, sample, 0) for index, sample in asked]
        replies = self._chat.replies(
            [prompts[index] for index, _ in asked], self._sampling, numbers=numbers
        )
        for (index, _), number, reply in zip(asked, numbers, replies, strict=True):
            answer = written.of_text(
                reply.text,
                has_tools=bool(block[index].prompt.tools),
                ended=reply.ended,
                seed=number,
                tokens=len(reply.ids),
                controls=self._controls,
            )
            found.setdefault(index, []).append(answer)
        return [(question, found[index]) for index, question in enumerate(block)]

    def _encoded(self, question: Question) -> list[int] | Answer:
        """The prompt's tokens, or why there is no answer to it."""
        prompt, most = question.prompt, self._chat.settings.max_positions
        try:
            ids = self._chat.tokenizer.encode_prompt(
                prompt.messages, prompt.tools, prompt.template_options
            )
        except (RowError, DataError) as error:
            return Answer({}, 0, 0, NOT_RENDERED, str(error))
        if not 0 < len(ids) < most:
            said = f"{len(ids):,} tokens, and the model has positions for {most:,}"
            return Answer({}, 0, 0, TOO_LONG, said)
        return ids

    def _controls(self, text: str) -> list[str]:
        return [one.token for one in self._chat.tokenizer.template.controls(Traced(text))]


def number_of(key: str, sample: int, seed: int) -> int:
    """On which an answer's chance depends, in [0, 2 ** 31): so that an answer is the same whenever
    it is written, and whichever others are."""
    digest = hashlib.blake2b(f"{key} {sample} {seed}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def digest_of(source: str) -> str:
    """sha256 of the model's files: weights, settings, tokenizer and template."""
    folders = [sources.resolve(source), sources.adapter_directory(source)]
    digest = hashlib.sha256()
    for place in dict.fromkeys(place for place in folders if place is not None):
        found = {file for pattern in _DIGESTED for file in place.glob(pattern)}
        for file in sorted(found) if place.is_dir() else [place]:
            with file.open("rb") as opened:
                own = hashlib.file_digest(opened, "sha256").hexdigest()
            digest.update(f"{file.name} {own}\n".encode())
    return digest.hexdigest()
