"""The training examples as one HTML page that needs nothing but itself.

The rows are JSON inside the page, where a script draws those in view: the data is never markup.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, TextIO

import jinja2

from jaxsft.data.encode.account import Outcome
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.report.inspect import InspectedRows, pieces, why_dropped
from jaxsft.files import records
from jaxsft.terminal.redact import redacted

DEFAULT_ROWS = 1000
_TEMPLATE = Path(__file__).with_name("inspect.html.jinja")
# Characters that could end a script element, or a line in JavaScript, are spelt as JSON allows.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def write_page(rows: InspectedRows, tokenizer: ChatTokenizer, output: TextIO, title: str) -> None:
    """Writes the page of these rows, which says so if their limit left some out."""
    shown = [item for name, outcome in rows for item in _items(name, outcome, tokenizer)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        title=title, is_cut=rows.is_cut, data=script_json(records.to_json(shown))
    )
    output.write(page + "\n")


@dataclasses.dataclass(frozen=True)
class PageItem:
    """What the page's script draws as one: an example, or a row without one."""

    source: str
    file: str
    row: int
    kind: str | None = records.where_known()  # of what drops a row
    dropped: str | None = records.where_known()  # why
    length: int | None = records.where_known()  # in tokens
    supervised: int | None = records.where_known()  # tokens
    # (text, ids, weight) of each piece, of one token or of several that share a character.
    tokens: list[tuple[str, list[int], float]] | None = records.where_known()


def _items(name: str, outcome: Outcome, tokenizer: ChatTokenizer) -> list[PageItem]:
    """One item for each example of the row; for a row without one, why."""
    place = name, redacted(outcome.file), outcome.row
    if outcome.reason is not None:
        return [PageItem(*place, kind=outcome.reason, dropped=why_dropped(outcome))]
    items = []
    for example in outcome.kept:
        ids, weights = example.ids.tolist(), example.weights.tolist()
        parts = list(pieces(ids, tokenizer))
        stops = [start for _, start in parts[1:]] + [len(ids)]
        tokens = [
            (text, ids[start:stop], weights[start])
            for (text, start), stop in zip(parts, stops, strict=True)
        ]
        supervised = sum(weight != 0 for weight in weights)
        items.append(PageItem(*place, length=len(ids), supervised=supervised, tokens=tokens))
    return items


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element whatever text it holds."""
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return compact.translate(_ESCAPES)
