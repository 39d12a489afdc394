"""The newest held-out loss for the terminal, which shows it beside the steps' figures."""

from collections.abc import Callable

from jaxsft.rundir.metric_lines import Line
from jaxsft.rundir.step_figures import is_of_steps

_SET, _LOSS = "eval/", "/loss"


class ShownLoss:
    """A writer that tells the loss of the first set of each evaluation: what was held out of the
    training data comes first.

    Args:
        tell: a loss; None: it is not finite.
    """

    def __init__(self, tell: Callable[[float | None], None]):
        self._tell = tell

    def append(self, line: Line) -> None:
        losses = [v for k, v in line.items() if k.startswith(_SET) and k.endswith(_LOSS)]
        if losses and not is_of_steps(line):
            self._tell(losses[0])

    def resume(self, step: int | None) -> None:
        """What is shown stays until it is measured again."""

    def close(self) -> None:
        """Nothing is kept."""
