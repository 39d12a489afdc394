"""Several processes of one run: the same result as one, the same moment to stop, one message."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import pytest

from jaxsft.devices import distributed, joining
from jaxsft.errors import BAD_CONFIG, LOST_PEER, STOPPED, ConfigError
from tests import quick_compiling
from tests.faults import fault
from tests.programs import ROOT, train

NUM_DEVICES = 4
FLAGS = ("--config.eval.prompts=0",)


def start(
    workdir: Path | str,
    count: int,
    *flags: str,
    own: tuple[str, ...] = (),
    disks: list[Path] | None = None,
    surroundings: Mapping[str, str] = MappingProxyType({}),
    own_surroundings: Mapping[str, str] = MappingProxyType({}),
    program: tuple[str, ...] = ("-m", "jaxsft.train"),
) -> list:
    """The processes of one run over NUM_DEVICES devices.

    Args:
        own, own_surroundings: of the last process.
        disks: of each process, its working directory and cache: hosts that share no disk.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={NUM_DEVICES // count}"
        f" {quick_compiling.XLA_FLAGS}",
        **surroundings,
    }
    together = [f"--coordinator_address=localhost:{port}", f"--num_processes={count}"]
    return [
        subprocess.Popen(
            [
                *(sys.executable, *program, f"--workdir={workdir}"),
                *(f"--config={ROOT}/configs/debug.py", *FLAGS, *flags),
                *(*together, f"--process_id={number}"),
                *(own if number == count - 1 else ()),
            ],
            env=environment
            | ({"XDG_CACHE_HOME": str(disks[number] / "cache")} if disks else {})
            | (dict(own_surroundings) if number == count - 1 else {}),
            cwd=disks[number] if disks else ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def finish(processes: list) -> list[tuple[int, str, str]]:
    """Exit code and what was said, by process."""
    said = [process.communicate(timeout=240) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, said, strict=True)]


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> list[float]:
    return [line[name] for line in metrics(workdir) for name in line if name.endswith("loss")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """In this process, over its own devices: how many there are changes nothing either."""
    workdir = tmp_path_factory.mktemp("alone")
    train(workdir, *FLAGS, "--config.train.steps=4")
    return workdir


@pytest.mark.slow
def test_what_several_processes_export_of_adapters_is_read_back(tmp_path):
    """The first one reads the files; all of them compute with what it read."""
    flags = ("--config.train.steps=2", "--config.lora.rank=2", "--config.model.frozen_dtype=nf4")
    done = finish(start(tmp_path, 2, *flags))
    assert [code for code, _, _ in done] == [0, 0], done
    assert "read back, its logits are within" in done[0][1]
    assert (tmp_path / "export" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_as_one_does(count, alone, tmp_path, tmp_path_factory):
    """Two of them on hosts that share no disk but the run's: each prepares the data for itself."""
    disks = [tmp_path_factory.mktemp("disk") for _ in range(2)] if count == 2 else None
    done = finish(start(tmp_path, count, "--config.train.steps=4", disks=disks))
    for disk in disks or []:
        assert list(disk.glob("cache/jaxsft/*/manifest.json"))
    assert [code for code, _, _ in done] == [0] * count, done
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-6)
    counted = ("supervised_tokens", "tokens")
    assert [[line.get(name) for name in counted] for line in metrics(tmp_path)] == [
        [line.get(name) for name in counted] for line in metrics(alone)
    ]
    assert (tmp_path / "export" / "model.safetensors").is_file()
    for _, said, _ in done[1:]:
        lines = [line for line in said.splitlines() if "[Gloo]" not in line]
        assert lines == []  # the first process speaks for all


@fault(
    "stopping",
    "a signal to one of several processes",
    "all save after the same step and end",
    lost="nothing",
    code=75,
)
def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    processes = start(tmp_path, 2, "--config.train.steps=2000", "--config.eval.every_steps=None")
    file, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (file.is_file() and len(metrics(tmp_path)) > 3):
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    done = finish(processes)
    assert [code for code, _, _ in done] == [STOPPED] * 2, done
    said = {error.splitlines()[-1] for _, _, error in done}
    assert len(said) == 1 and "which is saved" in said.pop()


# Each program of Python runs this file first, where it finds it.
BLOCKED = """
import os, sys

def refuse(event, details):
    if event == "open" and str(details[0]).endswith("_CHECKPOINT_METADATA"):
        raise PermissionError(13, os.strerror(13), str(details[0]))

sys.addaudithook(refuse)
"""


@fault(
    "processes",
    "a checkpoint that one of several processes can't read",
    "all end, with the process and the cause",
    lost="nothing",
    code=66,
)
@pytest.mark.slow  # tests/rundir/test_resume.py shows what processes make of such a failure
def test_a_checkpoint_that_one_process_cannot_read_ends_both(tmp_path):
    """Two processes left it; the second is refused the notes."""
    site, workdir = tmp_path / "site", tmp_path / "workdir"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCKED)
    flags = ("--config.eval.every_steps=None", "--config.checkpoint.export=false")
    done = finish(start(workdir, 2, "--config.train.steps=2", *flags))
    assert [code for code, _, _ in done] == [0, 0], done
    before = {path.name for path in (workdir / "checkpoints").iterdir()}
    blocked = {"PYTHONPATH": f"{ROOT}:{site}"}
    done = finish(start(workdir, 2, "--config.train.steps=9", *flags, own_surroundings=blocked))
    assert [code for code, _, _ in done] == [66] * 2, done
    for _, _, error in done:
        assert "reading is refused: process 1: PermissionError" in error
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == before


@fault(
    "processes",
    "processes with another config or other code",
    "refused at the start, with the process, the field and both values",
    lost="nothing",
    code=64,
)
def test_processes_that_were_started_differently_refuse_to_run(tmp_path):
    done = finish(start(tmp_path, 2, own=("--config.optim.peak_lr=1e-3", "--allow_changed=data")))
    for code, _, error in done:
        assert code == BAD_CONFIG
        assert "process 1 has config.optim.peak_lr=0.001, process 0 has 0.003" in error
        assert "process 1 has --allow_changed=['data'], process 0 has []" in error
    assert not (tmp_path / "metrics.jsonl").exists()


@fault(
    "processes",
    "processes that read other data",
    "refused before anything is compiled",
    lost="nothing",
    code=64,
)
@pytest.mark.slow  # those started differently refuse in the same way, sooner
def test_processes_that_read_other_data_refuse_to_run(tmp_path):
    """The same path, on two disks."""
    disks = [tmp_path / "a", tmp_path / "b"]
    rows = (ROOT / "configs" / "debug_data" / "train.jsonl").read_text().splitlines(keepends=True)
    for disk, count in zip(disks, (48, 47), strict=True):
        disk.mkdir()
        (disk / "mine.jsonl").write_text("".join(rows[:count]))
    flags = ("--config.data.train[0].path=mine.jsonl", "--config.data.workers=1")
    done = finish(start(tmp_path / "w", 2, *flags, disks=disks))
    for code, _, error in done:
        assert code == BAD_CONFIG, error
        assert "process 1 has the prepared training data='" in error
    assert not (tmp_path / "w" / "metrics.jsonl").exists()


@fault(
    "processes",
    "what a user can mend goes wrong on one process",
    "all end with its message",
    lost="nothing",
    code="its own",
)
def test_an_error_of_the_first_process_ends_all_with_its_message(tmp_path):
    done = finish(start(tmp_path, 2, "--config.data.train[0].path=nowhere.jsonl"))
    assert {code for code, _, _ in done} == {65}
    for _, _, error in done:
        assert "nowhere.jsonl" in error


@fault(
    "processes",
    "a process that does not come at the start",
    "all say every 10 s which process is not there, and end after `--connect_seconds`",
    lost="nothing",
    code=76,
)
@pytest.mark.slow  # tests/devices/test_roll_call.py shows who is named
def test_a_process_whose_peers_do_not_come_says_so_and_ends(tmp_path):
    sooner = (
        "import runpy; from jaxsft.devices import joining; joining.SAY_EVERY_SECONDS = 2;"
        "runpy.run_module('jaxsft.train', run_name='__main__')"
    )
    first, second, third = start(tmp_path, 3, "--connect_seconds=15", program=("-c", sooner))
    second.kill()
    second.communicate()
    for code, _, error in finish([first, third]):
        assert code == LOST_PEER
        assert "waiting for the 3 processes of this run" in error
        assert "not here yet: process 1 (14 s of at most 15 s)" in error
        assert "process 1 did not come within 15 s" in error


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (("host:1", None, 0), "--num_processes missing"),
        (("host:1", None, None), "--num_processes and --process_id missing"),
        (("host", 2, 0), "--coordinator_address=host: expected host:port"),
        (("host:1", 2, 2), r"--process_id=2: must lie in \[0, 2\)"),
    ],
    ids=str,
)
def test_flags_that_do_not_fit_each_other_are_refused(given, match):
    with pytest.raises(ConfigError, match=match):
        distributed.connect(*given, 1, print)


