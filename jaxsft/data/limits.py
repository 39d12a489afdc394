"""Bounds on what a chat template may compute: steps, characters and time.

A template comes with a model and is a stranger's program. Every block, call, filter and operator
that could take long or grow is counted here, in plain Python, so that it holds in any process
and any thread.
"""

import functools
import inspect
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

# One rendering may take this many steps, make this many characters in all, and put this many
# into one string; each grows with the size of the conversation. The largest published templates
# need thousands, not millions.
MAX_STEPS, STEPS_PER_CHAR = 2_000_000, 10
MAX_MADE, MADE_PER_CHAR = 100_000_000, 100
MAX_TEXT, TEXT_PER_CHAR = 1_000_000, 20
MAX_SECONDS = 5.0  # of this thread's processor time: a busy machine refuses nothing
MAX_BITS = 10_000  # of an integer
MAX_INDENT = 64
BYTES_PER_ITEM = 8  # of a list, where a character counts as one
_STEPS_BETWEEN_CLOCKS = 256
# No published template calls these; each can make a great deal from little.
_NO_METHODS = frozenset(
    ("translate", "maketrans", "expandtabs", "encode", "to_bytes", "from_bytes")
)
_NO_FILTERS = frozenset(("urlize", "wordwrap", "xmlattr", "pprint", "striptags"))
_TAKES_LISTS = frozenset(
    "attr batch count d default dictsort first groupby items join last length list map max min "
    "random reject rejectattr reverse select selectattr slice sort sum unique".split()
)
_NUMBER = re.compile(r"\d+")


class LimitError(ValueError):
    """A template that takes too long or makes too much."""


