"""The processes of one start of the run."""

import dataclasses
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jaxsft.files import run_names

ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a lap of the run lies, and what its processes share."""

    folder: Path  # of the files that ask for faults, and of what the processes say
    workdir: Path
    flags: tuple[str, ...]  # of the run
    shim: Path | None  # what makes reads fail, compiled; None: no compiler

    @property
    def errors_while(self) -> Path:
        return self.folder / "read_errors"

    def step(self) -> int:
        """The last step that the metrics know."""
        file = self.workdir / run_names.METRICS
        text = file.read_text(errors="replace") if file.exists() else ""
        lines = text.splitlines()
        for line in reversed(lines[:-1] if text and not text.endswith("\n") else lines):
            if (step := json.loads(line).get("step")) is not None:
                return step
        return 0


class Processes:
    def __init__(self, place: Place, count: int, start: int):
        """Starts them.

        Args:
            start: its number, for the names of the logs.
        """
        self.place, self.count = place, count
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tools")]),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "OMP_NUM_THREADS": "1",
        }
        if place.shim is not None:
            environment |= {
                "LD_PRELOAD": str(place.shim),
                "SOAK_ERRORS_BELOW": str(place.workdir / run_names.CHECKPOINTS),
                "SOAK_ERRORS_WHILE": str(place.errors_while),
            }
        self.logs = [place.folder / f"said.{start}.{number}" for number in range(count)]
        self._running = []
        for number, log in enumerate(self.logs):
            command = [
                *(sys.executable, "-m", "soaking.job", str(place.folder), str(number)),
                *(*place.flags, f"--workdir={place.workdir}", f"--coordinator_address={address}"),
                *(f"--num_processes={count}", f"--process_id={number}"),
            ]
            with log.open("w") as file:
                self._running.append(
                    subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=ROOT)
                )

    def send(self, number: int, sent: signal.Signals) -> None:
        if self._running[number].poll() is None:
            self._running[number].send_signal(sent)

    def limit_files(self, size: int) -> None:
        """What a file may grow to: a full disk, for those that aren't root too."""
        for one in self._running:
            if one.poll() is None:
                resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def codes(self) -> list[int | None]:
        """Exit codes; None: runs."""
        return [one.poll() for one in self._running]

    def wait(self, seconds: float, but: Sequence[int] = (), least: int | None = None) -> bool:
        """Whether all end within that time.

        Args:
            but: numbers of processes that are not waited for.
            least: so many are enough; None: all.
        """
        until = time.monotonic() + seconds
        others = [number for number in range(self.count) if number not in but]
        enough = len(others) if least is None else least
        while sum(self.codes()[number] is not None for number in others) < enough:
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def wait_for_step(self, step: int, seconds: float) -> bool:
        """Whether the run came to that step in that time, and all processes run."""
        until = time.monotonic() + seconds
        while self.place.step() < step:
            if time.monotonic() > until or any(code is not None for code in self.codes()):
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def kill(self) -> None:
        for one in self._running:
            if one.poll() is None:
                one.kill()
            one.wait()

    def said(self) -> str:
        """The end of what each said."""
        return "\n".join(f"[{log.name}]\n{log.read_text()[-1500:]}" for log in self.logs)
