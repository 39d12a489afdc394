"""What W&B's own files hold of a run and of its later starts, without a network."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsft.config import Log
from jaxsft.errors import ConfigError
from jaxsft.files import run_names
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.writers import opening
from jaxsft.rundir.writers.beside import Beside
from jaxsft.rundir.writers.history import History
from jaxsft.rundir.writers.wandb import WeightsAndBiases
from jaxsft.rundir.writers.writer import Writers
from tests import programs
from tests.faults import fault

wandb = pytest.importorskip("wandb", reason="the extra [wandb] is not installed")
KEY = "0123456789abcdef" * 2 + "01234567"
_BLOCK, _HEADER, _FILE_HEADER = 32768, 7, 7  # LevelDB's log format, after W&B's own first bytes


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()


def writers(directory: Path, said: list[str]) -> Writers:
    history, samples = History(directory / "metrics.jsonl"), JsonLines(directory / "samples.jsonl")
    place = WeightsAndBiases(directory, "mine", {"optim": {"peak_lr": 0.5}})
    say = lambda topic, text: said.append(text)  # noqa: E731
    return Writers(history, (Beside(place, history, samples, say),))


def records(directory: Path) -> list[tuple[str, list]]:
    """Of each start, the id of its run and its records."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in sorted(directory.glob("wandb/offline-run-*/run-*.wandb"), key=os.path.getmtime):
        of_file = [wandb_internal_pb2.Record.FromString(one) for one in _log(file.read_bytes())]
        found.append((file.stem.removeprefix("run-"), of_file))
    return found


def _log(content: bytes) -> list[bytes]:
    assert content[:4] == b":W&B"
    whole, part, at = [], b"", _FILE_HEADER
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        if not kind:
            break
        part += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            whole.append(part)
            part = b""
    return whole


def history_of(found) -> list[dict[str, str]]:
    lines = [one.history.item for one in found if one.WhichOneof("record_type") == "history"]
    return [
        {item.key or "/".join(item.nested_key): item.value_json for item in line} for line in lines
    ]


def test_all_starts_are_one_run_and_each_step_is_sent_once(tmp_path):
    said: list[str] = []
    JsonLines(tmp_path / "samples.jsonl").append({"step": 0, "prompt": "p", "answer": "a"})
    first = writers(tmp_path, said)
    first.resume(None)
    first.append({"step": 0, "eval/a/loss": 4.0})
    first.resume(0)
    for step in range(1, 8):
        first.append({"step": step, "loss": 100.0 + step, "mfu": None})
    first.close()
    later = writers(tmp_path, said)
    later.resume(4)  # its checkpoint; the evaluation after it is owed
    later.append({"step": 4, "eval/a/loss": 3.0})
    for step in range(5, 10):
        later.append({"step": step, "loss": 100.0 + step})
    later.append_last({"step": 9, "eval/a/loss": 1.0})
    later.close()
    (id, start), (same_id, again) = records(tmp_path)
    assert id == same_id and f"run {id}; to send it: wandb sync" in said[0] and id in said[1]
    lines = history_of(start)
    assert [line["step"] for line in lines] == [str(step) for step in range(8)]
    assert lines[0]["eval/a/loss"] == "4" and lines[0]["samples/nrows"] == "1"
    lines = history_of(again)
    assert [(line["step"], line.get("loss"), line.get("eval/a/loss")) for line in lines] == [
        ("4", None, "3"),
        *((str(step), str(100 + step), "1" if step == 9 else None) for step in (8, 9)),
    ]
    runs = [one.run for one in start if one.WhichOneof("record_type") == "run"]
    assert runs[0].project == "jaxsft" and runs[0].display_name == "mine"
    assert any(
        one.key == "optim" and '"peak_lr":0.5' in one.value_json for one in runs[0].config.update
    )


def test_a_new_run_in_the_same_place_is_another_run(tmp_path):
    for _ in range(2):
        one = writers(tmp_path, [])
        one.resume(None)
        one.append({"step": 1, "loss": 1.0})
        one.close()
    ids = [id for id, _ in records(tmp_path)]
    assert len(set(ids)) == 2


def test_its_files_hold_no_key(tmp_path):
    one = writers(tmp_path, [])
    one.resume(None)
    one.append({"step": 1, "loss": 1.0})
    one.close()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 3
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


@fault(
    "processes",
    "W&B's own process, which sends the figures, is killed",
    "one warning; it is off from then on, and `metrics.jsonl` has every line",
    lost="nothing of the run; the figures after it, at W&B",
    code="none: the run goes on",
)
@pytest.mark.slow
def test_one_whose_process_was_killed_is_off(tmp_path):
    """In a process of its own, at whose end W&B would speak again."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(directory=str(tmp_path))],
        cwd=programs.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert len(History(tmp_path / run_names.METRICS).read()) == 29
    assert done.stdout.count("warning: wandb is off from here on") == 1, done.stdout


KILLED = """
import os, pathlib, signal, subprocess, time
from tests.rundir.writers.test_wandb import writers
from jaxsft.files import run_names

directory, said = pathlib.Path({directory!r}), []
one = writers(directory, said)
one.resume(None)
one.append({{"step": 1, "loss": 1.0}})
record, until = directory / run_names.WANDB_RUN, time.monotonic() + 120
while '"steps": 1' not in (record.read_text() if record.exists() else ""):
    assert time.monotonic() < until, said
    time.sleep(0.05)
children = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True)
for number in children.stdout.split():
    os.kill(int(number), signal.SIGKILL)
for step in range(2, 30):
    one.append({{"step": step, "loss": 1.0}})
one.close()
print(*said, sep="\\n")
"""


def test_who_has_no_key_is_told_before_the_run(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
    with pytest.raises(
        ConfigError, match="wandb: this machine has no key of W&B; run `wandb login`"
    ):
        opening.check(Log(writers=("wandb",)).writers)
    monkeypatch.setenv("WANDB_MODE", "offline")
    opening.check(("wandb",))
