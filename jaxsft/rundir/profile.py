"""A trace of some steps of a run, by jax's profiler: where their time goes on each device."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxsft.files import run_names
from jaxsft.rundir.run_files import Outputs

# Python's own calls would fill the trace, and slow down what is to be measured.
_PYTHON_CALLS = 0


@contextlib.contextmanager
def traced(
    steps: Sequence[int] | None, out: Outputs, done: int, total: int
) -> Iterator["StepTrace"]:
    """Inside, each step tells the trace of itself; however the steps end, what there is of it is
    written.

    Only the first process makes one.

    Args:
        steps: the first and the last; None: no trace.
        done: steps before this start.
    """
    if steps is None or jax.process_index() != 0:
        yield StepTrace(None, "", "", lambda topic, text: None)
        return
    first, last = steps
    if done >= first or first > total:
        why = f"this start goes on after step {done}" if done >= first else f"it has {total} steps"
        out.console.say("profile", f"warning: no trace of steps {first} to {last}: {why}")
        steps = None
    directory = out.workdir.files / run_names.PROFILE
    shown = out.workdir.shown(run_names.PROFILE)
    trace = StepTrace(steps, str(directory), shown, out.console.say)
    try:
        yield trace
    finally:
        trace.end()


class StepTrace:
    """What fails here is said, and leaves the run alone.

    Args:
        steps: the first and the last that it is of; None: it is of none.
        say: a topic and a text.
    """

    def __init__(
        self,
        steps: Sequence[int] | None,
        directory: str,
        shown: str,
        say: Callable[[str, str], None],
    ):
        self._steps = steps
        self._directory = directory
        self._shown = shown
        self._say = say
        self._newest: int | None = None  # step in a trace that goes on; None: none does

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Inside, a step is sent to the devices."""
        if self._steps is not None and number == self._steps[0]:
            self._try(self._begin, number)
        if self._newest is None:
            yield
            return
        self._newest = number
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            yield

    def ends(self, number: int, result: Any) -> bool:
        """Whether the step was the last of the trace, which is now written.

        Args:
            result: of the step, for which it waits.
        """
        if self._newest is None or self._steps is None or number < self._steps[1]:
            return False
        jax.block_until_ready(result)
        self.end()
        return True

    def end(self) -> None:
        if self._newest is not None:
            newest, self._newest = self._newest, None
            self._try(self._write, newest)

    def _begin(self, number: int) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = _PYTHON_CALLS
        jax.profiler.start_trace(self._directory, profiler_options=options)
        self._newest = number

    def _write(self, newest: int) -> None:
        assert self._steps is not None
        jax.profiler.stop_trace()
        self._say(
            "profile",
            f"steps {self._steps[0]} to {newest}: {self._shown}; to look at it: pip install xprof,"
            f" xprof {self._shown}; or open its *.trace.json.gz in https://ui.perfetto.dev",
        )

    def _try(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except Exception as error:  # the profiler's own, and those of the disk
            self._steps = None
            self._say("profile", f"warning: no trace, the run goes on: {error}")
