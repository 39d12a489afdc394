"""What each start of a run took its time for, over restarts that lose steps."""

import json
import time

from jaxsft.devices import progress
from jaxsft.report.page import cost
from jaxsft.report.run_read import read_run
from jaxsft.rundir import starts
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.starts import Starts, starts_in


def steps(first, last):
    return [{"step": n, "loss": 1.0, "step_seconds": 2.0} for n in range(first, last + 1)]


def test_the_seconds_of_a_phase_within_another_are_its_own():
    progress.restart()
    with progress.during("outer"):
        time.sleep(0.05)
        with progress.during("inner"):
            time.sleep(0.1)
            progress.mark()
            time.sleep(0.1)
    found = progress.spent()
    assert found["inner"] >= 0.2 and 0.05 <= found["outer"] < found["inner"] + 5
    assert progress.spent()["inner"] == found["inner"]


def test_starts_are_kept_and_what_a_restart_lost_is_told(tmp_path, monkeypatch):
    """Ten steps, killed after a checkpoint at six; four of them are made again."""
    path, metrics = tmp_path / "starts.jsonl", JsonLines(tmp_path / "metrics.jsonl")
    monkeypatch.setattr(starts, "_SECONDS", -1.0)
    progress.restart()
    first = Starts(path)
    first.resume(None)
    first.resume(0)
    for line in steps(1, 10):
        first.append(line)
    time.sleep(0.01)
    second = Starts(path)
    for line in steps(1, 6):
        metrics.append(line)
    second.resume(6)
    for line in steps(7, 12):
        metrics.append(line)
        second.append(line)
    found = starts_in(path)
    assert [(one.step, one.last, one.step_seconds) for one in found] == [
        (0, 10, 20.0),
        (6, 12, 12.0),
    ]
    run = read_run(tmp_path)
    told = dict(cost.cost_of(run).lines)
    assert told["starts"] == "2" and told["lost to restarts"] == "8.0 s"
    third = Starts(path)  # of another run in the same place
    third.resume(None)
    assert len(starts_in(path)) == 1


def test_an_evaluation_brings_all_steps_to_disk(tmp_path):
    progress.restart()
    one = Starts(tmp_path / "starts.jsonl")
    one.resume(0)
    for line in steps(1, 3):
        one.append(line)
    one.append({"step": 3, "eval/held/loss": 1.0})
    assert starts_in(tmp_path / "starts.jsonl")[0].step_seconds == 6.0


def test_the_parts_of_a_run_add_up_to_its_time_and_give_its_price(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps(1, 10)))
    seconds = {"training": 25.0, "compiling": 30.0, "evaluating": 5.0}
    line = {"step": 0, "last": 10, "step_seconds": 20.0, "seconds": seconds}
    (tmp_path / "starts.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"log": {"price_per_hour": 36}}))
    found = cost.cost_of(read_run(tmp_path))
    parts = {part.name: part.share for part in found.parts}
    assert sum(parts.values()) == 100
    assert parts["compile"] == 50 and round(parts["saves and the like"], 3) == 8.333
    assert dict(found.lines)["price"] == "0.60 at 36 an hour"
    assert dict(found.lines)["of it training"] == "33.3%"
