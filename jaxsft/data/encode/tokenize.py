"""Records as token ids with a loss weight each, in one tokenization."""

import bisect
import dataclasses
import datetime
import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.config import Data
from jaxsft.data.conversation import (
    Conversation,
    Message,
    PlainText,
    RowError,
    TeacherTargets,
    Tokenized,
)
from jaxsft.data.encode.prompts import Prompts
from jaxsft.data.encode.spelling import Encoded, Spelling
from jaxsft.data.encode.trained_parts import Range, trained_ranges
from jaxsft.data.read.messages import parse_message
from jaxsft.data.render.rendering import Option
from jaxsft.data.render.template import ChatTemplate, Control, Span, TrainingText
from jaxsft.errors import ConversionError, DataError, is_of_library

_ASSISTANT_FIELDS = ("content", "reasoning", "tool_calls")


@dataclasses.dataclass(frozen=True)
class Example:
    """One sequence to train on.

    ids      1  9 40  2  7   the tokens
    weights  0  0  1  1  0   of each token as a target; the first is never one
    spans    [(2, 4)]        supervised tokens, start and stop
    """

    ids: np.ndarray  # int32
    weights: np.ndarray  # float32
    file: str
    row: int
    spans: tuple[tuple[int, int], ...]
    boundary_tokens: int = 0  # straddle a border of what is trained, and are context therefore
    end_of_turn_ids: frozenset[int] = frozenset()
    is_split: bool = False  # one turn of a conversation whose history the template rewrites
    turns: tuple[int, ...] = ()  # the supervised messages, as indices in the conversation
    control_ids: frozenset[int] = frozenset()  # the control tokens among the ids
    # Trained words that spell a control token and stay text: data.trusted_control_tokens.
    control_text: int = 0
    # Left out by data.overlong="truncate": tokens of the rendering, supervised turns.
    truncated_tokens: int = 0
    truncated_turns: int = 0
    header: str = ""  # is trained before an answer, for the template has no generation prompt
    near_turns: int = 0  # supervised, compared with what stands near their prompts only
    text_controls: int = 0  # control tokens that plain text spells, and which its ids have
    teacher: TeacherTargets | None = None  # of the targets with weight


@dataclasses.dataclass(frozen=True)
class _Spelt:
    """A text, its control tokens and its ids."""

    plain: str
    controls: Sequence[Control]
    encoded: Encoded
    left_as_text: Sequence[int]  # where an assistant spells a control token that stays text

    def begins_with_prompt(self, prompts: Prompts, span: Span) -> bool:
        return prompts.begins(self.encoded, self.plain, self.controls, span.start)

    def cut(self, prompts: Prompts, place: int) -> "_Spelt":
        encoded = prompts.cut(self.plain, self.controls, place)
        return dataclasses.replace(self, encoded=encoded)


