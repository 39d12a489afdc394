"""Rendered text as token ids with a loss weight each, in one tokenization."""

import bisect
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.data.records import Conversation, Message, PlainText, RowError, parse_message
from jaxsft.data.template import ChatTemplate, Control, TrainingText
from jaxsft.errors import DataError

_SENTINEL = 0x100000  # first character of Unicode's last private-use plane
_NUM_SENTINELS = 0xFFFE
_RESERVED = re.compile(f"[{chr(_SENTINEL)}-{chr(_SENTINEL + _NUM_SENTINELS - 1)}]")


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
    boundary_tokens: int = 0  # straddle the start of a span, and are context therefore
    end_of_turn_ids: frozenset[int] = frozenset()
    is_split: bool = False  # one turn of a conversation whose history the template rewrites


class ChatTokenizer:
    """A model's tokenizer and chat template.

    Control tokens are recognised only where the template wrote them. For that the text is
    encoded by a copy of the tokenizer in which each of them is spelt as one private-use
    character; the same words inside a message are then ordinary text.

    Args:
        directory: holds tokenizer.json or tokenizer.model and their configuration.
        template: a .jinja file to use instead of the tokenizer's own template.

    Raises:
        DataError: the tokenizer or the template can't be used.
    """

    def __init__(self, directory: str, template: str | None = None):
        tokenizer = _load(directory)
        self.directory = directory
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        description = json.loads(self._backend.to_str())
        added = {token["content"]: token["id"] for token in description["added_tokens"]}
        # Runs of white space and the like are ordinary text wherever they stand.
        controls = [token for token in added if token.strip("\u2581").strip()]
        self._sentinels = dict(zip(controls, _sentinel_characters(controls), strict=True))
        self._variant, self._real_ids, self._is_sentinel = _variant_of(description, self._sentinels)
        self._is_control = np.zeros(len(self._real_ids), bool)  # by real id; text may be unknown
        self._is_control[[added[t] for t in controls if t != tokenizer.unk_token]] = True
        self._ids = added
        special = {key: str(token) for key, token in tokenizer.special_tokens_map.items()}
        own = tokenizer.chat_template
        source = _read_template(template) if template is not None else own
        if isinstance(source, dict):
            source = source.get("default")
        self._template = ChatTemplate(source, special, controls) if source else None

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that the tokenizer gives."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

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
        record: Conversation | PlainText,
        train_on: str = "all_turns",
        vocab_size: int | None = None,
    ) -> list[Example]:
        """The examples of one record: one, or one per turn where the template rewrites history.

        Raises:
            RowError: the record can't be rendered or encoded; says why.
        """
        if isinstance(record, PlainText):
            examples = [self._encode_plain(record)]
        else:
            texts, is_split = self.template.training_texts(record, train_on)
            examples = [self._encode_text(text, record, is_split) for text in texts]
        for example in examples:
            self._check(example.ids, vocab_size)
        return examples

    def encode_prompt(
        self,
        messages: Sequence[Message | dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> list[int]:
        """The ids after which the model is to write the next assistant message."""
        parsed = [
            message if isinstance(message, Message) else parse_message(message, f"messages[{i}]")
            for i, message in enumerate(messages)
        ]
        text = self.template.render(parsed, tools, add_generation_prompt=True)
        rendered = TrainingText(text, (), tuple(self.template.controls(text)), frozenset())
        return self._encode_controls(rendered)[0].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def token_text(self, token_id: int) -> str:
        """One token as the vocabulary spells it."""
        return self._backend.id_to_token(token_id) or ""

    def _encode_plain(self, record: PlainText) -> Example:
        ids = np.array(self._backend.encode(record.text).ids, np.int32)
        weights = np.ones(len(ids), np.float32)
        weights[:1] = 0
        spans = ((1, len(ids)),) if len(ids) > 1 else ()
        return Example(ids, weights, record.file, record.row, spans)

    def _encode_text(self, text: TrainingText, record: Conversation, is_split: bool) -> Example:
        ids, starts, stops, place = self._encode_controls(text)
        weights = np.zeros(len(ids), np.float32)
        spans, boundary_tokens = [], 0
        for span in text.spans:
            start, stop = place(span.start), place(span.stop)
            inside = (starts >= start) & (stops <= stop) & (starts < stop)
            inside[:1] = False
            boundary_tokens += int(np.count_nonzero((starts < start) & (stops > start)))
            where = np.flatnonzero(inside)
            if len(where):
                weights[where] = span.weight
                spans.append((int(where[0]), int(where[-1]) + 1))
        ends = frozenset(self._ids[token] for token in text.end_of_turn)
        return Example(
            ids, weights, record.file, record.row, tuple(spans), boundary_tokens, ends, is_split
        )

    def _encode_controls(
        self, text: TrainingText
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Callable[[int], int]]:
        """Ids; the start and stop of each in the text as encoded; and what maps a place of the
        text to its place there."""
        plain = str.__getitem__(text.text, slice(None))
        reserved = None if plain.isascii() else _RESERVED.search(plain)
        if reserved:
            raise RowError(
                "reserved character", f"has the private-use character U+{ord(reserved[0]):X}"
            )
        spelt, places, place = _spell(plain, text.controls, self._sentinels)
        encoding = self._variant.encode(spelt, add_special_tokens=False)
        variant_ids = np.array(encoding.ids, np.int32)
        ids, is_control = self._real_ids[variant_ids], self._is_sentinel[variant_ids]
        if np.count_nonzero(is_control) != len(places):
            raise RowError("control token lost", f"not all of {text.controls} became tokens")
        forged = self._is_control[ids] & ~is_control
        if forged.any():
            token = self.token_text(int(ids[forged.argmax()]))
            raise RowError("forged control token", f"message text encodes to {token!r}")
        starts, stops = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
        # A control may have taken white space beside it along (rstrip): its own place counts.
        starts[is_control] = places
        stops[is_control] = starts[is_control] + 1
        return ids, starts, stops, place

    def _check(self, ids: np.ndarray, vocab_size: int | None) -> None:
        if vocab_size is not None and len(ids) and ids.max() >= vocab_size:
            token_id = int(ids.max())
            raise RowError(
                "token outside the model",
                f"token {self.token_text(token_id)!r} has id {token_id}; "
                f"the model's vocab_size={vocab_size}",
            )
        if self.bos_id is not None and len(ids) > 1 and (ids[:2] == self.bos_id).all():
            raise RowError("two BOS tokens", f"begins with {self.token_text(self.bos_id)!r} twice")


def _spell(
    text: str, controls: Sequence[Control], sentinels: dict[str, str]
) -> tuple[str, list[int], Callable[[int], int]]:
    """The text with one character for each control, their places, and the map of places.

    text     < s > H i < / s >      controls [0, 3) and [5, 9)
    spelt    * H i *                places 0 3
    map      3 -> 1, 5 -> 3, 9 -> 4; inside a control counts as after it: 7 -> 4
    """
    pieces, places, stops, saved, at = [], [], [], [0], 0
    for control in controls:
        pieces += [text[at : control.start], sentinels[control.token]]
        places.append(control.start - saved[-1])
        stops.append(control.stop)
        saved.append(saved[-1] + control.stop - control.start - 1)
        at = control.stop
    pieces.append(text[at:])

    def place(position: int) -> int:
        index = bisect.bisect_right(stops, position)
        if index < len(stops) and controls[index].start < position:
            position, index = stops[index], index + 1
        return position - saved[index]

    return "".join(pieces), places, place


def _load(directory: str) -> Any:
    from transformers import AutoTokenizer

    if not Path(directory).is_dir():
        raise DataError(f"{directory}: no such tokenizer directory")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # tokenizers raises plain Exception for a broken file
        raise DataError(f"{directory}: the tokenizer can't be read: {error}") from None
    if not tokenizer.is_fast:
        raise DataError(f"{directory}: {type(tokenizer).__name__} has no tokenizer.json form")
    return tokenizer


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.template={path}: can't be read: {error}") from None


def _sentinel_characters(controls: Sequence[str]) -> list[str]:
    if len(controls) > _NUM_SENTINELS:
        raise DataError(f"{len(controls)} added tokens; at most {_NUM_SENTINELS} can be told apart")
    return [chr(_SENTINEL + n) for n in range(len(controls))]


def _variant_of(
    description: dict[str, Any], sentinels: dict[str, str]
) -> tuple[Any, np.ndarray, np.ndarray]:
    """The tokenizer with each control spelt as its sentinel; by its ids: the real id, whether
    the id is a sentinel's."""
    from tokenizers import Tokenizer

    added = description["added_tokens"]
    spelt = [{**t, "content": sentinels.get(t["content"], t["content"])} for t in added]
    stripped = dict.fromkeys(("post_processor", "truncation", "padding"))
    variant = Tokenizer.from_str(json.dumps({**description, **stripped, "added_tokens": spelt}))
    vocab = variant.get_vocab(with_added_tokens=True)
    real_ids = np.arange(max([*vocab.values(), *(t["id"] for t in added)]) + 1, dtype=np.int32)
    is_sentinel = np.zeros(len(real_ids), bool)
    for token, copy in zip(added, spelt, strict=True):
        variant_id = variant.token_to_id(copy["content"])
        is_spelt = token["content"] in sentinels
        found = variant.encode(f"a {copy['content']} a", add_special_tokens=False).ids
        if variant_id is None or (is_spelt and variant_id not in found):
            raise DataError(f"the added token {token['content']!r} can't be told from text")
        real_ids[variant_id] = token["id"]
        is_sentinel[variant_id] = is_spelt
    return variant, real_ids, is_sentinel
