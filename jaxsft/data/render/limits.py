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

from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from jaxsft.data.render.limited_code import LimitedCodeGenerator
from jaxsft.data.render.prefixes import Turns, TurnsContext, Watch
from jaxsft.data.render.provenance import CONVERSION

# One rendering may take this many steps, make this many characters in all, and put this many
# into one string; each grows with the size of the conversation. The largest published templates
# need thousands, not millions.
MAX_STEPS, STEPS_PER_CHAR = 2_000_000, 10
MAX_MADE, MADE_PER_CHAR = 100_000_000, 100
# Mistral's make a new list of the messages so far for each message. The lists of n messages hold
# about n * n / 2 items of BYTES_PER_ITEM: a fourth of this.
MADE_PER_PAIR, MAX_MADE_FOR_PAIRS = 16, 500_000_000
MAX_TEXT, TEXT_PER_CHAR = 1_000_000, 20
SECONDS_PER_CHAR = 1e-5  # published templates need a hundredth of it
MAX_SECONDS = 5.0  # of this thread's processor time: a busy machine refuses nothing
CHARS_PER_STEP = 1000
MAX_BITS = 10_000  # of an integer
MAX_INDENT = 64
SMALL = 100  # a result of fewer characters isn't counted: steps bound how many there are
BYTES_PER_ITEM = 8  # what an item of a list counts; a character counts 1
_STEPS_BETWEEN_CLOCKS = 32
# No published template calls these; each can make a great deal from little.
_NO_METHODS = frozenset(
    ("translate", "maketrans", "expandtabs", "encode", "to_bytes", "from_bytes")
)
_NO_FILTERS = frozenset(("urlize", "wordwrap", "xmlattr", "pprint", "striptags"))
# These neither write nor compare what a list holds; `join` counts what it writes by itself.
_TAKES_LISTS = frozenset(
    "attr batch count d default first items join last length list map random reject rejectattr "
    "reverse select selectattr slice".split()
)
_NAMED = frozenset(("indent", "replace", "sum", "tojson"))  # `_check_filter` knows their arguments
# Filters and methods of text that make as much as a number says: any other may be given numbers.
_GROWS_TO = frozenset("batch center indent ljust rjust round slice wordwrap zfill".split())
_OF_DICT = frozenset(dir(dict))
_NUMBER = re.compile(r"\d+")


class LimitError(ValueError):
    """A template that takes too long or makes too much."""


