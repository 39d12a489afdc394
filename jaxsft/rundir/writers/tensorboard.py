"""The figures of a run as TensorBoard reads them."""

import importlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxsft.rundir.metric_lines import Line
from jaxsft.rundir.writers.answers import COLUMNS, rows_of

_FILES = "events"  # how the names of its files begin
_TIGHT = "|"  # ends a cell of a table in Markdown


class TensorBoard:
    """A file of events for each start of the run, in one directory: that start's later steps take
    the place of those that a killed start wrote.

    Args:
        config: what the run uses, as JSON has it.
    """

    name = "tensorboard"
    remedy = "a later start goes on with it"

    def __init__(self, directory: Path, shown: str, config: dict[str, Any]):
        self._directory = directory
        self._shown = shown
        self._config = config
        self._events = None
        self._there: set[tuple[int, str]] = set()  # figures that an earlier start wrote

    def begin(self, step: int | None, there: Sequence[Line]) -> str:
        from tensorboardX.event_file_writer import EventsWriter

        self.close()
        self._directory.mkdir(exist_ok=True)
        if step is None:  # what is there is of another run
            for file in self._directory.glob(f"{_FILES}.out.tfevents.*"):
                file.unlink()
        self._there = {(line["step"], key) for line in there for key in line}
        self._events = EventsWriter(str(self._directory / _FILES))
        # From this step on readers leave out what is older, those that are open already too.
        start = _events().SessionLog(status=_events().SessionLog.START)
        first = 0 if step is None else step + 1
        self._events.write_event(_events().Event(step=first, session_log=start))
        if step is None:
            self._write_text("config", _indented(json.dumps(self._config, indent=2)), 0)
        self._events.flush()
        return f"tensorboard --logdir={self._shown}"

    def append(self, line: Line, samples: Sequence[dict[str, Any]]) -> None:
        from tensorboardX.summary import scalar

        assert self._events is not None, "before begin"
        step = line["step"]
        for key, value in line.items():
            # A whole number of any size is a float here.
            if key == "step" or value is None or (step, key) in self._there:
                continue
            if math.isfinite(value):
                self._write(scalar(key, float(value)), step)
        if samples:
            self._write_text("samples", _table(samples), step)
        self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def abandon(self) -> None:
        self.close()

    def _write_text(self, tag: str, markdown: str, step: int) -> None:
        from tensorboardX.summary import text

        self._write(text(tag, markdown), step)

    def _write(self, summary: Any, step: int) -> None:
        assert self._events is not None, "before begin"
        event = _events().Event(wall_time=time.time(), step=step, summary=summary)
        self._events.write_event(event)


def _events() -> ModuleType:
    """The types of what is in a file, which are made when they are imported."""
    return importlib.import_module("tensorboardX.proto.event_pb2")


def _indented(text: str) -> str:
    """As Markdown shows it unchanged."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _table(samples: Sequence[dict[str, Any]]) -> str:
    rows = [COLUMNS, ["---"] * len(COLUMNS), *rows_of(samples)]
    return "\n".join(f"|{'|'.join(_cell(str(cell)) for cell in row)}|" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.replace(_TIGHT, "\\|").split())
