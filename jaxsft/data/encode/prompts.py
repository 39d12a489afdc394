"""The law of every supervised turn: its ids begin with the ids of its generation prompt.

A server tokenizes the prompt alone, a tokenizer may join its end to what follows:

    served     <think> "\\n"                      and the model goes on from there
    rendered   <think> "\\n\\n" </think>           one token of both
    trained    <think> "\\n" | "\\n" </think>       cut where the prompt ends

A text has one cut at most, since in the prompts of its later turns nothing is cut.
"""

import bisect
from collections.abc import Sequence

from jaxsft.data.encode.spelling import Encoded, Spelling, joined
from jaxsft.data.render.template import Control

_MAX_ENDS = 1000  # ends of prompts that are remembered
_SHORT = 256  # characters of those


class Prompts:
    """Compares with the ids of generation prompts, and cuts where they end."""

    def __init__(self, spelling: Spelling):
        self._spelling = spelling
        self._ends: dict[tuple[str, str | None], list[int]] = {}

    def begins(self, encoded: Encoded, text: str, controls: Sequence[Control], stop: int) -> bool:
        """Whether the ids of the text begin with the ids of its first `stop` characters.

        Only what follows the last control token before `stop` is tokenized again: controls part a
        text, and what stands on one side of them has no influence on the other.

        Args:
            encoded: the text, with the controls.
        """
        before = bisect.bisect_right(controls, stop, key=lambda control: control.stop)
        last = controls[before - 1] if before else None
        start = last.start if last else 0
        end = self._end(text[start:stop], last)
        tokens = range(len(encoded.ids))
        after = bisect.bisect_left(tokens, encoded.place(stop), key=encoded.start)
        first = after - len(end)
        is_border = after == len(tokens) or encoded.start(after) == encoded.place(stop)
        return (
            is_border
            and first >= 0
            and encoded.ids[first:after].tolist() == end
            and (after == first or encoded.start(first) == encoded.place(start))
        )

    def _end(self, text: str, control: Control | None) -> list[int]:
        """The ids of a text that begins with the control, if any."""
        key = (text, control.token if control else None)
        if key in self._ends:
            return self._ends[key]
        first = [Control(0, len(control.token), control.token)] if control else []
        ids = self._spelling.encode(text, first).ids.tolist()
        if len(text) <= _SHORT:
            if len(self._ends) >= _MAX_ENDS:
                self._ends.clear()
            self._ends[key] = ids
        return ids

    def cut(self, text: str, controls: Sequence[Control], stop: int) -> Encoded:
        """The ids of the first `stop` characters as they are alone, then those of the rest.

        Raises:
            RowError: the tokenizer can't begin with the rest.
        """
        before = bisect.bisect_right(controls, stop, key=lambda control: control.stop)
        moved = [Control(c.start - stop, c.stop - stop, c.token) for c in controls[before:]]
        first = self._spelling.encode(text[:stop], controls[:before])
        return joined(first, self._spelling.encode_after(text[stop:], moved), stop)
