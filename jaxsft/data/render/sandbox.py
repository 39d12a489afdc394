"""A template's environment in which every string operation keeps the record of provenance."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from jinja2.filters import do_title

from jaxsft.data.render.escapes import to_html, traced_json
from jaxsft.data.render.limits import LimitedEnvironment
from jaxsft.data.render.provenance import (
    ProvenanceError,
    Traced,
    concat,
    has_trace,
    percent_format,
    to_text,
    traced,
)


class TracingEnvironment(LimitedEnvironment):
    """The environment of `reference`, a template compiled by transformers, with tracing."""

    def __init__(self, reference: Any):
        super().__init__(reference)
        self.filters = {name: _checked(name, function) for name, function in self.filters.items()}

    def own_filters(self) -> dict[str, Callable[..., Any]]:
        own = {"replace": _replace, "tojson": _tojson, "indent": _indent, "title": _title}
        own |= dict.fromkeys(("e", "escape", "forceescape"), to_html)
        return {**super().own_filters(), **own, "safe": traced}

    def text_of(self, value: Any) -> Traced:
        return to_text(value)

    def join_pieces(self, pieces: list[str]) -> Traced:
        return concat(pieces)

    def percent_of(self, template: str, values: Any) -> Traced:
        return percent_format(template, values)

    def format_fields(self, template: str, args: Any, kwargs: Any) -> str:
        if has_trace(template):
            raise ProvenanceError("a message used as a format string")
        return super().format_fields(template, args, kwargs)

    def format_one(self, value: Any, spec: str, conversion: str | None) -> str:
        if conversion not in (None, "s") and has_trace(value):
            raise ProvenanceError(f"the conversion !{conversion}")
        return format(to_text(value) if has_trace(value) else value, spec)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return super().getattr(Traced(obj) if type(obj) is str else obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(Traced(obj) if type(obj) is str else obj, argument)


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter as it is, refusing a result that is a plain string made from a traced one."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, str) and type(result) is not Traced and len(result):
            if any(has_trace(value) for value in (*args, *kwargs.values())):
                raise ProvenanceError(f"the filter {name!r} would lose what a message wrote")
        return result

    return function if inspect.isclass(function) else checked


def _replace(s: str, old: str, new: str, count: int | None = None) -> Traced:
    return to_text(s).replace(str(old), str(new), -1 if count is None else count)


def _title(s: str) -> Traced:
    text = to_text(s)
    plain = do_title(str.__getitem__(text, slice(None)))
    if text.runs and len(plain) != len(text):
        raise ProvenanceError("the filter 'title' changes the length")
    return Traced(plain, text.runs)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> Traced:
    return traced_json(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Traced:
    """Each line but the first (unless `first`), and empty ones if `blank`, after `width` spaces."""
    prefix = traced(width if isinstance(width, str) else " " * width)
    lines = traced(s + "\n").splitlines()
    padded = [prefix + line if line or blank else line for line in lines[1:]]
    head = prefix + lines[0] if first else lines[0]
    return Traced("\n").join([head, *padded])
