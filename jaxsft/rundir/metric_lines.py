"""Files of one JSON object a line, each of a step; the last may be cut short by a kill."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsFloat

from jaxsft.files import places
from jaxsft.files.whole_files import write_text
from jaxsft.terminal.redact import redacted_values

Line = dict[str, Any]  # a JSON object with its "step"


def finite(value: SupportsFloat) -> float | None:
    """The number, or None (null in JSON) for NaN and infinities."""
    return float(value) if math.isfinite(float(value)) else None


class JsonLines:
    """A file of one JSON object a line, such as metrics.jsonl.

    Args:
        writes: False on all processes but the first: they neither read nor write.
    """

    def __init__(self, path: Path, writes: bool = True):
        self._path = path
        self._writes = writes

    def read(self) -> list[Line]:
        """All whole lines; a line that a killed process left half-written is not one."""
        return read_lines(self._path)[0] if self._writes else []

    def keep(self, wanted: Callable[[Line], bool]) -> None:
        """Forgets the other lines, such as those after the checkpoint that a run resumes from.

        A file with lines that a failing disk made unreadable is kept beside it, as `.damaged`.
        """
        if not self._writes or not self._path.exists():
            return
        with places.using(str(self._path)):
            found, unreadable, cut = read_lines(self._path)
            text = "".join(json.dumps(line) + "\n" for line in found if wanted(line))
            if len(unreadable) > cut:
                shutil.copyfile(self._path, self._path.with_name(f"{self._path.name}.damaged"))
            write_text(self._path, text)

    def append(self, values: Line) -> None:
        if self._writes:
            with places.using(str(self._path)), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(redacted_values(values), allow_nan=False) + "\n")


def read_lines(path: Path) -> tuple[list[Line], list[int], bool]:
    """The objects in a file of JsonLines, each of a step; the numbers of the lines that hold none;
    and whether the last of these is a line that a killed process left half-written."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    *whole, rest = text.split("\n")
    lines = [(number, line) for number, line in enumerate(whole, 1) if line.strip()]
    values = [(number, line_of_text(line)) for number, line in lines]
    unreadable = [number for number, value in values if value is None]
    if rest:
        unreadable.append(len(whole) + 1)
    return [value for _, value in values if value is not None], unreadable, bool(rest)


def line_of_text(line: str | bytes) -> Line | None:
    """The object of a step that it spells, if it does."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None
