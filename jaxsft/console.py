"""What a run says: a progress bar on a terminal, plain lines elsewhere; process 0 only."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import rich.console
import rich.progress
import rich.table

from jaxsft.printable import printable
from jaxsft.redact import redacted

_LINE_SECONDS = 5  # between two lines off a terminal


class Console:
    def __init__(self, speaks: bool = True):
        self._speaks = speaks
        self._rich = rich.console.Console(highlight=False, soft_wrap=True)
        self._live = self._rich.is_terminal and speaks
        self._progress: rich.progress.Progress | None = None
        self._last_line = 0.0

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
    def steps(self, done: int, total: int) -> Iterator[None]:
        """Inside, `step` moves a progress bar, if this is a terminal."""
        if not self._live:
            yield
            return
        self._progress = self._bar()
        self._progress.add_task("", total=total, completed=done)
        try:
            with self._progress:
                yield
        finally:
            self._progress = None

    def _bar(self) -> rich.progress.Progress:
        return rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed}/{task.total}"),
            rich.progress.BarColumn(20),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.description}"),
            console=self._rich,
        )

    def step(self, done: int, total: int, values: dict[str, Any]) -> None:
        """The progress of training; off a terminal a line every few seconds, and the last."""
        text = (
            f"loss {_number(values['loss'], '.4f')}"
            f"  accuracy {_number(values['token_accuracy'], '.3f')}"
            f"  lr {values['learning_rate']:.2e}  grad norm {_number(values['grad_norm'], '.2f')}"
            f"  {values['tokens_per_second']:,.0f} tokens/s"
        )
        if values["skipped_steps"]:
            text += f"  skipped {values['skipped_steps']}"
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, description=text)
        elif done == total or time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say("step", f"{done}/{total}  {text}")

    def table(self, title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        if not self._speaks:
            return
        table = rich.table.Table(*head, title=printable(redacted(title)), title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*(printable(redacted(cell)) for cell in row))
        self._rich.print(table)


def _number(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)
