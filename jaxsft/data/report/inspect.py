"""What is trained, made visible: tokens with their weights, in a terminal or as JSON lines."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TextIO

from rich.console import Console
from rich.text import Text

from jaxsft.config import Data, Source
from jaxsft.data.cache.divided import HELD_OUT, HOLDOUT, RowKey
from jaxsft.data.cache.prepare import source_names
from jaxsft.data.encode.account import Drop, Outcome
from jaxsft.data.encode.outcomes import outcome_of
from jaxsft.data.encode.tokenize import ChatTokenizer, Example
from jaxsft.data.read.sources import read_source
from jaxsft.errors import ConfigError
from jaxsft.files import records
from jaxsft.terminal.printable import printable
from jaxsft.terminal.redact import redacted

_SUPERVISED = ("bold green underline", "bold cyan underline")  # neighbours differ: boundaries show
_CONTEXT = ("default", "bright_black")


class InspectedRows:
    """(name of the source, outcome) of each row; defects don't stop it.

    Args:
        sources: of the run's training or evaluation data.
        name: of the one source to read; None: all.
        limit: rows in all, shared evenly by the sources.
        apart: why rows are not trained that could be, by `divided.rows_apart`.
        held_out_of: the training sources, whose rows that are held out come first.

    Raises:
        ConfigError: no source has this name.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        data: Data,
        tokenizer: ChatTokenizer,
        vocab_size: int | None = None,
        name: str | None = None,
        limit: int | None = None,
        apart: Mapping[RowKey, str] = MappingProxyType({}),
        held_out_of: Sequence[Source] = (),
    ):
        own = [(n, s, False) for n, s in zip(source_names(sources), sources, strict=True)]
        named = [*((HOLDOUT, source, True) for source in held_out_of), *own]
        names = list(dict.fromkeys(name for name, *_ in named))
        if name is not None and name not in names:
            raise ConfigError(f"--source={name}: there is no such source, only {names}")
        self._sources = [
            (number - len(held_out_of) * (not held), one, source, held)
            for number, (one, source, held) in enumerate(named)
            if name in (None, one)
        ]
        self._apart = apart
        self._data = data
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._limit = limit
        self.is_cut = False  # known at the end: the limit left rows out

    def __iter__(self) -> Iterator[tuple[str, Outcome]]:
        left = self._limit
        for index, (number, name, source, held) in enumerate(self._sources):
            share = None if left is None else -(-left // (len(self._sources) - index))
            num_rows = 0
            for record in read_source(source):
                why = self._apart.get((number, record.file, record.row))
                if held and why != HELD_OUT:
                    continue
                if num_rows == share:
                    self.is_cut = True
                    break
                num_rows += 1
                found = outcome_of(self._tokenizer, record, self._data, self._vocab_size)
                yield name, found if why is None or held else _left_out(found, why)
            left = None if left is None else left - num_rows


def _left_out(outcome: Outcome, why: str) -> Outcome:
    """The outcome of a row that isn't trained though it could be."""
    drops = [Drop(why, why, len(example.ids)) for example in outcome.kept]
    return dataclasses.replace(outcome, kept=(), dropped=(*drops, *outcome.dropped))


@dataclasses.dataclass(frozen=True)
class JsonRow:
    """An example, or a row without one."""

    file: str
    row: int
    dropped: str | None = records.where_known()  # why
    ids: list[int] | None = records.where_known()
    weights: list[float] | None = records.where_known()  # of each id
    supervised: list[str] | None = records.where_known()  # texts that are trained


def json_rows(outcome: Outcome, tokenizer: ChatTokenizer) -> Iterator[JsonRow]:
    """One for each example of the row; for a row without one, why."""
    file = redacted(outcome.file)
    if outcome.reason is not None:
        yield JsonRow(file, outcome.row, dropped=why_dropped(outcome))
    for example in outcome.kept:
        yield JsonRow(
            file,
            example.row,
            ids=example.ids.tolist(),
            weights=example.weights.tolist(),
            supervised=[tokenizer.decode(example.ids[a:b].tolist()) for a, b in example.spans],
        )


def why_dropped(outcome: Outcome) -> str:
    """The sentence that says why a row gives no example; it must give none."""
    return outcome.bad.detail if outcome.bad else outcome.dropped[0].detail


def write_jsonl(rows: InspectedRows, tokenizer: ChatTokenizer, output: TextIO) -> None:
    """Writes `json_rows` of each row, an object a line."""
    for _, outcome in rows:
        for row in json_rows(outcome, tokenizer):
            output.write(json.dumps(records.to_json(row), ensure_ascii=False) + "\n")


def show(rows: InspectedRows, tokenizer: ChatTokenizer, console: Console) -> None:
    """Prints each row's tokens: what is trained is coloured and underlined, or in brackets."""
    console.print(_legend(console.is_terminal))
    num_rows = num_examples = num_tokens = num_supervised = 0
    for name, outcome in rows:
        num_rows += 1
        where = printable(f"{name}, {redacted(outcome.file)}:{outcome.row}")
        if outcome.reason is not None:
            why = printable(why_dropped(outcome))
            console.print(Text(f"{where}: dropped: {why}\n", style="red"))
        for example in outcome.kept:
            supervised = int((example.weights > 0).sum())
            num_examples, num_tokens = num_examples + 1, num_tokens + len(example.ids)
            num_supervised += supervised
            counts = f"{len(example.ids)} tokens, {supervised} supervised"
            console.print(Text(f"{where}: {counts}", style="bold"))
            console.print(example_text(example, tokenizer, console.is_terminal))
    console.print(
        Text(
            f"{num_rows} rows, {num_examples} examples, {num_tokens} tokens, "
            f"{num_supervised} supervised",
            style="bold",
        )
    )


def _legend(is_terminal: bool) -> Text:
    if is_terminal:
        return Text.assemble(
            ("supervised", _SUPERVISED[0]),
            (" tokens", _SUPERVISED[1]),
            " are trained, with weight 1 or the one written before them; ",
            ("context", _CONTEXT[0]),
            (" tokens", _CONTEXT[1]),
            " are not; shades alternate by token\n",
        )
    return Text(
        "[[supervised]] tokens are trained, [[\u00d70.5|some]] with another weight than 1; the"
        " others are not; | stands between tokens\n"
    )


def example_text(example: Example, tokenizer: ChatTokenizer, is_terminal: bool) -> Text:
    """The tokens of one example with their boundaries and which of them are supervised.

    weights  0  0  1  0.5   off a terminal: q|\u21b5[[an]][[\u00d70.5|swer]]
    """
    text = Text()
    before = 0.0
    for place, (piece, start) in enumerate(pieces(example.ids.tolist(), tokenizer)):
        weight = float(example.weights[start])
        if weight != before:
            closed = "]]" if before and not is_terminal else ""
            text.append(closed + _opening(weight, is_terminal), style="italic")
        elif place and not is_terminal:
            text.append("|")
        styles = _SUPERVISED if weight else _CONTEXT
        text.append(printable(piece).replace("\n", "\u21b5\n"), style=styles[place % 2])
        before = weight
    return text.append("]]\n" if before and not is_terminal else "\n")


def _opening(weight: float, is_terminal: bool) -> str:
    """What stands before the first of several tokens of one weight."""
    said = "" if weight in (0, 1) else f"\u00d7{weight:g}"
    if is_terminal or not weight:
        return said and f"({said})"
    return f"[[{said}|" if said else "[["


def pieces(ids: Sequence[int], tokenizer: ChatTokenizer) -> Iterator[tuple[str, int]]:
    """(text, index of the first token); tokens that share a character come together."""
    start, before = 0, []
    for stop in range(1, len(ids) + 1):
        # Decoded after its neighbour, since some decoders strip the first space.
        head = tokenizer.decode(before)
        piece = tokenizer.decode([*before, *ids[start:stop]])[len(head) :]
        if piece.endswith("\ufffd") and stop < len(ids) and stop - start < 8:
            continue
        yield piece, start
        start, before = stop, list(ids[start:stop])
