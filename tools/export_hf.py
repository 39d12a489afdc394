"""Writes a checkpoint of a run as a Hugging Face directory or a .gguf file; any machine will do.

python tools/export_hf.py --workdir=runs/x --output=my-model [--step=N] [--check]
python tools/export_hf.py --workdir=runs/x --output=my-model.gguf --format=gguf --gguf_dtype=q8_0
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from jaxsft import finish, mesh, remote, setup
from jaxsft import flags as jaxsft_flags
from jaxsft.checkpoint import CheckpointStore
from jaxsft.config import Config, from_dict
from jaxsft.convert import check_export, gguf_write, pretrained
from jaxsft.convert.export import MARKER
from jaxsft.errors import CheckpointError, ConfigError
from jaxsft.metrics import JsonLines
from jaxsft.model import state
from jaxsft.workdir import Workdir, opened

_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run, local or gs://")
_OUTPUT = flags.DEFINE_string("output", None, "directory, or .gguf file, to write; may be gs://")
_FORMAT = flags.DEFINE_enum("format", "safetensors", ("safetensors", "gguf"), "what to write")
_GGUF_DTYPE = flags.DEFINE_enum(
    "gguf_dtype", "f16", ("f32", "f16", "bf16", "q8_0"), "of the matrices in a .gguf file"
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ("source", "float32", "bfloat16", "float16"),
    "of the weights in a directory; as in config.checkpoint.export_dtype when not set",
)
_CHECK = flags.DEFINE_bool("check", False, "compare logits with transformers'; needs torch")
_STEP = flags.DEFINE_integer("step", None, "checkpoint to export; the newest when not set")


def main() -> None:
    with opened(_WORKDIR.value, writes=False) as workdir:
        workdir.fetch()
        if remote.is_remote(_OUTPUT.value):
            remote.open_directory("--output", _OUTPUT.value)
        with remote.staged(_OUTPUT.value, MARKER) as output:
            _export(workdir, output)


def _export(workdir: Workdir, output: Path) -> None:
    config = _read_config(workdir)
    store = CheckpointStore(workdir.checkpoints, config.checkpoint.keep)
    step = _chosen_step(store)
    base = setup.open_model(config, lambda topic, text: None)
    params = _read_params(store, step, base, config.model.parameter_dtype)
    trained_on = store.notes(step)["data"]
    store.close()
    if _FORMAT.value == "gguf":
        _write_gguf(config, base, trained_on, params, output)
    else:
        lines = JsonLines(workdir.files / "metrics.jsonl").read()
        before, after = finish.figures(lines, 0), finish.figures(lines, step)
        command = shlex.join(["python", *sys.argv])
        about = finish.model_card(config, trained_on, before, after, command)
        finish.export_params(config, base, trained_on, params, output, about, _DTYPE.value)
        if _CHECK.value:
            print(finish.said_difference(check_export.compare_logits(output)))
    print(f"step {step} of {workdir.name}: {_OUTPUT.value}")


def _write_gguf(
    config: Config,
    base: pretrained.Pretrained,
    trained_on: dict[str, Any],
    params: state.Params,
    output: Path,
) -> None:
    written = gguf_write.export_gguf(
        params,
        base,
        output,
        dtype=_GGUF_DTYPE.value,
        template=trained_on["template"],
        end_of_turn_ids=trained_on["end_of_turn_ids"],
        tokenizer=setup.tokenizer_directory(config),
    )
    for note in written.notes:
        print(note, file=sys.stderr)


def _read_config(workdir: Workdir) -> Config:
    file = workdir.files / "config.json"
    if not file.is_file():
        raise ConfigError(f"--workdir={workdir.name}: has no config.json; is it a run's directory?")
    return from_dict(json.loads(file.read_text(encoding="utf-8")))


def _chosen_step(store: CheckpointStore) -> int:
    steps = store.steps()
    if not steps:
        raise CheckpointError(f"{store.directory}: no checkpoint has been saved yet")
    if _STEP.value is not None and _STEP.value not in steps:
        raise CheckpointError(f"--step={_STEP.value}: {store.directory} has the steps {steps}")
    return steps[-1] if _STEP.value is None else _STEP.value


def _read_params(
    store: CheckpointStore, step: int, base: pretrained.Pretrained, parameter_dtype: str
) -> state.Params:
    """The parameters alone: the optimizer's state, twice their size, stays on disk."""
    _, shapes, axes = state.abstract(base.settings, "float32", "none", parameter_dtype)
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    wanted = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        placement,
    )
    return store.restore_part(step, "params", wanted)


if __name__ == "__main__":
    jaxsft_flags.run_tool(main, required=("workdir", "output"))
