"""Renderings of a conversation's first messages without rendering most of them again.

A template that writes one message after another does the same work again for each prompt:

    all       <s> U1 A1 U2 A2 U3 A3          one rendering, watched
    prompt 3  <s> U1 A1 U2 A2|U3 <prompt>    as far as | what was seen; only the rest is run

Of each turn of the template's own loop over the messages it is noted where its text begins, what
the namespaces hold then, and how many messages there must be at least for it to go as it did:
`loop.last` needs one more than the turn's own, `messages[-1]` or `messages | length` all of them.
A shorter rendering is then run from its beginning to that loop. If all that the template has set
by then, and all that it has written, is as it was in the long one, then every turn of the loop that
needs no more messages than there are goes as it did, one after the other: the loop goes on after
those, with the namespaces as they were. Otherwise it is run in full. Either way the text is the
one that the template renders of these messages alone: nothing is guessed.

What can carry over from one turn of a loop to the next is in namespaces alone: Jinja drops what is
set in a loop, and the sandbox lets no list or object be altered.
"""

import bisect
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

from jinja2 import Undefined
from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Namespace, missing

_MAX_ITEMS = 100  # of a list in a namespace, which is looked through at each turn
_SCALARS = (str, int, float, bool, type(None))
State = dict[str, dict[str, Any]]  # what the namespaces hold, by the name of each


class Seen(list[Any]):
    """The messages from `start` on, which tells the watch what a template asks of them."""

    def __init__(self, messages: Iterable[Any], start: int, watch: "Watch"):
        super().__init__(messages)
        self.start = start
        self._watch = watch

    def of_first(self, messages: list[Any], num_messages: int, watch: "Watch") -> "Seen":
        """The first messages, for another run: of a few more than here these are told apart, for
        to copy many for each turn would take as long as all the rest."""
        size = list.__len__(self)
        if not 0 <= num_messages - size <= _MAX_ITEMS:
            return Seen(messages[:num_messages], 0, watch)
        self.extend(messages[size:num_messages])
        self._watch = watch
        return self

    def _all(self) -> "Seen":
        self._watch.needs(None)
        return self

    def __bool__(self) -> bool:
        size = list.__len__(self)
        self._watch.needs(self.start + 1 if size else None)
        return size > 0

    def __len__(self) -> int:
        return list.__len__(self._all())

    def __iter__(self) -> Iterator[Any]:
        for i in range(list.__len__(self)):
            self._watch.needs(self.start + i + 1)
            yield list.__getitem__(self, i)
        self._all()

    def __getitem__(self, key: Any) -> Any:
        size = list.__len__(self)
        if isinstance(key, slice):
            first, last, step = key.start or 0, key.stop, key.step
            if type(first) is int and first >= 0 and step in (None, 1):
                if last is None:
                    return Seen(list.__getitem__(self, key), self.start + first, self._watch)
                if type(last) is int and 0 <= last <= size:
                    self._watch.needs(self.start + last)
                    return list.__getitem__(self, key)
        elif type(key) is int and 0 <= key < size:
            self._watch.needs(self.start + key + 1)
            return list.__getitem__(self, key)
        return list.__getitem__(self._all(), key)

    def __reversed__(self) -> Iterator[Any]:
        return list.__reversed__(self._all())

    def __contains__(self, item: object) -> bool:
        return list.__contains__(self._all(), item)

    def __eq__(self, other: object) -> bool:
        return list.__eq__(self._all(), other)

    def __ne__(self, other: object) -> bool:
        return list.__ne__(self._all(), other)

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Any) -> Any:
        return list.__add__(self._all(), other)

    def __mul__(self, times: SupportsIndex) -> Any:
        return list.__mul__(self._all(), times)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return list.__repr__(self._all())

    def index(self, *args: Any) -> int:
        return list.index(self._all(), *args)

    def count(self, item: Any) -> int:
        return list.count(self._all(), item)

    def copy(self) -> list[Any]:
        return list(self)


@dataclasses.dataclass
class Loop:
    """What was seen of a loop over messages that stands in no other."""

    site: int  # in the template
    start: int  # index of its first message
    names: dict[str, Any]  # what the template has set before it
    state: State
    place: int  # where its text begins
    places: list[int] = dataclasses.field(default_factory=list)  # and that of each turn
    states: list[State] = dataclasses.field(default_factory=list)
    # How many messages there must be for this turn, and for those before it, to go as they did.
    needs: list[int] = dataclasses.field(default_factory=list)


