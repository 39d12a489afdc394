"""The text of an answer while it grows: what of it is settled, and where a stop string ends it."""

import dataclasses
from collections.abc import Callable, Collection, Sequence

_CUT_CHARACTER = "\ufffd"  # what a decoder gives for the first bytes of a character


@dataclasses.dataclass(frozen=True)
class Text:
    """
    Attributes:
        text: of an answer, without the token or string that ended it.
        settled: characters of it that no later token changes: they may be shown.
        ended: by a stop string.
    """

    text: str
    settled: int
    ended: bool


@dataclasses.dataclass(frozen=True)
class TextRules:
    """
    Attributes:
        decode: ids to text.
        stop_ids: of which the last of an answer may be one.
        stop_strings: the first one that an answer spells ends it, and is not part of it.
    """

    decode: Callable[[Sequence[int]], str]
    stop_ids: Collection[int]
    stop_strings: Sequence[str] = ()

    def of(self, ids: Sequence[int], more: bool) -> Text:
        """
        Args:
            more: whether other tokens may follow.
        """
        over = bool(ids) and ids[-1] in self.stop_ids
        text = self.decode(ids[:-1] if over else ids)
        places = [place for string in self.stop_strings if (place := text.find(string)) >= 0]
        if places:
            return Text(text[: min(places)], min(places), True)
        if over or not more:
            return Text(text, len(text), False)
        begun = max((_begun(text, string) for string in self.stop_strings), default=0)
        settled = min(len(text) - begun, len(text.rstrip(_CUT_CHARACTER)))
        return Text(text, settled, False)


def _begun(text: str, string: str) -> int:
    """Characters at the end of the text that may be the beginning of the string."""
    longest = min(len(string) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