class LimitedCodeGenerator(CodeGenerator):
    """Compiles a step into each block, and what could grow into calls of the environment."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("environment.step()")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat(map(environment.text, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            return super().visit_Getitem(node, frame)
        self.write("environment.counted(")
        super().visit_Getitem(node, frame)
        self.write(")")

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.text(")


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of `reference`, a template compiled by transformers, with bounds."""

    code_generator_class = LimitedCodeGenerator
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, reference: Any):
        super().__init__(
            trim_blocks=reference.trim_blocks,
            lstrip_blocks=reference.lstrip_blocks,
            extensions=[type(extension) for extension in reference.extensions.values()],
        )
        self.globals.update(reference.globals)
        self.globals.pop("lipsum", None)
        self.begin(0)
        own = self.own_filters()
        self.filters = {
            name: self._limited(name, own.get(name, function))
            for name, function in reference.filters.items()
        }
        self.concat = self.concat_all

    def own_filters(self) -> dict[str, Callable[..., Any]]:
        return {"join": self._join, "string": self.text, "format": self._format}

    def begin(self, num_chars: int) -> None:
        """A rendering of `num_chars` characters of conversation starts."""
        self._steps = MAX_STEPS + STEPS_PER_CHAR * num_chars
        self._left = MAX_MADE + MADE_PER_CHAR * num_chars
        self._max_text = MAX_TEXT + TEXT_PER_CHAR * num_chars
        self._until = time.thread_time() + MAX_SECONDS

    def step(self) -> None:
        self._steps -= 1
        if self._steps % _STEPS_BETWEEN_CLOCKS:
            return
        if self._steps <= 0:
            raise LimitError("takes too many steps")
        if time.thread_time() > self._until:
            raise LimitError(f"takes longer than {MAX_SECONDS} seconds")

    def reserve(self, size: int, what: str) -> None:
        """Refuses to make `size` characters in one piece."""
        if size > self._max_text or size > self._left:
            raise LimitError(f"makes too much text ({what}: {size} characters)")

    def counted(self, result: Any) -> Any:
        """The result; what it holds is taken from the budget."""
        if isinstance(result, str):
            self._left -= len(result)
        elif isinstance(result, list | tuple):
            self._left -= len(result) * BYTES_PER_ITEM
        if self._left < 0:
            raise LimitError("makes too much text")
        return result

    def text(self, value: Any) -> str:
        """str(value), if that is not too long."""
        if isinstance(value, str):
            return value
        if isinstance(value, Namespace):
            raise LimitError("writes a namespace as text")
        self.reserve(self.measure(value), "a value as text")
        return self.counted(self.text_of(value))

    def text_of(self, value: Any) -> str:
        return str(value)

    def measure(self, value: Any) -> int:
        """The characters of a value written out, about; counting stops where it is too much."""
        size, rest = 0, [value]
        while rest and size <= self._max_text:
            item = rest.pop()
            size += 4
            if isinstance(item, str):
                size += len(item)
            elif isinstance(item, dict):
                rest += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                rest += item
            elif isinstance(item, int):
                size += item.bit_length() // 3
        return size

    def concat_all(self, parts: Iterable[str]) -> str:
        pieces, size = [], 0
        for part in parts:
            pieces.append(part)
            size += len(part)
            if size > self._max_text:
                self.reserve(size, "a text")
        return self.counted(self.join_pieces(pieces))

    def join_pieces(self, pieces: list[str]) -> str:
        return "".join(pieces)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return self.counted(left + right)
        if operator == "%" and isinstance(left, str):
            return self.percent(left, right)
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str | list | tuple) and isinstance(other, int):
                self.reserve(len(one) * other, f"{len(one)} items are repeated {other} times")
        if operator != "%" and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length()
            if bits + right.bit_length() > MAX_BITS:
                raise LimitError(f"computes a number of more than {MAX_BITS} bits")
        return self.counted(super().call_binop(context, operator, left, right))

    def percent(self, template: str, values: Any) -> str:
        given = values if isinstance(values, tuple) else (values,)
        self._check_widths(template)
        # Each conversion writes at most the longest of the values.
        longest = max([self.measure(value) for value in given], default=0)
        self.reserve(len(template) + template.count("%") * longest, "%")
        return self.counted(self.percent_of(template, values))

    def percent_of(self, template: str, values: Any) -> str:
        return template % values

    def _format(self, value: str, *args: Any, **kwargs: Any) -> str:
        return self.percent(self.text(value), kwargs or args)

    def _join(self, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
        if attribute is not None:
            raise LimitError(f"uses join(attribute={attribute!r})")
        return self.join(d, map(self.text, value))

    def join(self, separator: str, parts: Iterable[str]) -> str:
        pieces: list[str] = []
        for part in parts:
            if pieces:
                pieces.append(separator)
            pieces.append(part)
        return self.concat_all(pieces)

    def _check_widths(self, text: str) -> None:
        """No number in a format may ask for a text too long."""
        for number in _NUMBER.findall(text):
            if len(number) > 9 or int(number) > self._max_text:
                raise LimitError(f"formats to a width of {number[:20]}")

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.step()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            self._check_call(function.__name__, (owner, *args), kwargs)
        return self.counted(super().call(context, function, *args, **kwargs))

    def _check_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuses arguments that make a filter or a method of strings write too much."""
        for value in (*args[1:], *kwargs.values()):
            if isinstance(value, int) and value > self._max_text:
                raise LimitError(f"calls {name} with {value}")
        text = args[0]
        if name == "replace" and isinstance(text, str) and len(args) > 2:
            times = text.count(args[1]) if args[1] else len(text) + 1
            self.reserve(len(text) + times * len(args[2]), "replace")
        elif name == "join" and isinstance(text, str) and len(args) > 1:
            parts = args[1] if isinstance(args[1], list | tuple | str) else ()
            self.reserve(self.measure(args[1]) + len(text) * len(parts), "join")
        elif name in ("indent", "tojson"):
            wide = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, int)]
            if any(value > MAX_INDENT for value in wide):
                raise LimitError(f"calls {name} with {max(wide)}")
            if name == "tojson":
                self.reserve(self.measure(text), "tojson")

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, checked before and counted after."""

        @functools.wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.step()
            if name in _NO_FILTERS:
                raise LimitError(f"uses the filter {name!r}")
            first = 1 if hasattr(function, "jinja_pass_arg") else 0
            self._check_call(name, args[first:], kwargs)
            for value in args if name not in _TAKES_LISTS else ():
                if isinstance(value, list | tuple | dict):
                    self.reserve(self.measure(value), name)
            if name == "sum" and any(isinstance(value, list | tuple) for value in kwargs.values()):
                raise LimitError("uses the filter 'sum' on lists")
            return self.counted(function(*args, **kwargs))

        return function if inspect.isclass(function) else limited

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        template, is_map = value.__self__, value.__name__ == "format_map"

        def bounded_format(*args: Any, **kwargs: Any) -> str:
            return self.format_fields(template, *(((), args[0]) if is_map else (args, kwargs)))

        return bounded_format

    def format_fields(self, template: str, args: Any, kwargs: Any) -> str:
        """`template.format(*args, **kwargs)`."""
        formatter, position = SandboxedFormatter(self), 0
        parts: list[str] = []
        for literal, field, spec, conversion in formatter.parse(template):
            parts.append(literal)
            if field is None:
                continue
            if field == "" or field[0] in ".[":
                field, position = f"{position}{field}", position + 1
            if "{" in (spec or ""):
                raise LimitError(f"uses the nested format {spec!r}")
            value, _ = formatter.get_field(field, args, kwargs)
            self._check_widths(spec or "")
            self.reserve(self.measure(value), "format")
            parts.append(self.format_one(value, spec or "", conversion))
        return self.concat_all(parts)

    def format_one(self, value: Any, spec: str, conversion: str | None) -> str:
        converted = SandboxedFormatter(self).convert_field(value, cast(Any, conversion))
        return format(converted, spec)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _NO_METHODS and super().is_safe_attribute(obj, attr, value)
