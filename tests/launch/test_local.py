"""launch/local.sh, with a Python that only records how it was started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import fault

LAUNCHER = Path(__file__).resolve().parents[2] / "launch" / "local.sh"

# Ends with the codes of codes.txt, one for each start; "75 20" has saved step 20 before, and "wait"
# ends with 75 on a termination signal.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$@" >> started.txt
read -r code step <<< "$(sed -n "$(wc -l < started.txt)p" codes.txt)"
if [ -n "$step" ]; then
  mkdir -p "w/checkpoints/$step" && touch "w/checkpoints/$step/commit_success.txt"
fi
if [ "$code" = wait ]; then
  trap 'exit 75' TERM
  while true; do sleep 0.05; done
fi
exit "$code"
"""


# A shell that starts its children in the background has them ignore SIGINT, and a script can't undo
# that: a test suite run so would never see it arrive.
WITH_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def start(folder: Path, codes: list[str], *flags: str) -> subprocess.Popen[str]:
    fake = folder / "python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    (folder / "codes.txt").write_text("\n".join(codes) + "\n")
    return subprocess.Popen(
        [sys.executable, "-c", WITH_SIGINT, LAUNCHER, *flags],
        cwd=folder,
        env=os.environ | {"PYTHON": str(fake)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(launched: subprocess.Popen[str]) -> tuple[int, str]:
    """The launcher's exit code and what it said."""
    with launched:
        try:
            _, messages = launched.communicate(timeout=60)
        finally:
            launched.kill()
    return launched.returncode, messages


def starts(folder: Path) -> list[str]:
    file = folder / "started.txt"
    return file.read_text().splitlines() if file.exists() else []


def test_flags_are_passed_on(tmp_path):
    launched = start(tmp_path, ["0"], "--config=a b.py", "--workdir=runs/x")
    assert finish(launched) == (0, "")
    assert starts(tmp_path) == ["-m jaxsft.train --config=a b.py --workdir=runs/x"]


def test_75_and_76_start_the_same_command_again(tmp_path):
    code, messages = finish(start(tmp_path, ["75", "76", "0"], "--workdir=w"))
    assert code == 0
    assert starts(tmp_path) == ["-m jaxsft.train --workdir=w"] * 3
    assert "75" in messages and "76" in messages


@fault(
    "stopping",
    "start after start ends with 75 or 76 and saves nothing newer",
    "`launch/` starts it `MAX_RESTARTS` (5) times without a newer checkpoint, then ends",
    lost="nothing",
    code="75 or 76",
)
def test_restarts_that_save_nothing_newer_are_limited(tmp_path, monkeypatch):
    """The count begins anew with each newer checkpoint; one that was not completed is none."""
    monkeypatch.setenv("MAX_RESTARTS", "2")
    (tmp_path / "w" / "checkpoints" / "99").mkdir(parents=True)
    code, messages = finish(start(tmp_path, ["75 9", "76", "75 10", *["75"] * 9], "--workdir=w"))
    assert code == 75
    assert len(starts(tmp_path)) == 5  # two in vain after step 10's
    lines = messages.splitlines()
    assert "(restart 1 of at most 2 since the checkpoint of step 9)" in lines[0]
    assert "(restart 2 of at most 2 since the checkpoint of step 9)" in lines[1]
    assert "(restart 1 of at most 2 since the checkpoint of step 10)" in lines[2]
    assert (
        "is not started again: MAX_RESTARTS=2 restarts since the checkpoint of step 10" in lines[4]
    )


@pytest.mark.parametrize("code", [64, 65, 66, 70, 71, 137])
def test_other_codes_end_the_launcher(tmp_path, code):
    launched = start(tmp_path, [str(code), "0"])
    assert finish(launched)[0] == code
    assert len(starts(tmp_path)) == 1


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_run_which_is_not_started_again(tmp_path, stop):
    launched = start(tmp_path, ["wait", "0"])
    deadline = time.monotonic() + 30
    while not starts(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # the fake sets its trap
    launched.send_signal(stop)
    assert finish(launched)[0] == 75
    assert len(starts(tmp_path)) == 1
