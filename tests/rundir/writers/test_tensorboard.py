"""What TensorBoard's own reader finds of a run and of its later starts."""

import json
import logging

import pytest

from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.writers.beside import Beside
from jaxsft.rundir.writers.history import History
from jaxsft.rundir.writers.tensorboard import TensorBoard
from jaxsft.rundir.writers.writer import Writers

REASON = "the extra [tensorboard], or tensorboard to read what it wrote, is not installed"
pytest.importorskip("tensorboardX", reason=REASON)
event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason=REASON
)


def writers(directory) -> Writers:
    history, samples = (
        History(directory / "metrics.jsonl"),
        JsonLines(directory / "samples.jsonl"),
    )
    place = TensorBoard(directory / "tensorboard", "shown", {"train": {"steps": 9}})
    return Writers(history, (Beside(place, history, samples, print),))


@pytest.fixture(autouse=True)
def starts_of_different_seconds(monkeypatch):
    """Files are called for the second that they were begun in; no program starts twice in one."""
    from tensorboardX import event_file_writer

    seconds = iter(range(1_800_000_000, 1_800_001_000))
    monkeypatch.setattr(event_file_writer.time, "time", lambda: float(next(seconds)))


def scalars(directory) -> dict[str, list[tuple[int, float]]]:
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    read = event_accumulator.EventAccumulator(str(directory / "tensorboard"))
    read.Reload()
    tags = read.Tags()
    assert all(f"{name}/text_summary" in tags["tensors"] for name in ("config",))
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in tags["scalars"]}


def test_a_killed_run_that_goes_on_has_each_step_once(tmp_path):
    first = writers(tmp_path)
    first.resume(None)
    first.append({"step": 0, "eval/a/loss": 4.0, "eval/a/score": None})
    first.resume(0)
    for step in range(1, 8):
        first.append({"step": step, "loss": 100.0 + step})
    first.append({"step": 6, "eval/a/loss": 7.0})
    first.close()
    later = writers(tmp_path)
    later.resume(4)  # its checkpoint
    for step in range(5, 10):
        later.append({"step": step, "loss": 200.0 + step})
    later.append_last({"step": 9, "eval/a/loss": 1.0})
    later.close()
    at_the_end = writers(tmp_path)
    at_the_end.resume(9)
    at_the_end.append_last({"step": 9, "eval/a/loss": 1.0})  # it is measured again
    at_the_end.close()
    assert scalars(tmp_path) == {
        "loss": [(step, 100.0 + step) for step in range(1, 5)]
        + [(step, 200.0 + step) for step in range(5, 10)],
        "eval/a/loss": [(0, 4.0), (9, 1.0)],
    }


def test_a_new_run_in_the_same_place_forgets_the_old_one(tmp_path):
    for loss in (1.0, 2.0):
        one = writers(tmp_path)
        one.resume(None)
        one.append({"step": 1, "loss": loss})
        one.close()
    assert scalars(tmp_path) == {"loss": [(1, 2.0)]}


def test_config_and_answers_are_texts(tmp_path):
    sample = {"step": 3, "phase": "during", "source": "a", "prompt": "2 | 3?", "answer": "5\n"}
    JsonLines(tmp_path / "samples.jsonl").append(sample | {"scores": {"match": True}})
    one = writers(tmp_path)
    one.resume(None)
    one.append({"step": 3, "eval/a/loss": 1.0})
    one.close()
    read = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    texts = {
        tag: read.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode()
        for tag in ("config", "samples")
    }
    assert json.loads(texts["config"]) == {"train": {"steps": 9}}
    assert texts["samples"].splitlines()[2] == "|during|a|2 \\| 3?|5||match True|"
