"""Text of a data set as a terminal may show it: nothing in it moves the cursor or hides a word."""

import re

# Control characters but tab and line feed, those that turn the direction of writing, and what is no
# character at all: bytes of a file's name that are not UTF-8.
_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_PICTURES, _DELETE, _PICTURE_OF_DELETE = 0x2400, 0x7F, "\u2421"  # Unicode's Control Pictures


def printable(text: str) -> str:
    """The text with a picture for each control character: ESC is U+241B, and others <U+202E>."""
    return _ACTIVE.sub(lambda found: _picture(ord(found.group())), text)


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(_PICTURES + code)
    return _PICTURE_OF_DELETE if code == _DELETE else f"<U+{code:04X}>"
