"""Standard output and error that never stop a program: whoever read them may have gone away."""

import contextlib
import errno
import io
import os
import sys

from jaxsft.terminal.redact import look_at_environment, redacted


class NobodyReads(SystemExit):
    """A program that only prints has lost its reader; its end is no failure."""


class Unbreakable(io.TextIOWrapper):
    """A text stream whose text is lost from the first write on that fails.

    A pipe may have lost its reader (`| head`, a closed ssh), a disk may be full, and a terminal's
    encoding may lack a character. Training goes on: its record is in the run directory.
    """

    lost = False
    hides_secrets = False  # whether all that is written goes through `redacted`
    ends_the_program = False  # whether the text is all that the program is for

    def write(self, text: str, /) -> int:
        try:
            super().write(redacted(text) if self.hides_secrets else text)
            return len(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Sends what is still to come, of C libraries too, to nowhere."""
        if self.lost:
            return
        self.lost = True
        _to_nowhere(self.fileno())
        if self.ends_the_program and error.errno == errno.EPIPE:
            raise NobodyReads(0)
        if self is sys.stdout:
            said = f"stdout can't be written ({error.strerror}); the program goes on without it"
            print(said, file=sys.stderr, flush=True)


def protect() -> None:
    """Makes sys.stdout and sys.stderr unbreakable, for the whole process.

    What libraries log goes to stderr, and may name a URL with what signs it; what a program is
    asked to show of the data, as it is, goes to stdout.
    """
    look_at_environment()
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us; a file of ours could get its number
            with contextlib.suppress(OSError):
                _to_nowhere(number)
            setattr(sys, name, _unbreakable(number, "utf-8"))
        elif type(stream) is io.TextIOWrapper:  # not another program's own, such as a notebook's
            stream.flush()
            setattr(sys, name, _unbreakable(stream.fileno(), stream.encoding))
    if isinstance(sys.stderr, Unbreakable):
        sys.stderr.hides_secrets = True


def end_when_lost() -> None:
    """Ends the program, in peace, when nobody reads its output any more."""
    if isinstance(sys.stdout, Unbreakable):
        sys.stdout.ends_the_program = True


def _unbreakable(number: int, encoding: str) -> Unbreakable:
    # The stream of before stays whole: handlers of logging hold it.
    raw = open(number, "wb", closefd=False)
    return Unbreakable(raw, encoding=encoding, errors="backslashreplace", line_buffering=True)


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
