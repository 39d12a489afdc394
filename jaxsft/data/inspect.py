"""What is trained, made visible: tokens with their weights, and the account of a prepared cache."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsft.config import Data
from jaxsft.data import prepare
from jaxsft.data.account import Outcome
from jaxsft.data.tokenize import ChatTokenizer, Example

_SUPERVISED = ("bold green underline", "bold cyan underline")  # neighbours differ: boundaries show
_CONTEXT = ("default", "bright_black")
_MARKS = {(False, True): "[[", (True, False): "]]"}  # by whether two neighbours are supervised


def training_outcomes(
    data: Data, tokenizer: ChatTokenizer, vocab_size: int | None, limit: int | None = None
) -> Iterator[Outcome]:
    """What becomes of each row of data.train, up to `limit` rows; defects don't stop it."""
    shards = prepare.outcomes(data.train, data, tokenizer, vocab_size)
    rows = itertools.chain.from_iterable(shard for _, shard in shards)
    return itertools.islice(rows, limit)


def json_rows(outcome: Outcome, tokenizer: ChatTokenizer) -> Iterator[dict[str, Any]]:
    """One object for each example of the row; for a row without one, why."""
    if outcome.reason is not None:
        yield {"file": outcome.file, "row": outcome.row, "dropped": why_dropped(outcome)}
    for example in outcome.kept:
        yield {
            "file": example.file,
            "row": example.row,
            "ids": example.ids.tolist(),
            "weights": example.weights.tolist(),
            "supervised": [tokenizer.decode(example.ids[a:b].tolist()) for a, b in example.spans],
        }


def why_dropped(outcome: Outcome) -> str:
    return outcome.bad.detail if outcome.bad else outcome.dropped[0].detail


def write_jsonl(outcomes: Iterable[Outcome], tokenizer: ChatTokenizer, output: TextIO) -> None:
    for outcome in outcomes:
        for row in json_rows(outcome, tokenizer):
            output.write(json.dumps(row, ensure_ascii=False) + "\n")


def show(outcomes: Iterable[Outcome], tokenizer: ChatTokenizer, console: Console) -> None:
    """Prints each row's tokens: what is trained is coloured and underlined, or in brackets."""
    console.print(_legend(console.is_terminal))
    num_rows = num_examples = num_tokens = num_supervised = 0
    for outcome in outcomes:
        num_rows += 1
        where = f"{outcome.file}:{outcome.row}"
        if outcome.reason is not None:
            console.print(Text(f"{where}: dropped: {why_dropped(outcome)}\n", style="red"))
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
            " are trained; ",
            ("context", _CONTEXT[0]),
            (" tokens", _CONTEXT[1]),
            " are not; shades alternate by token\n",
        )
    return Text("[[supervised]] tokens are trained, the others are not; | stands between tokens\n")


def example_text(example: Example, tokenizer: ChatTokenizer, is_terminal: bool) -> Text:
    """The tokens of one example with their boundaries and which of them are supervised."""
    text = Text()
    was_supervised = False
    for place, (piece, start) in enumerate(_pieces(example.ids.tolist(), tokenizer)):
        is_supervised = bool(example.weights[start] > 0)
        change = (was_supervised, is_supervised)
        if not is_terminal:
            text.append(
                {(False, True): "[[", (True, False): "]]"}.get(change, "|") if place else ""
            )
        styles = _SUPERVISED if is_supervised else _CONTEXT
        text.append(piece.replace("\n", "\u21b5\n"), style=styles[place % 2])
        was_supervised = is_supervised
    return text.append("]]\n" if was_supervised and not is_terminal else "\n")


def _pieces(ids: Sequence[int], tokenizer: ChatTokenizer) -> Iterator[tuple[str, int]]:
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


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report of a cache as a table, one column for each source and one for all."""
    table = Table(title="Prepared data", title_justify="left")
    table.add_column("")
    columns = {**report["sources"], "all": report}
    for name in columns:
        table.add_column(name, justify="right")
    for key in ("rows_in", "rows_out", "examples", "split_conversations", "boundary_tokens"):
        table.add_row(key, *(f"{column[key]:,}" for column in columns.values()))
    for key in report["tokens"]:
        table.add_row(f"tokens {key}", *(f"{c['tokens'][key]:,}" for c in columns.values()))
    for key, unit in (("dropped", "rows"), ("dropped_examples", "examples")):
        for reason in report[key]:
            counts = [column[key].get(reason, 0) for column in columns.values()]
            table.add_row(f"{unit} dropped: {reason}", *(f"{count:,}" for count in counts))
    console.print(table)
    for row in report["bad_rows"]:
        console.print(Text(row), style="red", soft_wrap=True)
