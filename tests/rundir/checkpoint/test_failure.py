"""What an error says of a checkpoint: the kind decides whether a run falls back or stops."""

import errno
import json

import pytest

from jaxsft.rundir.checkpoint.failure import cause_of, of_error


def raised(kind, *given, cause=None, context=None):
    error = kind(*given)
    error.__cause__, error.__context__ = cause, context
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOENT, "x"), "missing"),
        (OSError(errno.ENOTDIR, "x"), "missing"),
        (OSError(errno.ENOMEM, "x"), "memory"),
        (OSError(errno.EPERM, "x"), "refused"),
        (OSError(errno.EIO, "NOT_FOUND"), "unreachable"),  # its number counts, not its words
        (OSError("NOT_FOUND: d/1"), "missing"),  # it has none
        (OSError("?"), "unreadable"),
        (ConnectionError("?"), "unreachable"),
        (TimeoutError("?"), "unreachable"),
        (ValueError("?"), "unreadable"),
        (ValueError("PERMISSION_DENIED: 403"), "refused"),
        (json.JSONDecodeError("NOT_FOUND", "{", 1), "altered"),
        (UnicodeDecodeError("utf-8", b"NOT_FOUND", 0, 1, "?"), "altered"),
    ],
    ids=repr,
)
def test_the_kind_of_an_error(error, kind):
    assert of_error(error).kind == kind


@pytest.mark.parametrize("way", ["cause", "context"])
def test_what_an_error_came_from_is_looked_through(way):
    inner = raised(ValueError, "DATA_LOSS: 0 bytes", **{way: OSError(errno.ENOENT, "none", "d/1")})
    outer = raised(Exception, "could not load", **{way: inner})
    assert of_error(outer).kind == "missing"
    assert cause_of(outer).startswith("FileNotFoundError: ")


def test_the_cause_goes_before_the_context():
    """`raise ... from cause` says which of both it was."""
    inner = raised(ValueError, "x", cause=KeyError("cause"), context=KeyError("context"))
    assert cause_of(inner) == "KeyError: 'cause'"


def test_errors_that_came_from_one_another_end():
    one, other = Exception("one"), raised(Exception, "other", context=MemoryError("none left"))
    one.__cause__, other.__cause__ = other, one
    assert of_error(one).kind == "memory"


def test_a_cause_is_one_line_of_500_characters_at_most():
    found = of_error(ValueError("a\n b" + 600 * "c")).cause
    assert found == "ValueError: a b" + 497 * "c"
