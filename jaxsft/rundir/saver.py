"""When a run saves, and what it makes of saves that fail: all processes decide alike.

A save runs in the background. One that fails is told at the next step and tried again later; a run
goes on meanwhile, as its newest good checkpoint stays. With several processes one may fail alone,
and then the others would wait for it inside Orbax: so each asks the others, by a vote that no step
waits for, and all give the save up.
"""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

import jax

from jaxsft import errors
from jaxsft.config import Checkpoint
from jaxsft.data.pack.epochs import Epochs
from jaxsft.devices import distributed
from jaxsft.devices.digest import Tree
from jaxsft.errors import known_to_all
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.saving import NotSaved
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.rundir.step_figures import StepFigures
from jaxsft.training.inputs import Say

MAX_FAILURES = 3  # in a row
RETRY_SECONDS = (5.0, 30.0)  # after the first failure, and the second
_LAST_RETRY_SECONDS = 1.0  # where the run has nothing else to do
_LET_END_SECONDS = 60.0  # a save that runs when the program ends for another reason
_POLL_SECONDS = 0.05
_TOPIC = "save"


class Saver:
    """Saves to a store by policy, by clock and by signal.

    Attributes:
        failures: saves of this run that failed, and stopped nothing.
    """

    def __init__(self, store: CheckpointStore, policy: Checkpoint, say: Say, failures: int = 0):
        self.failures = failures
        self._store = store
        self._policy = policy
        self._say = say
        self._in_a_row = 0
        self._pending = False  # a save whose end is not known to all yet
        self._notes: Notes | None = None  # of the newest save
        self._last = time.monotonic()  # the newest save, or the start
        self._retry_at: float | None = None
        self._at_once: NotSaved | None = None  # what went wrong before the background
        self._requested = False  # by a signal to this process
        self._asked = False  # by a signal to any
        self._old_wishes = False  # whether the newest vote was before the newest save, or failure

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, SIGUSR1 asks for a checkpoint; nor does one that comes later end the program."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGUSR1, self._request)
        try:
            yield
        except Exception:
            self._store.let_end(_LET_END_SECONDS)  # it may be the last good state
            raise
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN if before == signal.SIG_DFL else before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._requested = True

    def restart_clock(self) -> None:
        """The first step begins: what was done before needs no checkpoint."""
        self._last = time.monotonic()

    def counted(self, line: StepFigures) -> StepFigures:
        return dataclasses.replace(line, checkpoint_failures=self.failures)

    def wishes(self) -> Sequence[bool]:
        """Of this process, for the vote after each step: the clock, a signal, a save that failed;
        until they are met."""
        return self._is_time(), self._requested, isinstance(self._progress(), NotSaved)

    def is_due(self, done: int, epochs: Epochs, wished: Sequence[bool]) -> bool:
        """Whether the step, the clock, a signal or a save that failed ask to save now.

        Asked after each step.

        Args:
            wished: by any process, as it was voted.

        Raises:
            NotSaved: a save failed, as the two before it did.
        """
        clock, asked, failed = [False] * 3 if self._old_wishes else wished
        self._old_wishes = False
        if failed:
            self._tell_failure(done)
        self._asked |= asked
        steps, times = self._policy.save_every_steps, self._policy.save_times_per_epoch
        return clock or asked or epochs.is_due(steps, times, done)

    def _is_time(self) -> bool:
        """By the clock of the first process."""
        if jax.process_index() != 0:
            return False
        now = time.monotonic()
        minutes = self._policy.save_every_minutes
        regular = minutes is not None and now - self._last >= 60 * minutes
        return regular or (self._retry_at is not None and now >= self._retry_at)

    def _progress(self) -> str | NotSaved:
        return self._at_once or self._store.outcome()

    def save(self, step: int, state: Tree, notes: Notes) -> None:
        """Starts to save; returns when the arrays may be overwritten.

        A save before it that still runs is waited for. What goes wrong is told after a later step.

        Raises:
            NotSaved: the save before this one failed, as the two before it did.
            CheckpointError, DivergedError: as the store does.
        """
        self._conclude(step)
        if self._asked:
            self._say(_TOPIC, f"step {step}, as SIGUSR1 asks")
        self._retry_at = None  # what was asked for before this save is done by it
        self._forget_vote()
        self._requested = self._asked = False
        self._last = time.monotonic()
        self._pending, self._notes = True, notes
        try:
            self._store.save(step, state, notes)
        except NotSaved as error:
            self._at_once = error

    def finish(self, step: int, state: Tree, may_retry: bool, settled: bool) -> None:
        """Returns when the newest save is committed, which is tried again here where it failed.

        Args:
            may_retry: whether `state`, after `step`, is one to save; with the newest save's notes.
            settled: and older steps are deleted.

        Raises:
            NotSaved: it can't be saved.
        """
        while not self._conclude(step):
            if not may_retry or self._notes is None:
                break
            time.sleep(_LAST_RETRY_SECONDS)
            self.save(step, state, self._notes)
        self._store.wait(settled)

    def _conclude(self, done: int) -> bool:
        """Waits for the newest save's end on all processes; whether it is good, or there is none.

        Raises:
            NotSaved: as is_due.
        """
        while True:
            mine = self._progress()
            words = "failed" if isinstance(mine, NotSaved) else mine
            all_words = {words}
            if jax.process_count() > 1:
                all_words = {one["save"] for one in distributed.gather({"save": words})}
            if "failed" in all_words:
                self._tell_failure(done)
                return False
            if "saving" not in all_words:
                self._in_a_row = 0 if self._pending else self._in_a_row
                self._pending = False
                return True
            time.sleep(_POLL_SECONDS)

    def _forget_vote(self) -> None:
        self._old_wishes = jax.process_count() > 1  # alone, what is wished is known at once

    def _tell_failure(self, done: int) -> None:
        """Gives the newest save up, on all processes, which all are here."""
        mine = self._progress()
        told = [mine.exit_code, str(mine)] if isinstance(mine, NotSaved) else None
        everyone = [one["failed"] for one in distributed.gather({"failed": told})]
        number, (code, said) = next((n, one) for n, one in enumerate(everyone) if one)
        self._store.give_up()
        self._at_once = None
        self._forget_vote()
        self._pending = False
        self.failures += 1
        self._in_a_row += 1
        cause = said if len(everyone) == 1 else f"process {number}: {said}"
        if self._in_a_row == MAX_FAILURES:
            raise known_to_all(
                errors.of_code(code)(
                    f"{cause}; {MAX_FAILURES} saves in a row failed, the last after step {done}:"
                    " the run ends, and its newest good checkpoint is kept"
                )
            )
        self._retry_at = time.monotonic() + RETRY_SECONDS[self._in_a_row - 1]
        self._say(
            _TOPIC,
            f"error: {cause}. Training goes on, seen after step {done}; failure {self._in_a_row} of"
            f" {MAX_FAILURES} in a row, after which the run ends; tried again soon",
        )
