"""report.html of a run that lasts: written anew on the way, beside the steps."""

import contextlib
import dataclasses
import threading
import time
from pathlib import Path

import jax

from jaxsft.files import run_names
from jaxsft.report.endings import attempt
from jaxsft.report.page.write import write_report
from jaxsft.rundir.metric_lines import Line
from jaxsft.rundir.run_files import Outputs
from jaxsft.rundir.starts import Starts
from jaxsft.training.predicted import Predicted

_SECONDS = 60.0  # between two pages, at the least
_SHARE = 50  # and so many times what the last one took: 2 % of one core's time at the most


def beside(
    out: Outputs, leaving: contextlib.ExitStack, predicted: Predicted
) -> tuple["LivePage", Outputs]:
    """A page beside the run's other figures, and the seconds of its starts, written by the first
    process; close it before the last page is written, or leave."""
    page = LivePage(out.workdir.files)
    leaving.callback(page.close)
    if jax.process_index() != 0:
        return page, out
    starts = Starts(out.workdir.files / run_names.STARTS, predicted)
    writers = dataclasses.replace(out.metrics, others=(*out.metrics.others, starts, page))
    return page, dataclasses.replace(out, metrics=writers)


class LivePage:
    """A writer of figures that makes the page of them, in a thread of its own.

    After `close` no page comes any more, so that the last one stays.
    """

    def __init__(self, directory: Path, seconds: float = _SECONDS):
        self._directory = directory
        self._seconds = seconds
        self._wanted = threading.Event()
        self._ends = threading.Event()
        self._next = 0.0  # not before this moment
        self._thread: threading.Thread | None = None

    def append(self, line: Line) -> None:
        """Evaluations are shown as soon as may be, steps when it is time."""
        is_evaluation = any(key.startswith("eval/") for key in line)
        if self._ends.is_set() or not (is_evaluation or time.monotonic() >= self._next):
            return
        self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="report", daemon=True)
            self._thread.start()

    def resume(self, step: int | None) -> None:
        """The next page has what is left."""

    def close(self) -> None:
        self._ends.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def _write(self) -> None:
        while True:
            self._wanted.wait()
            self._ends.wait(max(0.0, self._next - time.monotonic()))
            if self._ends.is_set():
                return
            self._wanted.clear()
            began = time.monotonic()
            attempt("the page of the run so far", lambda: write_report(self._directory, lasts=True))
            taken = time.monotonic() - began
            self._next = time.monotonic() + max(self._seconds, _SHARE * taken)
