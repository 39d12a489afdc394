"""The debug run whole, resumed and exported; and the exported model's logits beside transformers'.

float32, bfloat16, both with XLA's deterministic operations, and on the CPU for comparison. What a
resumed run differs in is a fault of resuming only where two whole runs don't: `bf16+twice` shows.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.gpu import results
from jaxsft.files import run_names

_ROOT = Path(__file__).resolve().parents[3]
_BF16 = ("--config.model.dtype=bfloat16",)
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_SAID = ("attention", "mesh", "xla")  # topics of the lines that are kept
_MOST_SECONDS = 300
_TINY = ("--config.eval.prompts=0", "--config.data.workers=1")
# Without preallocation, beside another process on the same GPU.
_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Kind(NamedTuple):
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    xla_flags: str = ""  # beside those that are set


KINDS = {
    "f32": Kind(),
    "bf16": Kind(_BF16),
    "f32det": Kind(xla_flags=_DETERMINISTIC),
    "bf16det": Kind(_BF16, xla_flags=_DETERMINISTIC),
    "cpu": Kind((), {"JAX_PLATFORMS": "cpu"}),
}


class Ended(NamedTuple):
    rc: int
    seconds: float
    said: list[str]
    err: str  # the end of stderr, where it failed


def measure(names: str) -> None:
    """Each named kind: whole, and (but for cpu) again from its checkpoint of step 10.

    After `NAME+twice` also whole once more.
    """
    for asked in names.split(","):
        name, _, twice = asked.partition("+")
        try:
            ended = _train(_workdir(name), name)
            results.put("e2e", run=name, **ended._asdict())
            if ended.rc == 0 and name != "cpu":
                _resume(name)
            if ended.rc == 0 and twice:
                _repeat(name)
        except Exception as error:
            results.put("e2e", run=name, error=results.said(error))
    cpu, gpu = _losses(_workdir("cpu")), _losses(_workdir("f32"))
    if cpu and gpu:
        worst = max(abs(cpu[step] - gpu[step]) for step in cpu.keys() & gpu.keys())
        line = {"first": (cpu[1], gpu[1]), "worst_loss_difference": worst}
        results.put("e2e", run="f32 here against the CPU", **line)


def _workdir(name: str) -> Path:
    return results.scratch() / "runs" / name


def _train(workdir: Path, name: str, begun: bool = False) -> Ended:
    """Runs configs/debug.py there; what it prints goes to e2e.log beside the results."""
    if not begun:
        shutil.rmtree(workdir, ignore_errors=True)
    kind, since = KINDS[name], time.time()
    command = [sys.executable, "-m", "jaxsft.train", "--config=configs/debug.py"]
    xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {kind.xla_flags}".strip()
    done = subprocess.run(
        [*command, f"--workdir={workdir}", *kind.flags, *(_TINY if results.is_tiny() else ())],
        env=os.environ | _SHARED | kind.environment | {"XLA_FLAGS": xla_flags},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
    )
    with (results.folder() / "e2e.log").open("a", encoding="utf-8") as file:
        file.write(f"=== {workdir} {kind} rc={done.returncode}\n")
        file.write(done.stdout[-6000:] + done.stderr[-4000:])
    said = [line for line in done.stdout.splitlines() if line.startswith(_SAID)]
    err = done.stderr[-300:] if done.returncode else ""
    return Ended(done.returncode, time.time() - since, said, err)


def _resume(name: str) -> None:
    whole, resumed = _workdir(name), _workdir(f"{name}_resumed")
    shutil.rmtree(resumed, ignore_errors=True)
    shutil.copytree(whole, resumed)
    for gone in (f"{run_names.CHECKPOINTS}/20", run_names.EXPORT):
        shutil.rmtree(resumed / gone, ignore_errors=True)
    _compare(f"{name} resumed at 10", whole, resumed, _train(resumed, name, begun=True))


def _repeat(name: str) -> None:
    again = _workdir(f"{name}_again")
    _compare(f"{name} again", _workdir(name), again, _train(again, name))


def _compare(run: str, expected: Path, found: Path, ended: Ended) -> None:
    """Whether both runs logged the same losses and exported the same bytes."""
    first, second = _losses(expected), _losses(found)
    exports = [_digest(workdir / run_names.EXPORT) for workdir in (expected, found)]
    results.put(
        "e2e",
        run=run,
        **ended._asdict(),
        bitwise=exports[0] == exports[1],
        losses_equal=all(loss == second.get(step) for step, loss in first.items()),
        first_different=next((step for step in first if first[step] != second.get(step)), None),
        last=(first.get(20), second.get(20)),
    )


def _losses(workdir: Path) -> dict[int, float]:
    """The loss of each logged step; none where there was no such run."""
    file = workdir / run_names.METRICS
    lines = map(json.loads, file.read_text().splitlines() if file.is_file() else ())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _digest(export: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(export.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compare_logits() -> None:
    """What the float32 run exported: transformers on the CPU against jaxsft here."""
    import jax
    import torch
    from transformers import AutoModelForCausalLM

    import jaxsft
    from bench.gpu import timing

    export = str(_workdir("f32") / run_names.EXPORT)
    tokens_BT = np.random.default_rng(0).integers(0, 512, (2, 96))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
        expected = theirs(torch.as_tensor(tokens_BT)).logits.numpy()
    model = jaxsft.load_model(export)
    for precision in ("default", "highest"):
        with jax.default_matmul_precision(precision):
            found = np.asarray(model(tokens_BT.astype(np.int32)), np.float32)
        relative = timing.relative(expected, found[..., : expected.shape[-1]])
        results.put("logits", precision=precision, relative=relative)
