"""The files of a run directory, and what is said on the way."""

import dataclasses
import json
from pathlib import Path

import jax

from jaxsft.checkpoint import CheckpointStore
from jaxsft.config import Config
from jaxsft.console import Console
from jaxsft.metrics import JsonLines


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where a run writes to."""

    workdir: Path
    console: Console
    metrics: JsonLines
    samples: JsonLines
    store: CheckpointStore


def open_outputs(config: Config, workdir: Path, console: Console) -> Outputs:
    first = jax.process_index() == 0
    return Outputs(
        workdir,
        console,
        JsonLines(workdir / "metrics.jsonl", writes=first),
        JsonLines(workdir / "samples.jsonl", writes=first),
        CheckpointStore(workdir / "checkpoints", config.checkpoint.keep),
    )


def write_config(config: Config, workdir: Path) -> None:
    """config.json: what the run really uses, after all overrides."""
    if jax.process_index() == 0:
        resolved = json.dumps(dataclasses.asdict(config), indent=2)
        (workdir / "config.json").write_text(resolved + "\n", encoding="utf-8")
