"""A run that goes on with other processes and devices: the same rows in each step, as alone."""

import json

import pytest

from tests.devices.test_distributed import finish, start
from tests.faults import fault
from tests.programs import train

FLAGS = (
    *(
        "--config.eval.every_steps=None",
        "--config.data.eval=[]",
        "--config.checkpoint.export=false",
    ),
    *("--config.optim.schedule=constant", "--config.log.examples=True"),
)


def lines(workdir, name):
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


@fault(
    "processes",
    "another number of processes and devices at the next start",
    "goes on with the same rows in each step; losses differ by rounding",
    lost="nothing",
    code="goes on",
)
@pytest.mark.slow  # six processes, one after the other two
def test_a_run_goes_on_with_two_then_one_then_three_processes(tmp_path):
    """Over 4 devices, 4 and 3; a batch of 12 rows that all of them divide."""
    rows = (*FLAGS, "--config.train.batch_size=12")
    for count, steps, replicas in ((2, 5, 1), (1, 10, 2), (3, 15, 3)):
        own = f"--config.train.steps={steps}", f"--config.mesh.data={replicas}"
        processes = start(tmp_path / "run", count, *rows, *own)
        for code, out, error in finish(processes):
            assert code == 0, out + error
    alone = (*rows, "--config.eval.prompts=0", "--config.mesh.data=4", "--config.mesh.tensor=2")
    train(tmp_path / "alone", *alone, "--config.train.steps=15")
    ran, expected = (lines(tmp_path / name, "examples.jsonl") for name in ("run", "alone"))
    assert [line["step"] for line in ran] == list(range(1, 16))
    assert ran == expected and all(line["examples"] for line in ran)
    metrics = [
        [
            (one["step"], one["loss"])
            for one in lines(tmp_path / name, "metrics.jsonl")
            if "loss" in one
        ]
        for name in ("run", "alone")
    ]
    assert [step for step, _ in metrics[0]] == list(range(1, 16))
    for (step, loss), (_, undisturbed) in zip(*metrics, strict=True):
        assert abs(loss - undisturbed) <= 1e-5, (step, loss, undisturbed)
