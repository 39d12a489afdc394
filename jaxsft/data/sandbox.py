"""transformers' Jinja sandbox, with every string operation keeping the record of provenance."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import do_title
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from jaxsft.data.provenance import (
    MAX_CHARS,
    ProvenanceError,
    Traced,
    concat,
    percent_format,
    to_json,
    traced,
)


class _TracingCodeGenerator(CodeGenerator):
    """Compiles `a ~ b` to the environment's concat, which keeps the record."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


class _TracingFormatter(SandboxedFormatter):
    """`'{} {name}'.format(...)` as a traced string; a traced value takes no format spec."""

    def trace_format(self, template: str, args: Any, kwargs: Any) -> Traced:
        if isinstance(template, Traced) and template.runs:
            raise ProvenanceError("a message used as a format string")
        parts: list[str] = []
        position = 0
        for literal, field, spec, conversion in self.parse(template):
            parts.append(literal)
            if field is None:
                continue
            if field == "" or field[0] in ".[":
                field, position = f"{position}{field}", position + 1
            value, _ = self.get_field(field, args, kwargs)
            value = self.convert_field(value, cast(Any, conversion))
            if "{" in (spec or ""):
                raise ProvenanceError(f"the nested format {spec!r}")
            parts.append(format(value, spec or ""))
        return concat(parts)


class TracingEnvironment(ImmutableSandboxedEnvironment):
    """The environment of `reference`, a template compiled by transformers, with tracing."""

    code_generator_class = _TracingCodeGenerator
    concat = staticmethod(concat)
    intercepted_binops = frozenset("%*")

    def __init__(self, reference: Any):
        super().__init__(
            trim_blocks=reference.trim_blocks,
            lstrip_blocks=reference.lstrip_blocks,
            extensions=[type(extension) for extension in reference.extensions.values()],
        )
        self.globals.update(reference.globals)
        own = {"join": _join, "replace": _replace, "format": _format, "tojson": _tojson}
        own |= {"indent": _indent, "title": _title}
        self.filters = {
            name: own.get(name) or _checked(name, function)
            for name, function in reference.filters.items()
        }

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            return percent_format(left, right)
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and len(text) * times > MAX_CHARS:
                    raise ProvenanceError(f"{len(text)} items are repeated {times} times")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return super().getattr(Traced(obj) if type(obj) is str else obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(Traced(obj) if type(obj) is str else obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        template, is_map = value.__self__, value.__name__ == "format_map"

        def trace_format(*args: Any, **kwargs: Any) -> Traced:
            if is_map:
                args, kwargs = (), args[0]
            return _TracingFormatter(self).trace_format(template, args, kwargs)

        return trace_format


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter as it is, refusing a result that is a plain string made from a traced one."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, str) and type(result) is not Traced and len(result):
            given = [*args, *kwargs.values()]
            if any(type(value) is Traced and value.runs for value in given):
                raise ProvenanceError(f"the filter {name!r} would lose what a message wrote")
        return result

    return function if inspect.isclass(function) else checked


def _join(value: Iterable[Any], d: str = "", attribute: str | None = None) -> Traced:
    if attribute is not None:
        raise ProvenanceError(f"join(attribute={attribute!r})")
    return traced(d).join(map(str, value))


def _replace(s: str, old: str, new: str, count: int | None = None) -> Traced:
    return traced(str(s)).replace(str(old), str(new), -1 if count is None else count)


def _format(value: str, *args: Any, **kwargs: Any) -> Traced:
    return percent_format(str(value), kwargs or args)


def _title(s: str) -> Traced:
    text = traced(str(s))
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
    return to_json(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Traced:
    """Each line but the first (unless `first`), and empty ones if `blank`, after `width` spaces."""
    prefix = traced(width if isinstance(width, str) else " " * width)
    lines = traced(s + "\n").splitlines()
    padded = [prefix + line if line or blank else line for line in lines[1:]]
    head = prefix + lines[0] if first else lines[0]
    return Traced("\n").join([head, *padded])