class RunawayError(LimitError):
    """A template that does so little by little, until nothing of its limit is left."""


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of `reference`, a template compiled by transformers, with bounds."""

    code_generator_class = LimitedCodeGenerator
    intercepted_binops = frozenset(("*", "**", "%"))

    def __init__(self, reference: Any):
        super().__init__(
            trim_blocks=reference.trim_blocks,
            lstrip_blocks=reference.lstrip_blocks,
            extensions=[type(extension) for extension in reference.extensions.values()],
        )
        self.globals.update(reference.globals)
        self.globals.pop("lipsum", None)
        self.watch: Watch | None = None  # of the rendering that runs, if any
        self.begin(0)
        own = self.own_filters()
        self.filters = {
            name: self._limited(name, own[name] if name in own else function)
            for name, function in reference.filters.items()
        }
        self.tests = {name: self._bounded(test) for name, test in reference.tests.items()}
        self.concat = self.concat_all

    def own_filters(self) -> dict[str, Callable[..., Any]]:
        """The filters that Jinja's own give way to, by name."""
        return {"join": self._join, "string": self.text, "format": self._format}

    def begin(self, num_chars: int, num_messages: int = 0) -> None:
        """Sets the bounds and starts the clock for the next rendering.

        Args:
            num_chars: of the conversation.
            num_messages: of the conversation; lists of them are allowed for besides.
        """
        self._given = self._steps = MAX_STEPS + STEPS_PER_CHAR * num_chars
        self._left = MAX_MADE + MADE_PER_CHAR * num_chars
        self._left += min(MADE_PER_PAIR * num_messages**2, MAX_MADE_FOR_PAIRS)
        self._max_text = MAX_TEXT + TEXT_PER_CHAR * num_chars
        self._clock_at = self._steps - _STEPS_BETWEEN_CLOCKS
        self._seconds = MAX_SECONDS + SECONDS_PER_CHAR * num_chars
        self._until = time.thread_time() + self._seconds

    @property
    def num_steps(self) -> int:
        """Steps of the rendering so far; what is large counts as several."""
        return self._given - self._steps

    def turns(self, items: Any, site: int, names: dict[str, Any]) -> Any:
        """The items of an outermost loop, which tell the watch, if any, what is asked of them.

        Args:
            site: number of the loop in the template.
            names: the template's variables where the loop starts.
        """
        return self.watch.enter(items, site, names) if self.watch else items

    def turns_context(self, items: Any, undefined: Any) -> LoopContext:
        """What the template knows as `loop` in an outermost loop over `items`."""
        is_watched = isinstance(items, Turns)
        return TurnsContext(items, undefined) if is_watched else LoopContext(items, undefined)

    def step(self) -> bool:
        """True, so that it can stand in a loop's condition; one more step is counted.

        Raises:
            RunawayError: it was one too many, or the time is over.
        """
        self._steps -= 1
        if self._steps < self._clock_at:
            self._look_at_clock()
        return True

    def _look_at_clock(self) -> None:
        self._clock_at = self._steps - _STEPS_BETWEEN_CLOCKS
        if self._steps <= 0:
            raise RunawayError("takes too many steps")
        if time.thread_time() > self._until:
            raise RunawayError(f"takes longer than {self._seconds:.1f} seconds")

    def reserve(self, size: int, what: str) -> None:
        """Refuses, before it is made, what has more characters than one text may have or than are
        left. It isn't counted yet."""
        if size > self._max_text or size > self._left:
            raise LimitError(f"makes too much text ({what}: {size} characters)")

    def counted(self, result: Any) -> Any:
        """The result. The characters of a text, the items of a list or tuple, unless they are few,
        count as made, and as steps.

        Raises:
            RunawayError: the rendering has then made too much.
        """
        if isinstance(result, str):
            size = len(result)
        elif isinstance(result, list):
            size = list.__len__(result) * BYTES_PER_ITEM  # asks nothing of messages that are seen
        elif isinstance(result, tuple):
            size = len(result) * BYTES_PER_ITEM
        else:
            return result
        if size < SMALL:
            return result
        self._left -= size
        self._steps -= size // CHARS_PER_STEP
        if self._left < 0:
            raise RunawayError("makes too much text")
        return result

    def bounded(self, value: Any) -> Any:
        """The value; refused if it is a list, tuple or dict too large to be compared or hashed."""
        if isinstance(value, (list, tuple, dict)):
            self.reserve(self.measure(value), "a list")
        return value

    def text(self, value: Any) -> str:
        """The value itself if it is text, else str(value), counted, unless it would be too long."""
        if isinstance(value, str):
            return value
        if isinstance(value, Namespace):
            raise LimitError("writes a namespace as text")
        self.reserve(self.measure(value), "a value as text")
        return self.counted(self.text_of(value))

    # What a subclass makes otherwise: text_of, join_pieces, percent_of and format_one.
    def text_of(self, value: Any) -> str:
        return str(value)

    def measure(self, value: Any) -> int:
        """The characters of a value written out, about; of one that is longer than a text may be
        only as many as show it. To count them takes steps."""
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
        self._steps -= size // CHARS_PER_STEP
        return size

    def concat_all(self, parts: Iterable[str]) -> str:
        """The parts as one text, counted."""
        pieces = list(parts)
        size = sum(map(len, pieces))
        if size > self._max_text:
            self.reserve(size, "a text")
        return self.counted(self.join_pieces(pieces))

    def join_pieces(self, pieces: list[str]) -> str:
        return "".join(pieces)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
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
        """`template % values`, counted."""
        given = values if isinstance(values, tuple) else (values,)
        specs = [match["spec"] for match in CONVERSION.finditer(template)]
        for spec in specs:
            self._check_width(spec)
        # Each conversion writes at most the longest of the values.
        longest = max([self.measure(value) for value in given], default=0)
        self.reserve(len(template) + len(specs) * longest, "%")
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
        """`separator.join(parts)`, counted."""
        pieces: list[str] = []
        for part in parts:
            if pieces:
                pieces.append(separator)
            pieces.append(part)
        return self.concat_all(pieces)

    def _check_width(self, spec: str) -> None:
        """Refuses a format whose width or precision is longer than a text may be, or "*"."""
        if "*" in spec:
            raise LimitError(f"uses the format {spec[:20]!r}")
        for number in _NUMBER.findall(spec):
            if len(number) > 9 or int(number) > self._max_text:
                raise LimitError(f"formats to a width of {number[:20]}")

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.step()
        for value in args:
            self.bounded(value)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            self._check_numbers(function.__name__, args, kwargs)
            if function.__name__ == "replace":
                self._check_replace(owner, *args[:2])
            elif function.__name__ == "join" and args and isinstance(args[0], str | list | tuple):
                self.reserve(self.measure(args[0]) + len(owner) * len(args[0]), "join")
        return self.counted(super().call(context, function, *args, **kwargs))

    def _check_numbers(self, name: str, args: Iterable[Any], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()) if name in _GROWS_TO else ():
            if isinstance(value, int) and value > self._max_text:
                raise LimitError(f"calls {name} with {value}")

    def _check_replace(self, text: str, old: str, new: str) -> None:
        times = text.count(old) if old else len(text) + 1
        self.reserve(len(text) + times * len(new), "replace")

    def _check_filter(self, name: str, given: dict[str, Any]) -> None:
        """Refuses arguments, by their names, that make one of the filters in _NAMED write much."""
        if name == "replace":
            self._check_replace(*(self.text(given[key]) for key in ("s", "old", "new")))
        elif name == "sum" and not isinstance(given.get("start", 0), int | float):
            raise LimitError("uses the filter 'sum' on what is not a number")
        elif name == "tojson":
            self.reserve(self.measure(given["x"]), "tojson")
        for key in ("width", "indent"):
            width = given.get(key)
            width = len(width) if isinstance(width, str) else width or 0
            if width > MAX_INDENT:
                raise LimitError(f"calls {name} with {key}={width}")

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, its arguments checked before and its result counted after."""
        bind = inspect.signature(function).bind if name in _NAMED else None

        @functools.wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.step()
            if name in _NO_FILTERS:
                raise LimitError(f"uses the filter {name!r}")
            self._check_numbers(name, args[1:], kwargs)
            if bind is not None:
                self._check_filter(name, bind(*args, **kwargs).arguments)
            if name not in _TAKES_LISTS:
                args = tuple(list(v) if inspect.isgenerator(v) else v for v in args)
                for value in args:
                    self.bounded(value)
            return self.counted(function(*args, **kwargs))

        return function if inspect.isclass(function) else limited

    def _bounded(self, test: Callable[..., Any]) -> Callable[..., Any]:
        """The test, refusing to compare what is too large."""

        @functools.wraps(test)
        def bounded(*args: Any) -> Any:
            self.step()
            for value in args:
                self.bounded(value)
            return test(*args)

        return bounded

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(obj) is dict and isinstance(argument, str) and argument in obj:
            return obj[argument]
        return super().getitem(obj, self.bounded(argument))

    def getattr(self, obj: Any, attribute: str) -> Any:
        # The sandbox would find the same, slowly: a dict's item, unless a method has that name.
        if type(obj) is dict and attribute in obj and attribute not in _OF_DICT:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        template, is_map = value.__self__, value.__name__ == "format_map"

        def bounded_format(*args: Any, **kwargs: Any) -> str:
            return self.format_fields(template, *(((), args[0]) if is_map else (args, kwargs)))

        return bounded_format

    def format_fields(self, template: str, args: Any, kwargs: Any) -> str:
        """`template.format(*args, **kwargs)`, counted; no format may stand in another."""
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
            self._check_width(spec or "")
            self.reserve(self.measure(value), "format")
            parts.append(self.format_one(value, spec or "", conversion))
        return self.concat_all(parts)

    def format_one(self, value: Any, spec: str, conversion: str | None) -> str:
        converted = SandboxedFormatter(self).convert_field(value, cast(Any, conversion))
        return format(converted, spec)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _NO_METHODS and super().is_safe_attribute(obj, attr, value)
