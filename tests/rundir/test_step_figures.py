"""A line of metrics.jsonl is read as it was written, also by another version."""

import json

from jaxsft.rundir.step_figures import StepFigures, figures_of, is_of_steps, line_of


def test_there_and_back_in_the_order_of_the_fields():
    figures = StepFigures(step=3, loss=1.5, step_seconds=0.25, others={"loss/a": 2.0, "b": None})
    line = line_of(figures)
    assert list(line)[:3] == ["step", "epoch", "loss"] and list(line)[-2:] == ["loss/a", "b"]
    assert "others" not in line and figures_of(json.loads(json.dumps(line))) == figures


def test_what_the_other_version_lacks_or_has_more():
    read = figures_of({"step": 3, "loss": 1.0, "new": 2.0})
    assert read == StepFigures(step=3, loss=1.0, others={"new": 2.0})
    assert read.grad_norm is None


def test_lines_of_steps_are_told_from_those_of_evaluations():
    assert is_of_steps(line_of(StepFigures())) and not is_of_steps({"step": 3, "eval/a/loss": 1.0})
