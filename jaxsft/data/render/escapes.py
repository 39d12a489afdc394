"""JSON and HTML of traced values: each character knows what it stands for, escaped or not."""

import json
import re
from collections.abc import Iterator
from typing import Any

import markupsafe

from jaxsft.data.render.provenance import Stretch, Traced, escaped_runs, to_text

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
# A character beyond the basic plane is written as two escapes.
_JSON_ESCAPE = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u.{4}|\\.")
_HTML_ESCAPE = re.compile("&(?:amp|lt|gt|#34|#39);")


def traced_json(value: Any, **options: Any) -> Traced:
    """`json.dumps(value, **options)`: the k-th string of the text is the k-th string of value."""
    text = json.dumps(value, **options)
    leaves = _json_strings(value, options.get("sort_keys", False))
    runs: list[Stretch] = []
    for match in _JSON_STRING.finditer(text):
        runs += escaped_runs(text, match.start() + 1, match.end() - 1, next(leaves), _JSON_ESCAPE)
    return Traced(text, tuple(runs))


def _json_strings(value: Any, sort_keys: bool) -> Iterator[Any]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value) if sort_keys else value:
            yield key
            yield from _json_strings(value[key], sort_keys)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _json_strings(item, sort_keys)


def to_html(value: Any) -> Traced:
    """`markupsafe.escape(value)`."""
    text = to_text(value)
    html = str(markupsafe.escape(str.__getitem__(text, slice(None))))
    return Traced(html, escaped_runs(html, 0, len(html), text, _HTML_ESCAPE))
