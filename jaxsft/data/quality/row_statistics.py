"""Facts about the rows that are trained: duplicates, lengths, turns, and hints at what looks odd.

Facts are gathered a shard at a time, in any process, and merged in order: the result depends on
neither the size of shards nor the hash seed. A row takes about 100 bytes.

N: rows; K: places of a signature.
"""

import dataclasses
import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.data.conversation import BadRow, Conversation, LeftOut, Message, Record, Tokenized
from jaxsft.data.encode.account import Outcome
from jaxsft.data.quality import hints, near_duplicates
from jaxsft.files import places
from jaxsft.files.caches import unreadable
from jaxsft.terminal.redact import redacted_values

HINT_EXAMPLES = 5  # kept of each kind
SAMPLED_ANSWERS = 16_384  # among which repeated ones are counted
_MOST_TURNS = 2**16 - 1  # counted of a row
_PARTS_AT_ONCE = 32  # shards' facts held before they are merged
_SPACE = b" \t\n\r\v\f"
_COLUMNS = {
    "file": np.uint32,
    "row": np.uint32,
    "dialogue": np.uint64,
    "prompt": np.uint64,
    "turns": np.uint16,
    "tokens": np.uint32,
    "supervised": np.uint32,
    "answered": np.uint16,
    "hinted": np.uint32,
}
_ARRAYS = (*_COLUMNS, "signature", "answer_keys", "answer_hashes")
_ARRAYS_FILE, _REST_FILE = "facts.npz", "facts.json"
_CONTROL_TEXT = "role or control text in a message"  # the hint that says that it stays text


@dataclasses.dataclass(frozen=True)
class ShownRow:
    file: str
    row: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.row}"


@dataclasses.dataclass(frozen=True)
class Hint:
    rows: int
    examples: tuple[ShownRow, ...]  # the first ones


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """Facts of the rows that give an example, in order.

    Attributes:
        files: those that `file` is an index of.
        dialogue: hash of all messages without white space.
        prompt: hash of what stands before the last answer; 0 where there is none.
        turns: messages of the assistant; 0 for plain text and tokens.
        tokens: of all examples of the row.
        answered: answers that have words, among which `answers` are a sample.
        hinted: a bit for each kind of hint that the row has, in the order of hints.KINDS.
        answers: a sample of the assistant's messages: those with the smallest keys, by key.
    """

    files: tuple[str, ...]
    file: np.ndarray  # uint32 [N]
    row: np.ndarray  # uint32 [N]
    dialogue: np.ndarray  # uint64 [N]
    prompt: np.ndarray  # uint64 [N]
    turns: np.ndarray  # uint16 [N]
    tokens: np.ndarray  # uint32 [N]
    supervised: np.ndarray  # uint32 [N]
    answered: np.ndarray  # uint16 [N]
    hinted: np.ndarray  # uint32 [N]
    signature: np.ndarray  # uint8 [N, K]
    answer_keys: np.ndarray  # uint64 [A]
    answer_hashes: np.ndarray  # uint64 [A]
    answers: tuple[ShownRow, ...]  # [A]
    hints: dict[str, Hint]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def num_answers(self) -> int:
        return int(self.answered.sum(dtype=np.int64))

    def where(self, index: int) -> str:
        return f"{self.files[self.file[index]]}:{self.row[index]}"


class Gathering:
    """Facts of many shards in order, merged now and then so that they stay small.

    Parts are merged with parts of about their size, so that no row is copied often.
    """

    def __init__(self) -> None:
        self._levels: list[list[Facts]] = []  # of rising size, the later rows at the lower levels

    def add(self, part: Facts) -> None:
        for level in self._levels:
            level.append(part)
            if len(level) < _PARTS_AT_ONCE:
                return
            part = merge(level)
            level.clear()
        self._levels.append([part])

    def merged(self) -> Facts:
        whole = merge([part for level in reversed(self._levels) for part in level])
        self._levels = [[whole]]
        return whole