class ChatTokenizer:
    """A model's tokenizer and chat template.

    A conversation begins as its template begins it. The tokenizer adds no BOS or EOS to the
    rendered text, even one that adds them to plain text, since neither does what serves the model:
    apply_chat_template and vLLM tokenize the rendering with add_special_tokens=False.

    Args:
        directory: holds tokenizer.json or tokenizer.model and their configuration.
        template: a .jinja file to use instead of the tokenizer's own template.
        template_options: variables of the template.
        trusted_control_tokens: control tokens where an assistant's words spell them.
        today: the date that the template is told, if it asks; None: today's.

    Raises:
        DataError: the tokenizer or the template can't be used.
    """

    def __init__(
        self,
        directory: str,
        template: str | None = None,
        *,
        template_options: Mapping[str, Option] | None = None,
        trusted_control_tokens: Sequence[str] = (),
        today: datetime.date | None = None,
    ):
        tokenizer = _load(directory)
        self.directory = directory
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        self._spelling = Spelling(self._backend)
        self._prompts = Prompts(self._spelling)
        controls = self._spelling.controls
        self._trusted = frozenset(trusted_control_tokens)
        _check_known(trusted_control_tokens, controls, directory)
        longest_first = sorted(controls, key=len, reverse=True)
        self._spelt_control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        special = {key: str(token) for key, token in tokenizer.special_tokens_map.items()}
        source = tokenizer.chat_template if template is None else _read_template(template)
        if isinstance(source, dict):
            source = source.get("default")
        self._template = (
            ChatTemplate(source, special, controls, options=template_options, today=today)
            if source
            else None
        )

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that the tokenizer gives."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def control_tokens(self) -> dict[str, int]:
        """The tokens that no user's text can give, with their ids."""
        return {token: self._spelling.added_ids[token] for token in self._spelling.controls}

    @property
    def has_template(self) -> bool:
        return self._template is not None

    @property
    def template(self) -> ChatTemplate:
        if self._template is None:
            raise DataError(
                f"{self.directory}: the tokenizer has no chat template; set data.template"
            )
        return self._template

    def encode(
        self,
        record: Conversation | PlainText | Tokenized,
        train_on: str = Data.train_on,
        vocab_size: int | None = None,
        train_parts: Collection[str] = Data.train_parts,
    ) -> list[Example]:
        """The examples of one record: one, or one per turn where the template rewrites history.

        Raises:
            RowError: the record can't be rendered or encoded; says why.
        """
        if isinstance(record, PlainText):
            examples = [self._encode_plain(record)]
        elif isinstance(record, Tokenized):
            whole = self._whole(record.ids, record.weights, record)
            examples = [dataclasses.replace(whole, teacher=record.teacher)]
            most = self.vocab_size if vocab_size is None else vocab_size
            self._check(record.ids, most)
            if record.teacher is not None:
                self._check_ids(record.teacher.ids_SX, most)
        else:
            examples = self._encode_conversation(record, train_on, train_parts)
        for example in examples:
            self._check(example.ids, vocab_size)
        return examples

    def encode_prompt(
        self,
        messages: Sequence[Message | dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        template_options: Mapping[str, Option] | None = None,
    ) -> list[int]:
        """The ids after which the model is to write the next assistant message.

        Args:
            template_options: of this conversation; they win over those of the tokenizer.
        """
        parsed = [
            message if isinstance(message, Message) else parse_message(message, f"messages[{i}]")
            for i, message in enumerate(messages)
        ]
        text = self.template.render(parsed, tools, True, template_options)
        rendered = TrainingText(text, (), tuple(self.template.controls(text)), frozenset())
        return self._spell(rendered, parsed).encoded.ids.tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def token_text(self, token_id: int) -> str:
        """One token as the vocabulary spells it."""
        return self._backend.id_to_token(token_id) or ""

    def _encode_plain(self, record: PlainText) -> Example:
        """The text as it is, control tokens that it spells included: it is all that the model
        sees. It begins as the tokenizer begins a text (with BOS, if that is its way) and ends with
        EOS, which is trained: a model that never saw a text end would not stop."""
        encoding = self._backend.encode(record.text)
        ids, said = encoding.ids, np.array(encoding.special_tokens_mask) == 0
        spelt = int((self._spelling.is_control(np.array(ids, np.int32)) & said).sum())
        ends = [] if self.eos_id is None else [self.eos_id]
        if ids[-1:] != ends:
            ids += ends
        tokens = np.array(ids, np.int32)
        example = self._whole(tokens, np.ones(len(ids), np.float32), record, frozenset(ends))
        return dataclasses.replace(example, text_controls=spelt)

    def _whole(
        self,
        ids: np.ndarray,
        weights: np.ndarray,
        record: PlainText | Tokenized,
        ends: frozenset[int] = frozenset(),
    ) -> Example:
        weights = weights.astype(np.float32)
        weights[:1] = 0
        borders = np.flatnonzero(np.diff(weights != 0, prepend=False, append=False))
        return Example(
            ids,
            weights,
            record.file,
            record.row,
            spans=tuple((int(start), int(stop)) for start, stop in borders.reshape(-1, 2)),
            end_of_turn_ids=ends,
            control_ids=frozenset(ids[self._spelling.is_control(ids)].tolist()),
        )

    def _encode_conversation(
        self, record: Conversation, train_on: str, parts: Collection[str]
    ) -> list[Example]:
        """The turns that one text can train in one example, each of the others in its own."""
        texts, is_split = self.template.training_texts(record, train_on)
        if is_split:
            return [self._own_example(text, record, parts) for text in texts]
        (text,) = texts
        spelt = self._spell(text, record.messages)
        spans, apart = [], []
        for span in text.spans:
            begins = spelt.begins_with_prompt(self._prompts, span)
            (spans if begins else apart).append(span)
        if len(text.spans) == 1 and apart:
            cut = spelt.cut(self._prompts, apart[0].start)
            return [self._example(text, cut, record, False, parts)]
        text = dataclasses.replace(text, spans=tuple(spans))
        joint = [self._example(text, spelt, record, False, parts)] if spans or not apart else []
        own = (self.template.turn_text(record, span.message) for span in apart)
        return joint + [self._own_example(text, record, parts) for text in own]

    def _own_example(
        self, text: TrainingText, record: Conversation, parts: Collection[str]
    ) -> Example:
        """The example of a text that trains one turn."""
        (span,) = text.spans
        spelt = self._spell(text, record.messages)
        if not spelt.begins_with_prompt(self._prompts, span):
            spelt = spelt.cut(self._prompts, span.start)
        return self._example(text, spelt, record, True, parts)

    def _example(
        self,
        text: TrainingText,
        spelt: "_Spelt",
        record: Conversation,
        is_split: bool,
        parts: Collection[str],
    ) -> Example:
        encoded, left = spelt.encoded, spelt.left_as_text
        ranges = trained_ranges(text, record.messages, parts)
        weights, spans, boundary_tokens = _weigh(encoded, ranges)
        return Example(
            encoded.ids,
            weights,
            record.file,
            record.row,
            spans,
            boundary_tokens,
            end_of_turn_ids=frozenset(self._spelling.added_ids[t] for t in text.end_of_turn),
            is_split=is_split,
            turns=tuple(span.message for span in text.spans),
            header=text.header,
            near_turns=text.num_near,
            control_ids=frozenset(encoded.ids[encoded.is_control].tolist()),
            control_text=sum(
                bisect.bisect_left(left, stop) - bisect.bisect_left(left, start)
                for start, stop, _ in ranges
            ),
        )

    def _spell(self, text: TrainingText, messages: Sequence[Message]) -> "_Spelt":
        """The text with the template's controls and the trusted ones of an assistant; and where an
        assistant spells others, which stay text."""
        plain = str.__getitem__(text.text, slice(None))
        controls, left_as_text = list(text.controls), []
        for start, stop, (index, field, _), *_ in text.text.runs:
            if field not in _ASSISTANT_FIELDS or messages[index].role != "assistant":
                continue
            for match in self._spelt_control.finditer(plain, start, stop):
                if match.group() in self._trusted:
                    controls.append(Control(match.start(), match.end(), match.group()))
                else:
                    left_as_text.append(match.start())
        if len(controls) > len(text.controls):
            controls.sort(key=lambda control: control.start)
        encoded = self._spelling.encode(plain, controls)
        return _Spelt(plain, controls, encoded, left_as_text)

    def _check_ids(self, ids: np.ndarray, vocab_size: int | None) -> None:
        if vocab_size is not None and ids.size and ids.max() >= vocab_size:
            token_id = int(ids.max())
            raise RowError(
                "token outside the model",
                f"token {self.token_text(token_id)!r} has id {token_id}; "
                f"the model's vocab_size={vocab_size}",
            )

    def _check(self, ids: np.ndarray, vocab_size: int | None) -> None:
        self._check_ids(ids, vocab_size)
        if self.bos_id is not None and len(ids) > 1 and (ids[:2] == self.bos_id).all():
            raise RowError("two BOS tokens", f"begins with {self.token_text(self.bos_id)!r} twice")


def _weigh(
    encoded: Encoded, ranges: Sequence[Range]
) -> tuple[np.ndarray, tuple[tuple[int, int], ...], int]:
    """Weights, spans and boundary tokens: a token is trained if all of it lies in one range.

    starts   0  3  5  9     of the tokens, in characters
    stops    3  5  9 10
    weights  0  0  1  1     for the range [4, 10): [3, 5) straddles its border and is context
    """
    weights = np.zeros(len(encoded.ids), np.float32)
    tokens, spans, boundary_tokens = range(len(weights)), [], 0
    for text_start, text_stop, weight in ranges:
        start, stop = encoded.place(text_start), encoded.place(text_stop)
        before = bisect.bisect_right(tokens, start, key=encoded.stop)
        first = bisect.bisect_left(tokens, start, key=encoded.start)
        after = bisect.bisect_left(tokens, stop, key=encoded.start)
        last = min(after, bisect.bisect_right(tokens, stop, key=encoded.stop))
        boundary_tokens += max(0, first - before) + after - max(first, last)
        first = max(first, 1)
        if first < last:
            weights[first:last] = weight
            spans.append((first, last))
    return weights, tuple(spans), boundary_tokens


def _check_known(trusted: Sequence[str], controls: Sequence[str], directory: str) -> None:
    for token in trusted:
        if token not in controls:
            near = difflib.get_close_matches(token, controls, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"data.trusted_control_tokens: {token!r} is no added token of the tokenizer "
                f"in {directory}{hint}"
            )


def _load(directory: str) -> Any:
    from transformers import AutoTokenizer

    if not Path(directory).is_dir():
        raise DataError(f"{directory}: no such tokenizer directory")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except BaseException as error:  # tokenizers has none of its own for a broken file
        if not is_of_library(error):
            raise
        files = sorted(path.name for path in Path(directory).glob("tokenizer*.*"))
        raise ConversionError(
            f"{directory}: the tokenizer ({', '.join(files)}) can't be read: {error}"
        ) from None
    if not tokenizer.is_fast:
        raise DataError(f"{directory}: {type(tokenizer).__name__} has no tokenizer.json form")
    return tokenizer


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.template={path}: can't be read: {error}") from None
