"""Ways to look at a turn: among all that stands before it, or in a long conversation near by."""

import bisect
import dataclasses
from collections.abc import Collection, Sequence

from jaxsft.data.read.records import Message, RowError
from jaxsft.data.render.recovered import Sources
from jaxsft.data.render.rendering import Rendering

# So many turns of a conversation are compared with renderings of all that stands before them;
# those between them with renderings of what is near, for each takes as long as what it renders.
_EXACT = 12
_NEAR = 8  # messages that are near where no user speaks


@dataclasses.dataclass(frozen=True)
class View:
    """A turn in a rendering, whose text is `shift` characters further on in another text.

    rendering                S  U3 A3 U4 A4      of what is near A4
    text         S  U1 A1 U2 A2 U3 A3 U4 A4 ...  shift: from U3 here to U3 there
    """

    rendering: Rendering
    turn: int  # index in the rendering
    head: str = ""  # the rendering up to what is compared
    shift: int = 0
    whole: Rendering | None = None  # of all messages, where this is only of what is near

    def holds(self, text: str, piece: str) -> bool:
        """Whether the text has the piece, which the rendering begins with, from the head on."""
        at = len(self.head)
        return piece.startswith(self.head) and text.startswith(piece[at:], at + self.shift)


def exact(turns: Sequence[int]) -> Collection[int]:
    """The turns, as many as are compared with all before them: first, last and some between."""
    if len(turns) <= _EXACT:
        return turns
    step = (len(turns) - 1) / (_EXACT - 1)
    return {turns[round(i * step)] for i in range(_EXACT)}


def near(rendering: Rendering, turn: int, sources: Sources) -> View | None:
    """The turn after the system messages and the exchanges next to it; None if that is no view."""
    messages = rendering.messages
    front = next(i for i, message in enumerate(messages) if message.role != "system")
    kept, first = _window(rendering, turn, front)
    there = sources.of(first)
    if first - len(kept) <= front or not there:
        return None
    chosen = (*messages[:front], *kept, *messages[first : turn + 1])
    part = dataclasses.replace(rendering, messages=chosen)
    here = front + len(kept)
    try:
        alone = part.traced(len(chosen))
    except RowError:
        return None
    run = next((run for run in alone.runs if run[2][0] == here), None)
    if run is None or run[2][1:] != there[0][2][1:] or run[3] != there[0][3]:
        return None
    head = str.__getitem__(alone, slice(run[0]))
    return View(part, len(chosen) - 1, head, there[0][0] - run[0], rendering)


def _window(rendering: Rendering, turn: int, front: int) -> tuple[tuple[Message, ...], int]:
    """A user's message that must stand before what is near, if any, and where that begins."""
    messages, exchanges = rendering.messages, 0
    for i in range(turn - 1, front, -1):
        is_far, before = turn - i >= _NEAR, messages[i - 1].role
        if messages[i].role == "user" and before != "user":
            exchanges += 1
            if exchanges == 2:
                return (), i
        if is_far and (messages[i].role, before) == ("assistant", "tool") or turn - i > 2 * _NEAR:
            asked = bisect.bisect_left(rendering.users, i) - 1
            return ((messages[rendering.users[asked]],) if asked >= 0 else ()), i
    return (), front
