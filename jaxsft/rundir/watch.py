"""The figure that a run follows: which step has its best value, and whether it still gets better.

All of it is in the notes of each checkpoint, so that a run that goes on from any of them decides as
if it had never stopped.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxsft.config import Checkpoint, Eval
from jaxsft.errors import ConfigError
from jaxsft.rundir.checkpoint.notes import Best

_MOST_IS_BEST = ("accuracy", "match", "match_with_instruction", "token_accuracy")
_LEAST_IS_BEST = ("loss", "perplexity", "first_token_loss")


class Watch:
    """Follows config.checkpoint.best.

    Attributes:
        best: of the evaluations so far; None: there was none, or none was finite.

    Args:
        known: the figures that evaluations during training have.

    Raises:
        ConfigError: no such figure, or it is not known which of two values is better.
    """

    def __init__(self, checkpoint: Checkpoint, evaluation: Eval, known: Sequence[str]):
        assert checkpoint.best is not None
        self.metric = checkpoint.best
        self.best: Best | None = None
        self._patience = evaluation.early_stopping
        self._min_improvement = evaluation.min_improvement
        if self.metric not in known:
            there_are = f"there are {', '.join(known)}" if known else "nothing is evaluated"
            raise ConfigError(
                f"config.checkpoint.best={self.metric}: evaluations during training have no such"
                f" figure; {there_are}"
            )
        self._sign = {"min": -1, "max": 1}[checkpoint.best_mode or _mode(self.metric)]

    def add(self, step: int, values: Mapping[str, float | None]) -> bool:
        """Takes in the evaluation after a step, once; returns whether it is the best so far."""
        value, before = values[self.metric], self.best
        if before is None:
            if value is not None:
                self.best = Best(self.metric, step, value, value, 0, step)
            return value is not None
        if step <= before.seen:
            return before.step == step
        after = dataclasses.replace(before, waited=before.waited + 1, seen=step)
        if value is not None and self._gain(value, before.reference) > self._min_improvement:
            after = dataclasses.replace(after, reference=value, waited=0)
        is_best = value is not None and self._gain(value, before.value) > 0
        if value is not None and is_best:
            after = dataclasses.replace(after, step=step, value=value)
        self.best = after
        return is_best

    def _gain(self, value: float, before: float) -> float:
        return self._sign * (value - before)

    @property
    def is_over(self) -> bool:
        """Whether the figure has waited for a better value as long as it may."""
        return (
            self._patience is not None
            and self.best is not None
            and self.best.waited >= self._patience
        )

    def said(self) -> str:
        """The best step, and what followed it, in words."""
        if self.best is None:
            return f"{self.metric}: no evaluation was finite"
        said = f"{self.metric} was best after step {self.best.step}: {self.best.value:.4f}"
        if self.is_over:
            times = f"{self.best.waited} evaluations" if self.best.waited > 1 else "1 evaluation"
            said += f"; {times} in a row did not make it better"
            if self._min_improvement:
                said += f" by more than {self._min_improvement:g}"
        return said


def watch_of(checkpoint: Checkpoint, evaluation: Eval, known: Sequence[str]) -> Watch | None:
    """None: the run follows no figure."""
    return None if checkpoint.best is None else Watch(checkpoint, evaluation, known)


def _mode(metric: str) -> str:
    kind = metric.rpartition("/")[2]
    if kind in _LEAST_IS_BEST:
        return "min"
    if kind in _MOST_IS_BEST:
        return "max"
    raise ConfigError(
        f"config.checkpoint.best={metric}: whether less or more of it is better does not show; set"
        " config.checkpoint.best_mode to min or max"
    )
