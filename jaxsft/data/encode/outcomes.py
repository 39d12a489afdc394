"""One record to its outcome: the examples that it gives, or why it gives none."""

import functools
import re
from collections.abc import Iterable

from jaxsft.config import Data
from jaxsft.data.conversation import (
    BadRow,
    Conversation,
    LeftOut,
    PlainText,
    Record,
    RowError,
    Tokenized,
)
from jaxsft.data.encode.account import Drop, Outcome
from jaxsft.data.encode.tokenize import ChatTokenizer, Example
from jaxsft.data.encode.truncate import truncate
from jaxsft.data.render.rendering import TemplateRunsAway


def outcomes_of(
    tokenizer: ChatTokenizer, records: Iterable[Record], data: Data, vocab_size: int | None
) -> list[Outcome]:
    """`outcome_of` each record, in their order."""
    return [outcome_of(tokenizer, record, data, vocab_size) for record in records]


def outcome_of(
    tokenizer: ChatTokenizer, record: Record, data: Data, vocab_size: int | None
) -> Outcome:
    """What becomes of the record: a function of its arguments alone, for any process or machine.

    Args:
        data: train_on, train_parts, sequence_length and overlong are read.
        vocab_size: of the model; an id beyond it makes a bad row.

    Raises:
        TemplateRunsAway: rendering the row took all the time or text that a template may take.
    """
    file, row = record.file, record.row
    if isinstance(record, BadRow):
        return Outcome(file, row, bad=record)
    if isinstance(record, LeftOut):
        return Outcome(file, row, dropped=(Drop(f"left out by {record.reason}", record.reason, 0),))
    try:
        examples = tokenizer.encode(record, data.train_on, vocab_size, data.train_parts)
        fitted = [_fitted(tokenizer, record, e, data, vocab_size) for e in examples]
    except TemplateRunsAway as error:
        raise TemplateRunsAway(
            f"{file}:{row}: {error}, as it would for every row: mend it, or name another in "
            "data.template"
        ) from None
    except RowError as error:
        return Outcome(file, row, bad=BadRow(file, row, error.kind, str(error)))
    kept = tuple(result for result in fitted if isinstance(result, Example))
    dropped = tuple(result for result in fitted if isinstance(result, Drop))
    return Outcome(file, row, kept, dropped, unread=_unread(tokenizer, record))


def _unread(
    tokenizer: ChatTokenizer, record: Conversation | PlainText | Tokenized
) -> tuple[str, ...]:
    """The columns that weren't read, and the fields of messages that the template doesn't name."""
    if not isinstance(record, Conversation):
        return record.unread
    source = tokenizer.template.source
    fields = dict.fromkeys(key for message in record.messages for key in message.fields)
    unnamed = (key for key in fields if not _is_named(key, source))
    return (*record.unread, *(f"messages[].{key}" for key in unnamed))


@functools.lru_cache(maxsize=1024)
def _is_named(key: str, source: str) -> bool:
    """Whether a template's source has the key as a word: "id" is none of "width"."""
    return re.search(rf"(?<!\w){re.escape(key)}(?!\w)", source) is not None


def _fitted(
    tokenizer: ChatTokenizer,
    record: Conversation | PlainText | Tokenized,
    example: Example,
    data: Data,
    vocab_size: int | None,
) -> Example | Drop:
    """The example at a length that fits, by data.overlong, or why it is dropped.

    A text or a tokenized row that is too long has no turns that "truncate" could leave out: that
    makes a bad row, which data.bad_rows may skip. Cut anywhere else it would lose its end.
    """
    num_tokens, limit = len(example.ids), f"sequence_length={data.sequence_length}"
    detail = f"overlong: {num_tokens} tokens > {limit}"
    result = example
    if num_tokens > data.sequence_length:
        if data.overlong == "error":
            raise RowError("overlong", detail)
        if data.overlong == "drop":
            return Drop(f"overlong: more than {limit} tokens", detail, num_tokens)
        if not isinstance(record, Conversation):
            raise RowError(
                "overlong: no turns to leave out",
                f"{detail}, and a row of {type(record).__name__} has no turns for "
                "data.overlong='truncate' to leave out; shorten it or set 'drop'",
            )
        result = truncate(tokenizer, record, example, data, vocab_size)
    if isinstance(result, Example) and not result.weights.any():
        return Drop("no supervised token", "no supervised token", num_tokens)
    return result
