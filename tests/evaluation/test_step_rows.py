"""The rows of steps that were odd, found by whole runs."""

import json

from tests.faults import fault
from tests.programs import train


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