def shard_facts(records: Sequence[Record], outcomes: Sequence[Outcome]) -> Facts:
    """Facts of those of the records that give an example; outcomes[i] is what became of
    records[i]."""
    columns: dict[str, list[int]] = {name: [] for name in _COLUMNS}
    texts: list[str | np.ndarray] = []
    files: dict[str, int] = {}
    answers: list[tuple[int, int, ShownRow]] = []
    found: list[tuple[str, ShownRow]] = []
    for record, outcome in zip(records, outcomes, strict=True):
        if not outcome.kept or isinstance(record, BadRow | LeftOut):
            continue
        dialogue, prompt = _hashes(record)
        facts = {
            "file": files.setdefault(record.file, len(files)),
            "row": record.row,
            "dialogue": dialogue,
            "prompt": prompt,
            "turns": 0,
            "answered": 0,
            "tokens": sum(len(example.ids) for example in outcome.kept),
            "supervised": sum(int(np.count_nonzero(e.weights)) for e in outcome.kept),
        }
        if isinstance(record, Conversation):
            said = [message for message in record.messages if message.role == "assistant"]
            facts["turns"] = min(len(said), _MOST_TURNS)
            own = _answers(record, dialogue, said)
            facts["answered"] = min(len(own), _MOST_TURNS)
            answers += own
        spelt = any(example.text_controls for example in outcome.kept)
        hinted: dict[str, ShownRow] = {}
        for kind, text in _hints(record):
            if not (spelt and kind == _CONTROL_TEXT):  # there they are no text but tokens
                hinted.setdefault(kind, ShownRow(record.file, record.row, text))
        facts["hinted"] = sum(1 << hints.KINDS.index(kind) for kind in hinted)
        found += hinted.items()
        texts.append(words_of(record))
        for name, value in facts.items():
            columns[name].append(value)
    arrays = {name: np.array(columns[name], dtype) for name, dtype in _COLUMNS.items()}
    keys, hashes, examples = zip(*answers, strict=True) if answers else ((), (), ())
    part = Facts(
        files=tuple(files),
        **arrays,
        signature=near_duplicates.signatures(texts),
        answer_keys=np.array(keys, np.uint64),
        answer_hashes=np.array(hashes, np.uint64),
        answers=examples,
        hints=_counted(found),
    )
    return _sampled(part)


def _hashes(record: Conversation | Any) -> tuple[int, int]:
    """64-bit hashes of the dialogue and of what stands before its last answer."""
    digest = hashlib.blake2b(digest_size=8)
    if not isinstance(record, Conversation):
        is_ids = isinstance(record, Tokenized)
        raw = record.ids.astype("<i4").tobytes() if is_ids else _without_space(record.text)
        digest.update(raw)
        return int.from_bytes(digest.digest(), "little"), 0
    last = max(i for i, message in enumerate(record.messages) if message.role == "assistant")
    prompt = 0
    for index, message in enumerate(record.messages):
        if index == last and index:
            prompt = int.from_bytes(digest.copy().digest(), "little")
        digest.update(message_bytes(message))
    return int.from_bytes(digest.digest(), "little"), prompt


def message_bytes(message: Message) -> bytes:
    """What makes two messages the same one, without white space."""
    parts = [message.role.encode(), _without_space(message.content)]
    if message.reasoning:
        parts.append(b"\1" + _without_space(message.reasoning))
    if message.tool_calls:
        parts.append(b"\2" + json.dumps(message.tool_calls, sort_keys=True).encode())
    return b"\0".join(parts) + b"\3"


def _without_space(text: str) -> bytes:
    return text.encode("utf-8", "replace").translate(None, _SPACE)


def _answers(
    record: Conversation, dialogue: int, said: Sequence[Message]
) -> list[tuple[int, int, ShownRow]]:
    """(key of the sample, hash, example) of each answer that has words."""
    result = []
    for turn, message in enumerate(said):
        text = message.content.strip()
        if text:
            key = (dialogue + turn * 0x9E3779B97F4A7C15) % 2**64
            code = len(text) << 32 | zlib.crc32(text.encode("utf-8", "replace"))
            example = ShownRow(record.file, record.row, hints.excerpt(text))
            result.append((key, code, example))
    return result


def _hints(record: Conversation | Any) -> list[tuple[str, str]]:
    if isinstance(record, Conversation):
        return list(hints.of_conversation(record))
    return [] if isinstance(record, Tokenized) else list(hints.of_text(record.text))


def words_of(record: Conversation | Any) -> str | np.ndarray:
    """What makes two rows alike: not system prompt and tools, which all rows may share."""
    if isinstance(record, Conversation):
        spoken = (m.content for m in record.messages if m.role in ("user", "assistant"))
        return "\n".join(spoken)
    return record.ids if isinstance(record, Tokenized) else record.text


