"""Another trainer in a process of its own, spoken to over pipes, a line of JSON each way.

A program of tools/peers reads its job, loads, and says {"ready": true}. Then each line "step" is
one step, answered by {"seconds", "supervised_tokens", "tokens", "loss"}, or {"done": true} at the
end of its data; "stop" is answered by {"peak_memory_bytes"}.
"""

import contextlib
import dataclasses
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from jaxsft.errors import ConfigError

PROGRAMS = Path(__file__).resolve().parents[1] / "peers"
NEEDED = {
    "transformers": "torch and transformers (and peft and accelerate for config.lora)",
    "trl": "trl==1.16.0 and torch",
    "tunix": "google-tunix==0.1.7 and transformers, on Python 3.11",
}


@dataclasses.dataclass(frozen=True)
class PeerStep:
    seconds: float
    supervised_tokens: int
    tokens: int
    loss: float


class Peer:
    """A peer's program, started and loaded; a context, at whose end the process is gone.

    Attributes:
        about: what it said when it was ready: versions, threads, settings.

    Raises:
        ConfigError: no such Python, a package that is missing there, or the peer's own error.
    """

    def __init__(self, name: str, python: str, job: dict[str, Any]):
        self._name, self._python = name, python
        with contextlib.ExitStack() as opened:
            self._errors = opened.enter_context(tempfile.TemporaryFile("w+"))
            file = opened.enter_context(tempfile.NamedTemporaryFile("w", suffix=".json"))
            json.dump(job, file)
            file.flush()
            try:
                self._process = subprocess.Popen(
                    [python, str(PROGRAMS / f"{name}_steps.py"), file.name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    text=True,
                )
            except OSError as error:
                raise ConfigError(f"--peer_python={python}: {error.strerror}") from None
            opened.enter_context(self._process)  # closes the pipes and waits
            opened.callback(self._process.kill)
            self.about = self._read()
            self._opened = opened.pop_all()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def step(self) -> PeerStep | None:
        """What one step did; None at the end of the peer's data."""
        answer = self._ask("step")
        return None if answer.get("done") else PeerStep(**answer)

    def stop(self) -> int:
        """The peer's peak memory in bytes, its last answer."""
        return self._ask("stop")["peak_memory_bytes"]

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: reading says why
        return self._read()

    def _read(self) -> dict[str, Any]:
        """The next line that is an answer; libraries print other things too."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors if line.strip()] or ["it said nothing"]
        raise ConfigError(
            f"--peer={self._name} --peer_python={self._python}: ended with {said[-1]!r}; it needs"
            f" {NEEDED[self._name]}"
        )
