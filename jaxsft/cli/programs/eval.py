"""Evaluates a model: a run's result or checkpoint, an export, an adapter or a base.

    python tools/evaluate.py --model=RUN [--step=N]              on the sets of the run
    python tools/evaluate.py --model=ANY --config=configs/x.py   on those of a config

Losses are weighted by token, the same for any batch, packing and mesh; answers are scored as
config.eval says, with 95 % intervals. The end of a run evaluates in this way.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config, from_dict
from jaxsft.errors import ConfigError
from jaxsft.files import run_names

if TYPE_CHECKING:
    from jaxsft.evaluation.alone import Evaluated

jaxsft_flags.define_config()
_MODEL = flags.DEFINE_string("model", None, "directory, hub id, .gguf file, adapter or run")
_STEP = flags.DEFINE_integer("step", None, "of a run: the checkpoint; its export when not set")
_SAMPLES = flags.DEFINE_string("samples", None, "file for the answers; it must not exist yet")
_JSON = flags.DEFINE_bool("json", False, "prints one JSON object")


def start() -> None:
    jaxsft_flags.run_program(main, required=("model",), known=_config_of_run)


def main(config: Config) -> None:
    # These take seconds to import: not before the command line is known good.
    from jaxsft.evaluation import alone
    from jaxsft.terminal.console import Console

    source, step = jaxsft_flags.given(_MODEL), _STEP.value
    samples = None if _SAMPLES.value is None else Path(_SAMPLES.value)
    if samples is not None and samples.exists():
        raise ConfigError(f"--samples={samples}: is there already; name another file")
    if step is not None and flags.FLAGS["config"].value is not None:
        raise ConfigError(
            f"--step={step}: a checkpoint is read by its own run's config; leave --config out, and"
            " change what is evaluated with --config.eval.x=..., --config.data.eval=..."
        )
    if step is None:
        config = alone.of_source(config, source)
    found = alone.evaluate(
        config, None if step is None else source, step, samples, Console(speaks=not _JSON.value)
    )
    if not found.figures:
        raise ConfigError("config.eval, config.data.eval: there is nothing to evaluate on")
    _print(found)


def _config_of_run() -> Config:
    """That of the run which --model names.

    Raises:
        ConfigError: it is no run.
    """
    source = jaxsft_flags.given(_MODEL)
    file = Path(source).expanduser() / run_names.CONFIG
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        value = {}
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise ConfigError(
            f"--model={source}: is no run's directory, which would say what to evaluate on; name a"
            " --config"
        )
    return from_dict(value)


def _print(found: "Evaluated") -> None:
    from jaxsft.evaluation.scoring import table

    if _JSON.value:
        json.dump(dict(found.figures), sys.stdout, indent=2)
        print()
        return
    for name, value in found.figures.items():
        if name.startswith("eval/"):
            print(f"{name:40} {'not finite' if value is None else f'{value:.4f}'}")
    for row in found.scores:
        print(table.said(row))