def _counted(found: Sequence[tuple[str, ShownRow]]) -> dict[str, Hint]:
    examples: dict[str, list[ShownRow]] = {}
    for kind, example in found:
        examples.setdefault(kind, []).append(example)
    return {kind: Hint(len(all_), tuple(all_[:HINT_EXAMPLES])) for kind, all_ in examples.items()}


def _sampled(facts: Facts) -> Facts:
    """With the answers of the smallest keys only: the same sample however rows were grouped."""
    order = np.argsort(facts.answer_keys, kind="stable")[:SAMPLED_ANSWERS]
    return dataclasses.replace(
        facts,
        answer_keys=facts.answer_keys[order],
        answer_hashes=facts.answer_hashes[order],
        answers=tuple(facts.answers[index] for index in order.tolist()),
    )


def merge(parts: Sequence[Facts]) -> Facts:
    """The facts of all rows of the parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return shard_facts([], [])
    files: dict[str, int] = {}
    renumbered = []
    for part in parts:
        numbers = [files.setdefault(name, len(files)) for name in part.files]
        renumbered.append(np.array(numbers, np.uint32)[part.file])
    arrays = {n: np.concatenate([getattr(part, n) for part in parts]) for n in _ARRAYS}
    arrays["file"] = np.concatenate(renumbered)
    merged = Facts(
        files=tuple(files),
        **arrays,
        answers=tuple(example for part in parts for example in part.answers),
        hints=_merged_hints([part.hints for part in parts]),
    )
    return _sampled(merged)


def taken(facts: Facts, rows: np.ndarray) -> Facts:
    """The facts of these rows alone, which rise; the answers among the sample that are theirs."""
    arrays = {name: getattr(facts, name)[rows] for name in (*_COLUMNS, "signature")}
    theirs = {(facts.files[f], r) for f, r in zip(arrays["file"], arrays["row"], strict=True)}
    sampled = [i for i, one in enumerate(facts.answers) if (one.file, one.row) in theirs]
    found = {}
    for kind, hint in facts.hints.items():
        count = int(np.count_nonzero(arrays["hinted"] >> np.uint32(hints.KINDS.index(kind)) & 1))
        if count:
            shown = tuple(one for one in hint.examples if (one.file, one.row) in theirs)
            found[kind] = Hint(count, shown)
    return Facts(
        files=facts.files,
        **arrays,
        answer_keys=facts.answer_keys[sampled],
        answer_hashes=facts.answer_hashes[sampled],
        answers=tuple(facts.answers[i] for i in sampled),
        hints=found,
    )


def _merged_hints(parts: Sequence[dict[str, Hint]]) -> dict[str, Hint]:
    merged: dict[str, Hint] = {}
    for part in parts:
        for kind, hint in part.items():
            before = merged.get(kind, Hint(0, ()))
            examples = (before.examples + hint.examples)[:HINT_EXAMPLES]
            merged[kind] = Hint(before.rows + hint.rows, examples)
    return merged


def save(directory: Path, facts: Facts) -> None:
    """Writes facts.npz and facts.json: the same bytes for the same facts."""
    columns = {f"{name}s": getattr(facts, name) for name in _ARRAYS}  # savez has its own `file`
    with places.using(str(directory / _ARRAYS_FILE)):
        np.savez(directory / _ARRAYS_FILE, **columns)
    rest = {
        "files": facts.files,
        "answers": [dataclasses.astuple(example) for example in facts.answers],
        "hints": {
            kind: {"rows": hint.rows, "examples": [dataclasses.astuple(e) for e in hint.examples]}
            for kind, hint in sorted(facts.hints.items())
        },
    }
    text = json.dumps(redacted_values(rest), ensure_ascii=False) + "\n"
    with places.using(str(directory / _REST_FILE)):
        (directory / _REST_FILE).write_text(text, encoding="utf-8", errors="replace")


def load(directory: Path) -> Facts:
    """The facts that `save` wrote.

    Raises:
        DataError: a file is missing or broken.
    """
    try:
        # Opened here, since np.load leaves a broken file open.
        with open(directory / _ARRAYS_FILE, "rb") as file, np.load(file) as arrays:
            columns = {name: arrays[f"{name}s"] for name in _ARRAYS}
        rest = json.loads((directory / _REST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(directory / _ARRAYS_FILE, error) from None
    return Facts(
        files=tuple(rest["files"]),
        **columns,
        answers=tuple(ShownRow(*example) for example in rest["answers"]),
        hints={
            kind: Hint(hint["rows"], tuple(ShownRow(*e) for e in hint["examples"]))
            for kind, hint in rest["hints"].items()
        },
    )
