"""The rows of steps that were odd, found by whole runs."""

import json

import jax
import numpy as np
import pytest

from jaxsft.training.loader import Batches
from jaxsft.training.over_mesh import TrainStep
from tests.faults import fault
from tests.programs import train
from tests.tiny import assert_trees_equal


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@fault(
    "numbers",
    "a row that does not belong makes the loss leap",
    "goes on; says which rows the step had, the highest losses first, in odd_steps.jsonl too",
    lost="nothing",
    code="goes on",
)
def test_a_row_that_makes_the_loss_leap_is_named(tmp_path):
    """One of sixty rows, which all others teach nothing about; one row in a step of two."""
    data = tmp_path / "data.jsonl"
    answers = ["Blue."] * 60
    answers[41] = "zq xj 9# vv kq }{"
    rows = [
        {"role": "user", "content": "What colour?"},
    ]
    data.write_text(
        "".join(
            json.dumps({"messages": [*rows, {"role": "assistant", "content": one}]}) + "\n"
            for one in answers
        )
    )
    source = json.dumps([{"path": str(data)}])
    flags = (f"--config.data.train={source}", "--config.data.duplicates=keep")
    flags += (
        "--config.data.sequence_length=64",
        "--config.train.batch_size=2",
        "--config.mesh.data=2",
    )
    flags += ("--config.mesh.tensor=4",)
    flags += ("--config.train.steps=60", "--config.log.examples=True", "--config.eval.prompts=0")
    done = train(tmp_path / "run", *flags)
    odd = read_lines(tmp_path / "run" / "odd_steps.jsonl")
    steps = {line["step"]: line["examples"] for line in read_lines(tmp_path / "run/examples.jsonl")}
    assert sorted(steps) == list(range(1, 61))
    assert odd and all(line["why"] == "spike" for line in odd), done.stdout
    for line in odd:
        ids = [{"file": row["file"], "row": row["row"]} for row in line["examples"]]
        assert sorted(ids, key=lambda one: one["row"]) == steps[line["step"]]
        assert ids[0] == {"file": str(data), "row": 42}
        assert line["loss"] > 2 * line["usual_loss"]
    assert "deviations above the usual" in done.stdout
    assert "examples: data.jsonl row 42 " in done.stdout


@fault(
    "numbers",
    "loss or gradients that are not finite in one step",
    "leaves that update out, bit for bit, and goes on; says which rows the step had",
    lost="that update",
    code="goes on",
)
@pytest.mark.slow  # a whole run more
def test_one_step_that_is_not_finite_is_skipped_and_its_rows_are_kept(tmp_path, monkeypatch):
    """The first row of the fourth batch has weights that are no numbers."""
    build = Batches.build

    def poisoned(self, step):
        local, counts = build(self, step)
        if step == 3:
            local["weights_BT"][0] *= np.where(local["weights_BT"][0] > 0, np.nan, 1)
        return local, counts

    step, states = TrainStep.__call__, []

    def seen(self, state, batch):
        states.append(jax.tree.map(lambda leaf: np.array(leaf, copy=True), state.trained))
        return step(self, state, batch)

    monkeypatch.setattr(Batches, "build", poisoned)
    monkeypatch.setattr(TrainStep, "__call__", seen)
    flags = ("--config.eval.prompts=0", "--config.mesh.data=8", "--config.log.examples=True")
    done = train(tmp_path / "run", *flags, "--config.train.steps=5")
    assert read_lines(tmp_path / "run/metrics.jsonl")[-2]["skipped_steps"] == 1, done.stdout
    assert_trees_equal(states[4], states[3])  # what steps 5 and 4 began with
    assert not np.array_equal(*(jax.tree.leaves(one)[0] for one in states[2:4]))
    (odd,) = read_lines(tmp_path / "run/odd_steps.jsonl")
    assert (odd["step"], odd["why"], odd["loss"]) == (4, "skipped", None)
    ids = [{"file": row["file"], "row": row["row"]} for row in odd["examples"]]
    every = read_lines(tmp_path / "run/examples.jsonl")[3]["examples"]
    assert sorted(ids, key=str) == sorted(every, key=str)
    infinite = [row for row in odd["examples"] if row.get("loss", 0) is None]
    assert 0 < len(infinite) < len(every) and odd["examples"][: len(infinite)] == infinite
    assert f"not finite for {len(infinite)} of its {len(every)} examples (" in done.stdout