def test_a_directory_that_a_process_does_not_see_is_refused(monkeypatch, tmp_path):
    with distributed.scratch(str(tmp_path)) as folder:
        assert folder.parent == tmp_path and folder.is_dir()
    real = distributed.gather
    blind = {"made": "", "sees": False}
    monkeypatch.setattr(distributed, "gather", lambda value: [*real(value), blind])
    with pytest.raises(ConfigError, match=r"--scratch=.*: processes \[1\] do not see .*jaxsft-"):
        with distributed.scratch(str(tmp_path)):
            pytest.fail("went on")
    assert not list(tmp_path.iterdir())


def test_one_process_looks_for_nobody(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **more: pytest.fail("looked"))
    distributed.connect(None, 1, None, 1, print)


def test_a_tpu_that_another_process_holds_is_explained(monkeypatch):
    """What libtpu says, in a sentence of jax's, to whoever comes second."""

    def taken():
        raise RuntimeError(
            "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process with"
            " pid 4711. Not attempting to load libtpu.so in this process."
        )

    monkeypatch.setattr(jax, "devices", taken)
    with pytest.raises(ConfigError, match="in use by process 4711: .*kill 4711"):
        distributed.open_devices()

    def broken():
        raise RuntimeError("no such platform")

    monkeypatch.setattr(jax, "devices", broken)
    with pytest.raises(RuntimeError, match="no such platform"):
        distributed.open_devices()


def test_an_interrupt_ends_the_wait_for_the_others(monkeypatch):
    """While the library waits no Python runs: the handler that raises is not called."""
    ended, codes, said = threading.Event(), [], []
    monkeypatch.setattr(joining.os, "_exit", lambda code: (codes.append(code), ended.set()))
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with joining.saying("waiting", 30, said.append):
            os.kill(os.getpid(), signal.SIGINT)
            assert ended.wait(5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert codes == [75] and said == ["stopped by SIGINT; start the same command again"]
