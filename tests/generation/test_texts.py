"""What of a growing answer may be shown, and where stop strings end it."""

import pytest

from jaxsft.generation.texts import Text, TextRules

WORDS = ["", "Hel", "lo", " wor", "ld", "\ufffd", "\u00e9", "Us", "er:", "<end>"]
END = 9


def decode(ids):
    """Ids 5 and 6 are the two bytes of one character."""
    text = "".join(WORDS[one] for one in ids)
    return text.replace("\ufffd\u00e9", "\u00e9")


def rules(*stop):
    return TextRules(decode, {END}, stop)


def test_the_stop_token_is_no_part_of_the_text():
    assert rules().of([1, 2, END], more=False) == Text("Hello", 5, False)
    assert rules().of([1, 2], more=False) == Text("Hello", 5, False)


def test_a_character_is_shown_when_all_its_bytes_are_there():
    assert rules().of([1, 5], more=True).settled == 3
    assert rules().of([1, 5, 6], more=True) == Text("Hel\u00e9", 4, False)
    assert rules().of([1, 5], more=False).settled == 4  # it stays as it is


@pytest.mark.parametrize(
    ("ids", "text", "settled", "ended"),
    [
        ([1, 2], "Hello", 5, False),
        ([1, 2, 7], "HelloUs", 5, False),
        ([1, 2, 7, 3], "HelloUs wor", 11, False),
        ([1, 2, 7, 8], "Hello", 5, True),
        ([1, 2, 7, 8, 3], "Hello", 5, True),
    ],
)
def test_the_beginning_of_a_stop_string_is_held_back(ids, text, settled, ended):
    assert rules("User:").of(ids, more=True) == Text(text, settled, ended)


def test_the_first_of_several_stop_strings_ends_the_text():
    assert rules("world", "lo", "Hello world").of([1, 2, 3, 4], more=True).text == ""
    assert rules("world", "lo").of([1, 2, 3, 4], more=True).text == "Hel"
