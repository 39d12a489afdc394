"""What a run says: a progress bar on a terminal, plain lines elsewhere; process 0 only."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import rich.console
import rich.progress
import rich.table
import rich.text

from jaxsft.terminal import eta
from jaxsft.terminal.printable import printable
from jaxsft.terminal.redact import redacted

_LINE_SECONDS = 5  # between two lines off a terminal


class ShownFigures(Protocol):
    """What is shown of a step's figures; None: not finite."""

    @property
    def step(self) -> int: ...
    @property
    def step_seconds(self) -> float: ...
    @property
    def skipped_steps(self) -> int: ...
    @property
    def loss(self) -> float | None: ...
    @property
    def token_accuracy(self) -> float | None: ...
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def learning_rate(self) -> float | None: ...
    @property
    def tokens_per_second(self) -> float | None: ...
    @property
    def mfu(self) -> float | None: ...
    @property
    def memory_bytes(self) -> int | None: ...


class Console:
    def __init__(self, speaks: bool = True):
        self._speaks = speaks
        self._rich = rich.console.Console(highlight=False, soft_wrap=True)
        self._live = self._rich.is_terminal and not self._rich.is_dumb_terminal and speaks
        self._progress: _Steps | None = None
        self._held_out: float | None = None
        self._last_line: float | None = None
        self._unsaid: str | None = None  # the newest step's line, if it was too soon to say it
        self._remaining: eta.Remaining | None = None

    def say(self, topic: str, text: str) -> None:
        """One line: what it is about, then what there is to know."""
        if self._speaks:
            self._rich.print(f"{topic:<11}{printable(redacted(text))}", markup=False)
            sys.stdout.flush()

    def show(self, print_to: Callable[[rich.console.Console], None]) -> None:
        """Lets `print_to` print tables and the like."""
        if self._speaks:
            print_to(rich.console.Console(highlight=False))  # wraps, as tables and prose want it
            sys.stdout.flush()

    @contextlib.contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int], None]]:
        """Inside, the function given moves a counter; off a terminal it is a line now and then."""
        if not self._live:
            last = time.monotonic()

            def say(count: int) -> None:
                nonlocal last
                if time.monotonic() - last > _LINE_SECONDS:
                    last = time.monotonic()
                    self.say("data", f"{what}: {count:,} rows")

            yield say
            return
        text = rich.progress.TextColumn("{task.description}: {task.completed:,} rows")
        columns = (rich.progress.SpinnerColumn(), text, rich.progress.TimeElapsedColumn())
        with rich.progress.Progress(*columns, console=self._rich, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda count: bar.update(task, completed=count)

    @contextlib.contextmanager
    def steps(self, done: int, total: int, schedule: eta.Schedule | None = None) -> Iterator[None]:
        """Inside, `step` moves a progress bar, if this is a terminal, or says a line.

        Args:
            schedule: of what is done beside the steps.
        """
        self._remaining = eta.Remaining(done, total, schedule)
        self._unsaid = None
        if not self._live:
            try:
                yield
            finally:
                if self._unsaid is not None:  # the last, however soon after the one before
                    self.say("step", self._unsaid)
            return
        self._progress = _Steps(self._rich)
        self._progress.add_task("", total=total, completed=done, values=(), until=None)
        try:
            with self._progress:
                yield
        finally:
            self._progress = None

    def evaluated(self, loss: float | None) -> None:
        """The newest loss on held-out data, which the steps' figures are shown with."""
        self._held_out = loss

    def step(self, total: int, figures: ShownFigures) -> None:
        """The progress of training, by a line of the log: that line's step, and its figures.

        Off a terminal it is said every few seconds; the last one always.
        """
        done = figures.step
        assert self._remaining is not None, "outside of `steps`"
        left = self._remaining.seconds(done, figures.step_seconds)
        if self._progress is not None:
            task, until = self._progress.task_ids[0], time.monotonic() + left
            shown = _on_terminal(figures, self._held_out)
            self._progress.update(task, completed=done, values=shown, until=until)
            return
        ending = [] if done == total else [f"{eta.said(left)} left"]
        text = "  ".join([f"{done}/{total}", *_on_a_line(figures), *ending])
        if self._last_line is None or time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line, self._unsaid = time.monotonic(), None
            self.say("step", text)
        else:
            self._unsaid = text

    def table(self, title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        if not self._speaks:
            return
        table = rich.table.Table(*head, title=printable(redacted(title)), title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*(printable(redacted(cell)) for cell in row))
        self._rich.print(table)


class _Steps(rich.progress.Progress):
    """How far the steps are and the time left; below it as many figures of the newest one as a line
    of the terminal has room for."""

    def __init__(self, terminal: rich.console.Console):
        super().__init__(
            rich.progress.TextColumn("step {task.completed}/{task.total}"),
            rich.progress.BarColumn(None),
            _Left(),
            console=terminal,
            expand=True,
        )

    def get_renderables(self) -> Iterator[rich.console.RenderableType]:
        yield self.make_tasks_table(self.tasks)
        line = ""
        for value in self.tasks[0].fields["values"] if self.tasks else ():
            longer = f"{line}  {value}" if line else value
            if len(longer) > self.console.width:
                break
            line = longer
        if line:
            yield rich.text.Text(line, no_wrap=True)


class _Left(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> rich.text.Text:
        until: float | None = task.fields["until"]
        if until is None or task.completed == task.total:
            return rich.text.Text("")
        left = eta.said(max(0.0, until - time.monotonic()))
        return rich.text.Text(f"{left} left", no_wrap=True)


def _on_a_line(figures: ShownFigures) -> list[str]:
    """A step's figures in words, those that matter most first; scripts read them."""
    return [
        *_of_training(figures),
        f"accuracy {_number(figures.token_accuracy, '.3f')}",
        f"lr {_number(figures.learning_rate, '.2e')}",
        f"grad norm {_number(figures.grad_norm, '.2f')}",
        f"{_number(figures.tokens_per_second, ',.0f')} tokens/s",
    ]


def _on_terminal(figures: ShownFigures, held_out: float | None) -> list[str]:
    """The same and more, where a line may be short of room."""
    memory = figures.memory_bytes
    first = _of_training(figures)
    *others, speed = _on_a_line(figures)[len(first) :]
    return [
        *first,
        *([] if held_out is None else [f"held-out {held_out:.4f}"]),
        speed,
        *([] if figures.mfu is None else [f"MFU {figures.mfu:.1%}"]),
        *([] if memory is None else [f"{memory / 2**30:.1f} GiB"]),
        *others,
    ]


def _of_training(figures: ShownFigures) -> list[str]:
    skipped = figures.skipped_steps
    loss = f"loss {_number(figures.loss, '.4f')}"
    return [loss, *([f"skipped {skipped}"] if skipped else [])]


def _number(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)
