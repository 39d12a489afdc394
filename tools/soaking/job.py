"""One process of a run, with places where a fault is put in.

    python -m soaking.job FOLDER NUMBER [flags of jaxsft.train]

A file in FOLDER asks for each: `hang.NUMBER` makes this process sleep for ever within a step,
`clock` holds seconds by which its clock is wrong, `plant` (before the start) makes a run that goes
on leave out a batch, which is the mistake that a soak must find.
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LOOK_SECONDS = 0.2


def main(folder: Path, number: int, flags: list[str]) -> None:
    _skew_clock(folder / "clock")
    from jaxsft.training import loader
    from jaxsft.training.over_mesh import TrainStep

    TrainStep.__call__ = _hanging(folder / f"hang.{number}", TrainStep.__call__)
    if (folder / "plant").exists():
        loader.Batches.stream = _leaving_one_out(loader.Batches.stream)
    from jaxsft.cli.programs import train

    sys.argv = ["jaxsft.train", *flags]
    train.start()


def _hanging(file: Path, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def step(*arguments: Any) -> Any:
        while file.exists():
            time.sleep(_LOOK_SECONDS)
        return call(*arguments)

    return step


def _leaving_one_out(stream: Callable[..., Any]) -> Callable[..., Any]:
    def late(self: Any, first: int, last: int) -> Any:
        left_out = int(first > 0)
        return stream(self, first + left_out, last + left_out)

    return late


def _skew_clock(file: Path) -> None:
    """Adds what the file says to time.time(); a monotonic clock does not jump."""
    real, seen = time.time, [0.0, 0.0]  # when it was looked at, and the seconds found

    def skewed() -> float:
        now = real()
        if now - seen[0] > _LOOK_SECONDS:
            seen[:] = now, float(file.read_text() or 0) if file.exists() else 0.0
        return now + seen[1]

    time.time = skewed


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
