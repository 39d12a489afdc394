"""Strings that know which of their characters came from where."""

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

# Index of the message, its field, and which string of that field, as a path: "" where it has one.
Origin = tuple[int, str, str]
# Characters [start, stop) came from [first, last) of a string: the same, or its escape if longer.
Stretch = tuple[int, int, Origin, int, int]  # start, stop, origin, first, last
MAX_CHARS = 50_000_000  # of one string; a template that builds more is broken or hostile


class ProvenanceError(ValueError):
    """An operation that can't keep the record, or whose result is absurdly large."""


class Traced(str):
    """A string with the origin of its characters; those in no run are the template's.

        text    u s e r \\n H i
        runs              (5, 7, (0, "content", ""), 0, 2)

    Every method that returns strings keeps the record or raises ProvenanceError.
    """

    __slots__ = ("runs",)
    runs: tuple[Stretch, ...]

    def __new__(cls, text: str = "", runs: tuple[Stretch, ...] = ()) -> "Traced":
        self = str.__new__(cls, text)
        self.runs = runs
        return self

    def __str__(self) -> "Traced":
        return self

    def __add__(self, other: str) -> "Traced":
        text = str.__add__(self, other)
        if type(other) is Traced and other.runs:
            return Traced(text, self.runs + _shifted(other.runs, len(self)))
        return Traced(text, self.runs)

    def __radd__(self, other: str) -> "Traced":
        return Traced(str.__add__(other, self), _shifted(self.runs, len(other)))

    def __mul__(self, times: Any) -> "Traced":
        if len(self) * times > MAX_CHARS:
            raise ProvenanceError(f"a string of {len(self)} characters is repeated {times} times")
        return concat([self] * times)

    def __rmul__(self, times: Any) -> "Traced":
        return self * times

    def __mod__(self, values: Any) -> "Traced":
        return percent_format(self, values)

    def __rmod__(self, template: str) -> "Traced":
        return percent_format(template, self)

    def __getitem__(self, key: Any) -> "Traced":
        text = str.__getitem__(self, key)
        if not self.runs:
            return Traced(text)
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return concat([self[i] for i in range(start, stop, step)])
        else:
            start = key.__index__() % len(self)
        return Traced(text, _cut(self.runs, start, start + len(text)))

    def __iter__(self) -> Iterator["Traced"]:
        return (self[i] for i in range(len(self)))

    def strip(self, chars: str | None = None, /) -> "Traced":
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> "Traced":
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None, /) -> "Traced":
        return self[: len(str.rstrip(self, chars))]

    def removeprefix(self, prefix: str, /) -> "Traced":
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> "Traced":
        return self[: len(self) - len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        return self._located(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        return self._located(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        whole = self._located(str.splitlines(self, True), "")
        lines = str.splitlines(self, keepends)
        return [piece[: len(line)] for piece, line in zip(whole, lines, strict=True)]

    def partition(self, sep: str, /) -> tuple["Traced", "Traced", "Traced"]:
        head, middle, tail = self._located(str.partition(self, sep), "")
        return head, middle, tail

    def rpartition(self, sep: str, /) -> tuple["Traced", "Traced", "Traced"]:
        head, middle, tail = self._located(str.rpartition(self, sep), "")
        return head, middle, tail

    def _located(self, pieces: Iterable[str], sep: str | None) -> list[Any]:
        """The same pieces as slices of self; between them stand `sep`, or whitespace for None."""
        located, at = [], 0
        for piece in pieces:
            at = self.index(piece, at) if sep is None else at
            located.append(self[at : at + len(piece)])
            at += len(piece) + len(sep or "")
        return located

    def join(self, parts: Iterable[str], /) -> "Traced":
        pieces: list[str] = []
        for part in parts:
            if pieces:
                pieces.append(self)
            pieces.append(part)
        return concat(pieces)

    def replace(self, old: str, new: str, count: Any = -1, /) -> "Traced":
        if not old:
            _lost("replace('', ...)")
        return traced(new).join(self.split(old, count))

    def _mapped(self, text: str) -> "Traced":
        """`text`, whose characters stand where those of self stood; case only ever adds some."""
        if self.runs and len(text) != len(self):
            _lost("a change of case that changes the length")
        return Traced(text, self.runs)

    def upper(self) -> "Traced":
        return self._mapped(str.upper(self))

    def lower(self) -> "Traced":
        return self._mapped(str.lower(self))

    def title(self) -> "Traced":
        return self._mapped(str.title(self))

    def capitalize(self) -> "Traced":
        return self._mapped(str.capitalize(self))

    def swapcase(self) -> "Traced":
        return self._mapped(str.swapcase(self))

    def casefold(self) -> "Traced":
        return self._mapped(str.casefold(self))

    def ljust(self, width: Any, fill: str = " ", /) -> "Traced":
        return self + str.ljust("", max(0, width - len(self)), fill)

    def rjust(self, width: Any, fill: str = " ", /) -> "Traced":
        return traced(str.ljust("", max(0, width - len(self)), fill)) + self

    def _unchanged(self, text: str, operation: str) -> "Traced":
        """`text`, if the operation had nothing to lose."""
        if self.runs and text != self:
            _lost(operation)
        return Traced(text, self.runs)

    def center(self, width: Any, fill: str = " ", /) -> "Traced":
        return self._unchanged(str.center(self, width, fill), "center")

    def zfill(self, width: Any, /) -> "Traced":
        return self._unchanged(str.zfill(self, width), "zfill")

    def expandtabs(self, tabsize: Any = 8) -> "Traced":
        return self._unchanged(str.expandtabs(self, tabsize), "expandtabs")

    def translate(self, table: Any, /) -> "Traced":
        return self._unchanged(str.translate(self, table), "translate")

    def __format__(self, spec: str) -> "Traced":
        return self._unchanged(str.__format__(self, spec), f"the format {spec!r}")


def _lost(operation: str) -> NoReturn:
    raise ProvenanceError(f"{operation} would lose which characters came from a message")


def traced(text: str) -> Traced:
    return text if type(text) is Traced else Traced(text)


def _shifted(runs: tuple[Stretch, ...], by: int) -> tuple[Stretch, ...]:
    return tuple([(a + by, b + by, origin, first, last) for a, b, origin, first, last in runs])


def _cut(runs: tuple[Stretch, ...], start: int, stop: int) -> tuple[Stretch, ...]:
    """The runs inside [start, stop), counted from start."""
    cut: list[Stretch] = []
    for a, b, origin, first, last in runs:
        if a >= stop or b <= start:
            continue
        before, after = max(start - a, 0), max(b - stop, 0)
        if before or after:
            # Part of an escape stands for no character.
            is_same = b - a == last - first
            first, last = (first + before, last - after) if is_same else (first, first)
        cut.append((a + before - start, b - after - start, origin, first, last))
    return tuple(cut)


def concat(parts: Iterable[str]) -> Traced:
    """All parts one after another."""
    texts: list[str] = []
    runs: list[Stretch] = []
    at = 0
    for part in parts:
        texts.append(part)
        if type(part) is Traced:
            runs.extend(_shifted(part.runs, at))
        at += len(part)
        if at > MAX_CHARS:
            raise ProvenanceError(f"the text is longer than {MAX_CHARS} characters")
    return Traced("".join(texts), tuple(runs))


def trace(value: Any, index: int, field: str, path: str = "") -> Any:
    """A JSON value, rebuilt, each string in it (keys too) traced to its place.

    path    [0].function.name    of a value
            [0].function.name#   of the key itself
    """
    if isinstance(value, str):
        size = len(value)
        return Traced(value, ((0, size, (index, field, path), 0, size),) if value else ())
    if isinstance(value, dict):
        return {
            trace(key, index, field, f"{path}.{key}#"): trace(item, index, field, f"{path}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [trace(item, index, field, f"{path}[{i}]") for i, item in enumerate(value)]
    return value


def has_trace(value: Any) -> bool:
    """Whether any character of the value, or of what it contains, is known to be a message's."""
    if isinstance(value, str):
        return type(value) is Traced and bool(value.runs)
    if isinstance(value, dict):
        return any(has_trace(key) or has_trace(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(map(has_trace, value))


def to_text(value: Any) -> Traced:
    """`str(value)`; of a list or an object too, whose strings stand in quotes."""
    if isinstance(value, str):
        return traced(value)
    if not has_trace(value):
        return Traced(str(value))
    text = _repr(value)
    return text if text == str(value) else _lost("the text of a list")


_REPR_ESCAPE = re.compile(r"\\x..|\\u.{4}|\\U.{8}|\\.", re.DOTALL)


def _repr(value: Any) -> Traced:
    if isinstance(value, str):
        plain = repr(str.__getitem__(value, slice(None)))
        return Traced(plain, escaped_runs(plain, 1, len(plain) - 1, value, _REPR_ESCAPE))
    if isinstance(value, dict):
        items = [concat((_repr(key), ": ", _repr(item))) for key, item in value.items()]
        return concat(("{", Traced(", ").join(items), "}"))
    if isinstance(value, list):
        return concat(("[", Traced(", ").join(map(_repr, value)), "]"))
    return Traced(repr(value)) if not has_trace(value) else _lost("the text of a tuple")


CONVERSION = re.compile(
    r"%(?:\((?P<key>[^)]*)\))?(?P<spec>[#0\- +]*[\d*]*(?:\.[\d*]*)?)(?P<type>.)"
)


def percent_format(template: str, values: Any) -> Traced:
    """`template % values`; a traced value may stand under a bare %s only."""
    plain = str.__mod__(template, values)  # also raises what % raises
    parts: list[str] = []
    given: tuple[Any, ...] = values if isinstance(values, tuple) else (values,)
    rest = iter(given)
    template, at = traced(template), 0
    for match in CONVERSION.finditer(template):
        parts.append(template[at : match.start()])
        at = match.end()
        if match["type"] == "%":
            parts.append("%")
            continue
        if "*" in match["spec"]:
            _lost("a %* width")
        value = given[0][match["key"]] if match["key"] is not None else next(rest)
        if match["type"] == "s" and not match["spec"]:
            parts.append(to_text(value))
        elif has_trace(value):
            _lost(f"the conversion {match.group()!r}")
        else:
            parts.append(str.__mod__(f"%{match['spec']}{match['type']}", (value,)))
    parts.append(template[at:])
    result = concat(parts)
    return result if result == plain else _lost("%")


def escaped_runs(
    text: str, start: int, stop: int, value: str, escapes: re.Pattern[str]
) -> tuple[Stretch, ...]:
    """The runs of `value` where it stands at [start, stop) of `text`, some characters escaped.

    Args:
        escapes: finds what stands for one character.
    """
    if type(value) is not Traced or not value.runs:
        return ()
    if stop - start == len(value):
        return _shifted(value.runs, start)
    pieces: list[tuple[int, int, int]] = []  # start and stop in the text, place in the value
    at, place = start, 0
    for match in escapes.finditer(text, start, stop):
        pieces += [(at, match.start(), place), (*match.span(), place + match.start() - at)]
        place += match.start() - at + 1
        at = match.end()
    pieces.append((at, stop, place))
    if place + stop - at != len(value):
        _lost("the escapes in a text")
    return tuple(run for own in value.runs for run in _escaped(own, pieces))


def _escaped(run: Stretch, pieces: Sequence[tuple[int, int, int]]) -> Iterator[Stretch]:
    """The run, in the text of the pieces; each escape is a run of its own."""
    start, stop, origin, first, last = run
    index = max(bisect.bisect_right(pieces, start, key=lambda piece: piece[2]) - 1, 0)
    found: list[Stretch] = []
    while index < len(pieces) and pieces[index][2] < stop:
        a, b, place = pieces[index]
        # Pieces take turns: the same characters, an escape of one, the same again...
        size = b - a if index % 2 == 0 else 1
        before, after = max(start - place, 0), max(place + size - stop, 0)
        if a < b and before < size:
            at = first + max(place - start, 0)
            found.append((a + before, b - after, origin, at, at + size - before - after))
        index += 1
    if last - first == stop - start:
        yield from found
    elif found:  # an escape that is escaped again
        yield found[0][0], found[-1][1], origin, first, last
