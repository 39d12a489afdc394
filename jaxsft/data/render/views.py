"""Ways to look at a turn: among all that stands before it, or in a long conversation near by."""

import bisect
import dataclasses
import os.path
from collections.abc import Callable, Collection, Sequence

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.render.prefixes import Watch
from jaxsft.data.render.recovered import Sources
from jaxsft.data.render.rendering import Rendering

# Comparing a turn with a whole rendering of all that stands before it takes as long as what that
# renders. All turns of a conversation are where they are few, or not too many and it can't be had
# for less; of more so many are, spaced evenly.
_FEW, _MANY, _SPACED = 12, 40, 12
_NEAR = 8  # messages that are near where no user speaks


@dataclasses.dataclass(frozen=True)
class Piece:
    """The end of a rendering, which stands at a place of another text if both agree."""

    text: str
    at: int

    @property
    def stop(self) -> int:
        return self.at + len(self.text)

    def shared(self, text: str) -> int:
        """Where the text no longer goes on as the piece does."""
        if text.startswith(self.text, self.at):
            return self.stop
        return self.at + len(os.path.commonprefix([text[self.at : self.stop], self.text]))


@dataclasses.dataclass(frozen=True)
class View:
    """A turn, and the renderings that are to be found in the text of the conversation.

    prompt   up to the turn and with the generation prompt
    alone    with the turn, in which `least` and all that follows can be looked at
    """

    rendering: Rendering
    turn: int  # index in the rendering
    prompt: Callable[[], Piece | None]
    alone: Callable[[int], Piece | None]  # of `least`, a place in the text
    whole: "View | None" = None  # where this is only of what is near


def whole(rendering: Rendering, turn: int) -> View:
    """The view of a turn whose renderings are run from the first message on."""
    return View(
        rendering,
        turn,
        lambda: Piece(rendering.plain(turn, True), 0),
        lambda _: Piece(rendering.plain(turn + 1), 0),
    )


class Views:
    """How each of the turns of a text is looked at.

    Few are looked at in whole renderings of all that stands before them. Of more, each is looked
    at in renderings of just the same texts that only run what is new in them (see prefixes), where
    the template lets that be done in a time that doesn't grow with what stands before. Where it
    doesn't, all are looked at whole up to 40 turns. Only of more than that are there `num_near`
    that are proven less: twelve turns, spaced evenly, are looked at whole, and the others in
    renderings of what is near.
    """

    def __init__(self, rendering: Rendering, turns: Sequence[int], sources: Sources, until: int):
        self._rendering = rendering
        self._sources = sources
        self.num_near = 0
        self._whole: Collection[int] = turns
        self._resumed: Resumed | None = None
        if len(turns) > _FEW:
            self._resumed = _resumed(rendering, turns, sources.text, until)
        if len(turns) > _MANY:
            step = (len(turns) - 1) / (_SPACED - 1)
            self._whole = {turns[round(i * step)] for i in range(_SPACED)}

    def of(self, turn: int) -> View:
        if self._resumed and not self._resumed.is_spent:
            return self._resumed.view(turn)
        if turn not in self._whole:
            view = _near(self._rendering, turn, self._sources)
            if view:
                self.num_near += 1
                return view
        return whole(self._rendering, turn)


class Resumed:
    """Renderings of first messages, each run from where it begins to differ from that of all.

    Args:
        text: what they are to be compared with, the rendering of the first `until` messages.
        last: the last turn that is prompted for.
    """

    def __init__(self, rendering: Rendering, text: str, until: int, last: int):
        self._rendering = rendering
        self._models: dict[bool, tuple[Watch, int]] = {}
        for prompt, num_messages in ((False, until), (True, last)):
            model = rendering.watched(num_messages, prompt)
            self._models[prompt] = model, len(os.path.commonprefix([model.text, text]))
        self._left = _SPACED * sum(model.num_steps for model, _ in self._models.values())
        self.num_steps = 0  # of the last piece
        self.usual_steps = 0  # of a piece

    @property
    def is_spent(self) -> bool:
        """Whether so much was run that it would no longer be in proportion to the text."""
        return self._left < 0

    def view(self, turn: int) -> View:
        return View(
            self._rendering,
            turn,
            lambda: self.piece(turn, True),
            lambda least: self.piece(turn + 1, False, least),
        )

    def piece(self, until: int, prompt: bool, least: int | None = None) -> Piece:
        """The end of the rendering; it goes as far back as the text and the rendering differ.

        Raises:
            RowError: as Rendering.plain.
        """
        model, common = self._models[prompt]
        watch = self._rendering.watched(until, prompt, model)
        self.num_steps = watch.num_steps
        self._left -= max(0, watch.num_steps - 2 * self.usual_steps)
        at = min(watch.shared, common, watch.shared if least is None else least)
        return Piece(model.text[at : watch.shared] + watch.text, at)


def _resumed(rendering: Rendering, turns: Sequence[int], text: str, until: int) -> Resumed | None:
    """None where it would take longer the more messages there are, or can't be relied on."""
    steps: list[int] = []
    try:
        resumed = Resumed(rendering, text, until, turns[-1])
        for turn in (turns[len(turns) // 8], turns[-2]):  # the last is shared, whatever it needs
            piece, prompt = resumed.piece(turn, True), rendering.plain(turn, True)
            if len(prompt) != piece.stop or not prompt.endswith(piece.text):
                return None  # a template that renders otherwise each time, for one
            steps.append(resumed.num_steps)
    except RowError:
        return None
    resumed.usual_steps = steps[1]
    return resumed if steps[1] < 2 * steps[0] else None


def _near(rendering: Rendering, turn: int, sources: Sources) -> View | None:
    """The turn after the system messages and the exchanges next to it; None if that is no view.

    rendering    S  U3 A3 U4 A4      of what is near A4
    text         S  U1 A1 U2 A2 U3 A3 U4 A4 ...  the pieces are from U3 on
    """
    messages = rendering.messages
    front = next(i for i, message in enumerate(messages) if message.role != "system")
    kept, first = _window(rendering, turn, front)
    there = sources.of(first)
    if first - len(kept) <= front or not there:
        return None
    chosen = (*messages[:front], *kept, *messages[first : turn + 1])
    part = dataclasses.replace(rendering, messages=chosen)
    here, last = front + len(kept), len(chosen) - 1
    try:
        alone = part.traced(len(chosen))
    except RowError:
        return None
    run = next((run for run in alone.runs if run[2][0] == here), None)
    if run is None or run[2][1:] != there[0][2][1:] or run[3] != there[0][3]:
        return None
    head = str.__getitem__(alone, slice(run[0]))

    def piece(text: str) -> Piece | None:
        return Piece(text[len(head) :], there[0][0]) if text.startswith(head) else None

    return View(
        part,
        last,
        lambda: piece(part.plain(last, True)),
        lambda _: piece(part.plain(last + 1)),
        whole(rendering, turn),
    )


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