class Watch:
    """Follows one run of a template; skips what went alike in a run of more messages."""

    def __init__(self, num_messages: int, model: "Watch | None" = None):
        self._num_messages = num_messages
        self._model = model
        self.loops: list[Loop] = []
        self._namespaces: dict[str, Namespace] = {}
        self._current: Loop | None = None
        self.shared = 0  # characters of the model's text that were not run again
        self._pieces: list[str] = []
        self._num_written = 0
        self.num_steps = 0
        self.text = ""  # what the run wrote, after what it shares with the model

    def run(self, pieces: Iterable[str]) -> None:
        for piece in pieces:
            self._pieces.append(piece)
            self._num_written += len(piece)
        self._current = None
        self.text = "".join(self._pieces)

    def needs(self, num_messages: int | None) -> None:
        """The turn that is run goes so if there are at least so many messages; None: if all."""
        if self._current:
            needs = self._current.needs
            needs[-1] = max(needs[-1], self._num_messages if num_messages is None else num_messages)

    def enter(self, items: Any, site: int, names: Mapping[str, Any]) -> Any:
        """What the loop is to go over instead of `items`."""
        self._current = None
        if type(items) is not Seen:
            return items
        namespaces = {name: value for name, value in names.items() if isinstance(value, Namespace)}
        plain = {name: value for name, value in names.items() if name not in namespaces}
        self._namespaces = namespaces
        loop = Loop(site, items.start, plain, self._state(), self._num_written)
        self.loops.append(loop)
        return Turns(self, items, self._skip(loop, items))

    def begin(self, items: Seen, index: int) -> None:
        """A turn of the loop begins."""
        loop = self._current = self.loops[-1]
        loop.places.append(self._num_written)
        loop.states.append(self._state())
        least = items.start + index + 1
        loop.needs.append(max(least, loop.needs[-1]) if loop.needs else least)

    def _state(self) -> State:
        return {name: dict(_attributes(space)) for name, space in self._namespaces.items()}

    def _skip(self, loop: Loop, items: Seen) -> int:
        """How many turns of the loop went alike in the model; then all is as it was after them."""
        number = len(self.loops) - 1
        if self._model is None or number >= len(self._model.loops):
            return 0
        model = self._model.loops[number]
        alike = (loop.site, loop.start, loop.place) == (model.site, model.start, model.place)
        if not alike or not _same(loop.names, model.names) or not _same(loop.state, model.state):
            return 0
        if "".join(self._pieces) != self._model.text[self.shared : model.place]:
            return 0
        skipped = bisect.bisect_right(model.needs, self._num_messages)
        skipped = min(skipped, list.__len__(items) - 1, len(model.states) - 1)
        if skipped <= 0 or not self._restore(model.states[skipped]):
            return 0
        self.shared = self._num_written = model.places[skipped]
        self._pieces.clear()
        return skipped

    def _restore(self, state: State) -> bool:
        restored: dict[str, dict[str, Any]] = {}
        for name, space in self._namespaces.items():
            here = _attributes(space)
            restored[name] = {
                key: _here(value, here.get(key)) for key, value in state[name].items()
            }
        if any(value is missing for values in restored.values() for value in values.values()):
            return False
        for name, values in restored.items():
            here = _attributes(self._namespaces[name])
            here.clear()
            here.update(values)
        return True


class Turns:
    """The items of a loop from a turn on, each told to the watch when it begins."""

    def __init__(self, watch: Watch, items: Seen, first: int):
        self.watch = watch
        self.items = items
        self.first = first

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        for index in range(self.first, list.__len__(self.items)):
            self.watch.begin(self.items, index)
            yield list.__getitem__(self.items, index)


class TurnsContext(LoopContext):
    """`loop`, as if the turns before the first had been gone through."""

    def __init__(self, turns: Turns, undefined: type[Undefined]):
        super().__init__(turns.items, undefined)
        self._turns = turns
        self._iterator = self._rest()
        self.index0 = turns.first - 1
        if turns.first:
            self._current = list.__getitem__(turns.items, turns.first - 1)

    def _rest(self) -> Iterator[Any]:
        items = self._turns.items
        for index in range(self._turns.first, list.__len__(items)):
            yield list.__getitem__(items, index)

    def __next__(self) -> tuple[Any, LoopContext]:
        result = super().__next__()
        self._turns.watch.begin(self._turns.items, self.index0)
        return result

    def _peek_next(self) -> Any:
        after = super()._peek_next()
        items = self._turns.items
        self._turns.watch.needs(None if after is missing else items.start + self.index0 + 2)
        return after

    @property
    def length(self) -> int:
        return len(self._turns.items)

    def changed(self, *value: Any) -> bool:
        self._turns.watch.needs(None)
        return super().changed(*value)


def _attributes(space: Namespace) -> dict[str, Any]:
    return space._Namespace__attrs  # type: ignore[attr-defined]  # Jinja has no other way


def _here(value: Any, current: Any) -> Any:
    """What the namespace of another run is to hold for the value; `missing` if that isn't known."""
    if type(value) is Seen:
        is_alike = type(current) is Seen and current.start == value.start
        return current if is_alike else missing
    return value if _is_fixed(value) else missing


def _is_fixed(value: Any) -> bool:
    """Whether nothing in the value can change or tell of the messages that there are."""
    left, rest = _MAX_ITEMS, [value]
    while rest:
        item = rest.pop()
        left -= 1
        if left < 0:
            return False
        if type(item) is dict:
            rest += [*item.keys(), *item.values()]
        elif type(item) in (list, tuple):
            rest += item
        elif not isinstance(item, (*_SCALARS, Undefined)):
            return False
    return True


def _same(one: Any, other: Any) -> bool:
    """Whether a template can't tell one from the other."""
    if one is other:
        return not isinstance(one, Namespace)
    if type(one) is not type(other):
        return False
    if type(one) is Seen:
        return one.start == other.start
    if isinstance(one, Macro):
        return one._func.__code__ is other._func.__code__
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            _same(a, b) and _same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Undefined):
        return one._undefined_name == other._undefined_name
    return isinstance(one, _SCALARS) and one == other
