"""The figures of logged steps: what a line of metrics.jsonl says, written and read here alone."""

import dataclasses
from collections.abc import Mapping

from jaxsft.rundir.metric_lines import Line


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFigures:
    """Means of the steps since the line before, up to and with `step`.

    None: not finite, not known here, or not in a line of an older version.
    """

    step: int = 0  # steps completed
    epoch: float | None = None
    loss: float | None = None
    token_accuracy: float | None = None
    entropy: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    supervised_tokens: int | None = None
    tokens: int | None = None
    examples: int | None = None
    tokens_per_second: float | None = None
    supervised_tokens_per_second: float | None = None
    mfu: float | None = None
    hfu: float | None = None
    packing_efficiency: float | None = None
    device_imbalance: float | None = None
    step_seconds: float = 0.0
    data_wait_seconds: float | None = None
    memory_bytes: int | None = None  # the most that the first device has held; on CPU, the process
    skipped_steps: int = 0  # in the run so far
    checkpoint_failures: int = 0  # saves that failed, likewise
    others: Mapping[str, float | None] = dataclasses.field(default_factory=dict)  # by their key


def line_of(figures: StepFigures) -> Line:
    """The line, in the fields' order; the others stand at its end."""
    values = {name: value for name, value in vars(figures).items() if name != "others"}
    return values | dict(figures.others)


def figures_of(line: Line) -> StepFigures:
    """What `line_of` made the line of."""
    named = {field.name for field in dataclasses.fields(StepFigures)} - {"others"}
    known = {name: value for name, value in line.items() if name in named}
    others = {name: value for name, value in line.items() if name not in named}
    return StepFigures(**known, others=others)


def is_of_steps(line: Line) -> bool:
    """Whether a line of metrics.jsonl is of steps; the others are of evaluations."""
    return "loss" in line
