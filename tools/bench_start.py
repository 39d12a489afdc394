"""Measures the time from starting a training run to the end of its first step, cold and warm.

python tools/bench_start.py --config=F.py [--save=FILE] [--config.a.b=value ...]

Two runs of one step each, without evaluation and export, in a temporary folder: the first finds
neither prepared data nor compiled programs there, the second finds both.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags
from bench import measurement
from bench.measurement import NamedModel, Start, StartMeasurement

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.devices import peak_memory
from jaxsft.files import run_names

jaxsft_flags.define_config()
_SAVE = flags.DEFINE_string("save", None, "file for the JSON, as tools/bench_page.py reads it")
_ONE_STEP = {
    "train.epochs": "None",
    "train.steps": "1",
    "optim.warmup_steps": "0",
    "checkpoint.export": "false",
    "eval.prompts": "0",
}


def main(config: Config) -> None:
    ours = {"--save"} | {f"--config.{name}" for name in _ONE_STEP}
    given = [one for one in sys.argv[1:] if one.partition("=")[0] not in ours]
    given += [f"--config.{name}={value}" for name, value in _ONE_STEP.items()]
    with tempfile.TemporaryDirectory() as folder:
        found = StartMeasurement(
            cold_start=_start(given, folder, "cold"),
            warm_start=_start(given, folder, "warm"),
            command=shlex.join(["python", *sys.argv]),
            model=NamedModel(Path(config.model.source).name),
        )
    text = measurement.text(found)
    print(text)
    if _SAVE.value:
        Path(_SAVE.value).write_text(text + "\n")


def _start(arguments: list[str], folder: str, kind: str) -> Start:
    """Seconds to the first step's end and of the step itself, and the run's peak memory."""
    workdir = Path(folder, kind)
    command = [sys.executable, "-m", "jaxsft.train", *arguments, f"--workdir={workdir}"]
    environment = os.environ | {"XDG_CACHE_HOME": folder, "PYTHONPATH": os.getcwd()}
    started = time.monotonic()
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    metrics, line, peak = workdir / run_names.METRICS, None, 0
    while line is None and run.poll() is None:
        time.sleep(0.02)
        if metrics.exists():
            lines = [json.loads(text) for text in metrics.read_text().splitlines()]
            line = next((one for one in lines if one["step"] == 1), None)
        peak = max(peak, peak_memory.host_bytes(run.pid))
    seconds = time.monotonic() - started
    if run.wait() or line is None:
        raise SystemExit(
            f"{shlex.join(command)}: ended with {run.returncode} before its first step"
        )
    return Start(seconds, line["step_seconds"], peak)


if __name__ == "__main__":
    jaxsft_flags.run_program(main)
