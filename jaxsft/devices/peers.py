"""One process that fails, is stopped, lost or hangs: the others hear why, and all of them end.

In the middle of a step or of a write the others wait for it inside a library of the devices, where
no exception reaches them. jax would end them after its heartbeats, a minute or two later, with a
dump of the stack and no word on why; a process that is alive and does nothing it never notices.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from jaxsft import errors
from jaxsft.devices import coordinator, heartbeats, progress, stacks, watchdog
from jaxsft.errors import PeerError, Stopped, UserError
from jaxsft.terminal import deadline, signals
from jaxsft.terminal.redact import redacted

Write = Callable[[BaseException], object]
# In the store of keys that jax's coordinator keeps.
_FAILED = "jaxsft/failed/"  # by number of the process, or:
_JUDGED = "judged"  # by the first process, of another or of all
_HEARD = "jaxsft/heard/"
_LOOK_SECONDS = 0.5
_HEARD_SECONDS = 5.0  # the first process serves the others, which must have heard
_END_SECONDS = 30.0  # a report may be written to a disk that does not answer
# What libraries say where another process is gone: there is a cause elsewhere.
_CONNECTION = re.compile(
    r"(?i)gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|UNAVAILABLE"
    r"|DEADLINE_EXCEEDED|coordination|barrier|heartbeat"
)


def here(error: BaseException) -> str:
    """Where it was raised, such as "process 1 (host b), training, after step 12"."""
    return f"{heartbeats.who(jax.process_index(), socket.gethostname())}, {progress.at(error)}"


def told(error: BaseException) -> tuple[int, str]:
    """Exit code and message for the other processes."""
    if isinstance(error, UserError | Stopped):
        return error.exit_code, str(error)
    return errors.LOST_PEER, f"{type(error).__name__}: {error}"


@dataclasses.dataclass(frozen=True)
class Patience:
    """
    Attributes:
        lost_seconds: without a sign of life, after which a process is lost.
        hang_seconds: without a step, after which the run hangs, unless steps take a tenth of it.
    """

    lost_seconds: float = 20.0
    hang_seconds: float = 300.0


@contextlib.contextmanager
def listening(write: Write, patience: Patience) -> Iterator["Peers"]:
    """Inside, this process ends within seconds, for the same reason, when another does not go on.

    Args:
        write: what this process leaves of the run when it ends.
    """
    progress.restart()
    with Peers(write, patience)._threads() as peers:
        yield peers
        peers._wait_for_others()


class Peers:
    """This process among those of its run, which may be alone."""

    def __init__(self, write: Write, patience: Patience):
        self._write = write
        self._patience = patience
        self._number, self._count = jax.process_index(), jax.process_count()
        # The first process listens for all others, and they for it.
        first = self._number == 0
        others = [number for number in range(self._count) if number != self._number]
        self._silences = heartbeats.Silences(others if first else [0])
        self._mine = heartbeats.beat_here(1, patience.hang_seconds)
        self._broken = self._told = False
        self._lost: dict[int, str] = {}
        self._over = threading.Event()
        self._found = threading.Event()
        self._cause: UserError | Stopped | None = None
        self._hangs = False
        # One thread ends the process: the main one, whose collective broke, or one of those here.
        self._ending = threading.Lock()

    @contextlib.contextmanager
    def _threads(self) -> Iterator["Peers"]:
        threads = [threading.Thread(target=self._watch, daemon=True)]
        if self._count > 1:
            threads.append(threading.Thread(target=self._talk, daemon=True))
            with contextlib.suppress(RuntimeError):  # a process that is lost at once has a name
                heartbeats.send(self._number, self._mine)
        for thread in threads:
            thread.start()
        several = self._count > 1
        aborts = coordinator.instead_of_aborting(self._aborts)
        late = deadline.of_this_process().telling(self._leave_late)
        try:
            with late, aborts if several else contextlib.nullcontext():
                yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(_HEARD_SECONDS)  # one may wait for a coordinator that is gone

    @progress.during("ending")
    def _wait_for_others(self) -> None:
        if self._count > 1:
            multihost_utils.sync_global_devices("jaxsft: the run is over")

    def leave(self, error: BaseException) -> None:
        """Writes what is left of the run; returns where every process knows of the error.

        Else it tells the others and ends this process: jax would wait minutes for them at exit, and
        they for this process.
        """
        agreed = isinstance(error, UserError | Stopped) and error.agreed
        if self._count == 1 or agreed or isinstance(error, errors.FailedTogether):
            self._over.set()  # who writes less is away sooner, and not lost
            self._write(error)
            return
        if not self._ending.acquire(blocking=False):
            time.sleep(_END_SECONDS)  # another thread ends this process
        signals.leave_to_deadline()
        if isinstance(error, KeyboardInterrupt):
            error = signals.stopped_by(signal.SIGINT)
        if self._elsewhere(error) and self._cause:  # this one's is what came of it
            self._end_with(self._cause)
        known = isinstance(error, UserError | Stopped)
        code = error.exit_code if known else errors.INTERNAL
        self._at_the_latest(code)
        code_there, message = told(error)
        self._tell(str(self._number), code_there, f"{here(error)}: {message}")
        said = str(error) if known else "".join(traceback.format_exception(error))
        _say(error, f"{here(error)}: {said}")
        self._write(error)
        self._wait_until_heard()
        self._hears()
        os._exit(code)

    def _leave_late(self) -> None:
        """Where a signal's deadline ends this process: the others would take it for lost."""
        if self._count == 1:
            return
        if not self._told:
            me = heartbeats.who(self._number, socket.gethostname())
            why = f"{me}, {progress.now()}: stopped by a signal, which it could not obey in time"
            self._tell(str(self._number), errors.STOPPED, why)
        self._wait_until_heard()
        self._hears()

    def _elsewhere(self, error: BaseException) -> bool:
        """Whether another process is the cause, for which a broken connection alone is no proof."""
        self._broken = any(_CONNECTION.search(str(one)) for one in errors.chain(error))
        until_lost = watchdog.BROKEN_SECONDS + _HEARD_SECONDS if self._broken else 0.0
        return self._found.wait(heartbeats.SECONDS + _LOOK_SECONDS + until_lost)

    def _talk(self) -> None:
        """Tells the others of this process and hears of them; a call may wait for ever."""
        while not self._over.wait(heartbeats.SECONDS):
            with contextlib.suppress(RuntimeError):  # no answer: the other thread counts seconds
                heartbeats.send(self._number, self._mine)
                of = None if self._number == 0 else 0
                heard = heartbeats.received(of).items()
                self._silences.beats.update((n, b) for n, b in heard if n != self._number)
                self._hear()

    def _hear(self) -> None:
        found = coordinator.below(_FAILED)
        # A failure that a process told of is the cause of what was judged.
        for key in sorted(found.keys() - {str(self._number)}):
            code, message, hangs = json.loads(found[key])
            self._hears()
            return self._find(errors.of_code(code)(message), hangs)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            silences = self._silences.look()
            count, patience = self._mine.count + 1, self._patience
            self._mine = heartbeats.beat_here(count, patience.hang_seconds, self._broken)
            if self._found.is_set():
                continue
            beats = self._silences.beats | {self._number: self._mine}
            self._lost = watchdog.lost(beats, silences, patience.lost_seconds)
            hangs = None if self._lost or self._number else watchdog.hang(beats)
            if cause := "\n".join(self._lost.values()) or hangs:
                if self._number == 0 and self._count > 1:
                    self._tell(_JUDGED, errors.LOST_PEER, cause, hangs is not None)
                self._find(PeerError(cause), hangs is not None)

    def _aborts(self) -> None:
        """Called where jax aborts this process; returns where its coordinator is still there."""
        if self._number and coordinator.is_gone():
            why = "its connections are closed"
            self._find(PeerError(watchdog.lost_because(why, 0, self._silences.beats[0])))
            time.sleep(_END_SECONDS)  # another thread ends this process
        elif self._found.is_set():
            time.sleep(_END_SECONDS)

    def _hears(self) -> None:
        """Says that this process has no more to hear: another one may take the store away."""
        with contextlib.suppress(RuntimeError):
            coordinator.put(f"{_HEARD}{self._number}", "")

    def _find(self, cause: UserError | Stopped, hangs: bool = False) -> None:
        if not self._found.is_set():
            self._cause, self._hangs = cause, hangs
            self._found.set()
        if self._cause and self._ending.acquire(blocking=False):
            self._end_with(self._cause)

    def _end_with(self, cause: UserError | Stopped) -> NoReturn:
        self._at_the_latest(cause.exit_code)
        _say(cause, str(cause))
        if self._hangs:
            _say(None, f"the stacks of {here(cause)}:")
            stacks.dump()
        self._write(cause)
        if self._number == 0 and self._count > 1:
            self._wait_until_heard()
        os._exit(cause.exit_code)

    def _at_the_latest(self, code: int) -> None:
        timer = threading.Timer(_END_SECONDS, os._exit, (code,))
        timer.daemon = True
        timer.start()

    def _tell(self, key: str, code: int, message: str, hangs: bool = False) -> None:
        self._told = True
        with contextlib.suppress(RuntimeError):
            coordinator.put(f"{_FAILED}{key}", json.dumps((code, redacted(message), hangs)))

    def _wait_until_heard(self) -> None:
        """Returns when all others know; those that are lost never will."""
        until = time.monotonic() + _HEARD_SECONDS
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < until:
                heard = {int(key) for key in coordinator.below(_HEARD)}
                if len(heard | self._lost.keys() | {self._number}) == self._count:
                    return
                time.sleep(0.1)


def _say(error: BaseException | None, text: str) -> None:
    head = "" if error is None or isinstance(error, Stopped) else "error: "
    print(redacted(f"{head}{text}"), file=sys.stderr, flush=True)
