"""What a run did per step: counters, and the file they go to.

N: segments.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

from jaxsft import places
from jaxsft.whole_files import write_text


@dataclasses.dataclass(frozen=True)
class BatchCounts:
    """What the host knows of one global batch."""

    tokens: int  # not padding
    slots: int  # rows x sequence length
    # (query, key) pairs that a head of a layer must form, by the layer's window.
    attention_pairs: Mapping[int | None, int]
    examples: int

    @classmethod
    def of_segments(
        cls, lengths_N: np.ndarray, slots: int, windows: Iterable[int | None]
    ) -> "BatchCounts":
        """Counts of segments of these lengths, for a model whose layers have these windows."""
        return cls(
            tokens=int(lengths_N.sum()),
            slots=slots,
            attention_pairs={window: int(_pairs(lengths_N, window).sum()) for window in windows},
            examples=len(lengths_N),
        )

    def __add__(self, other: "BatchCounts") -> "BatchCounts":
        pairs = {w: n + other.attention_pairs[w] for w, n in self.attention_pairs.items()}
        return BatchCounts(
            self.tokens + other.tokens,
            self.slots + other.slots,
            pairs,
            self.examples + other.examples,
        )


def _pairs(lengths_N: np.ndarray, window: int | None) -> np.ndarray:
    """Token i of a segment sees i + 1 tokens, or `window` of them.

    lengths     2   5
    window 3    3  12   = 1 + 2,  1 + 2 + 3 + 3 + 3
    """
    seen_N = lengths_N if window is None else np.minimum(lengths_N, window)
    return seen_N * (seen_N + 1) // 2 + (lengths_N - seen_N) * seen_N


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

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a line that a killed process left half-written is not one."""
        return read_lines(self._path)[0] if self._writes else []

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
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

    def append(self, values: dict[str, Any]) -> None:
        if self._writes:
            with places.using(str(self._path)), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, allow_nan=False) + "\n")


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[int], bool]:
    """The objects in a file of JsonLines, each of a step; the numbers of the lines that hold none;
    and whether the last of these is a line that a killed process left half-written."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    *whole, rest = text.split("\n")
    lines = [(number, line) for number, line in enumerate(whole, 1) if line.strip()]
    values = [(number, _of_a_step(line)) for number, line in lines]
    unreadable = [number for number, value in values if value is None]
    if rest:
        unreadable.append(len(whole) + 1)
    return [value for _, value in values if value is not None], unreadable, bool(rest)


def _of_a_step(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None
