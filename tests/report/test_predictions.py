"""What a run was to cost stands beside what it did, each for what it is."""

import json

from jaxsft.report.page import compare, predictions
from jaxsft.report.run_read import read_run

GIB = 2**30


def run_of(directory, predicted, last=10, finished=True, **start):
    directory.mkdir(exist_ok=True)
    steps = [{"step": n, "loss": 1.0, "step_seconds": 2.0} for n in range(1, last + 1)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps))
    line = {"step": 0, "last": last, "step_seconds": 2.0 * last, "predicted": predicted}
    (directory / "starts.jsonl").write_text(json.dumps(line | start) + "\n")
    (directory / "config.json").write_text(json.dumps({"log": {"price_per_hour": 36}}))
    if finished:
        (directory / "summary.json").write_text(json.dumps({"steps": last}))
    return read_run(directory)


def told(run) -> dict[str, tuple[str, str]]:
    return {row.what: (row.predicted, row.measured) for row in predictions.rows_of(run)}


ON_A_CHIP = {
    "memory_bytes": 10 * GIB,
    "limit_bytes": 16 * GIB,
    "step_seconds": 1.5,
    "num_steps": 10,
}


def test_memory_steps_and_price_stand_beside_what_was_measured(tmp_path):
    found = told(run_of(tmp_path, ON_A_CHIP, device_bytes=11 * GIB, host_bytes=3 * GIB))
    assert found == {
        "memory of a device": (
            "10.00 GiB for a step, of 16.00 GiB that it may use",
            "11.00 GiB, the most of all its programs",
        ),
        "a step": ("1.5 s", "2.0 s"),
        "all 10 steps": ("15.0 s", "20.0 s"),
        "price of all 10 steps": ("0.15", "0.20"),
    }


def test_a_cpu_has_no_prediction_of_time_and_its_memory_is_the_processes(tmp_path):
    predicted = {"memory_bytes": GIB, "why": "what a cpu can do is not known", "in_ram": True}
    found = told(run_of(tmp_path, predicted | {"local_devices": 8}, host_bytes=3 * GIB))
    assert found["a step"] == ("no prediction: what a cpu can do is not known", "2.0 s")
    measured = "not known; the process held 3.00 GiB of RAM, its libraries and 8 devices included"
    assert found["memory of a device"] == ("1.00 GiB for a step", measured)
    assert len(found) == 2


def test_a_run_that_was_cut_short_compares_the_steps_that_it_did(tmp_path):
    found = told(run_of(tmp_path, ON_A_CHIP | {"num_steps": 1000}, last=4, finished=False))
    assert found["4 steps"] == ("6.0 s", "8.0 s")


def test_a_run_of_an_earlier_version_has_no_such_table(tmp_path):
    assert told(run_of(tmp_path, None)) == {}


def test_compared_runs_have_both(tmp_path):
    for name in "ab":
        run_of(tmp_path / name, ON_A_CHIP)
    compare.write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "a step, predicted" in page and "a step, measured" in page
