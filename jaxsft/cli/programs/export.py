"""Writes a checkpoint of a run as a Hugging Face directory or a .gguf file; any machine will do.

python tools/export_hf.py --workdir=runs/x --output=my-model [--step=N] [--check]
python tools/export_hf.py --workdir=runs/x --output=my-model.gguf --format=gguf --gguf_dtype=q8_0
"""

import shlex
import sys
from pathlib import Path
from typing import cast

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.convert import check_export
from jaxsft.convert.export import gguf_file
from jaxsft.convert.export.directory import MARKER, ExportDtype
from jaxsft.files import buckets, places, run_names
from jaxsft.model import adapter
from jaxsft.report import comparison, run_export
from jaxsft.rundir import reopen
from jaxsft.rundir.reopen import ReopenedRun
from jaxsft.rundir.workdir import Workdir, opened
from jaxsft.rundir.writers.history import History
from jaxsft.training import inputs

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
_MERGE = flags.DEFINE_bool(
    "merge", False, "of a run that trained an adapter: the whole model, not the adapter alone"
)
_STEP = flags.DEFINE_integer("step", None, "checkpoint to export; the newest when not set")


def start() -> None:
    jaxsft_flags.run_tool(main, required=("workdir", "output"))


def main() -> None:
    target = jaxsft_flags.given(_OUTPUT)
    with opened(jaxsft_flags.given(_WORKDIR), writes=False) as workdir:
        workdir.fetch()
        if buckets.is_remote(target):
            buckets.open_directory("--output", target)
        with buckets.staged(target, MARKER) as output:
            model = reopen.read(workdir, _STEP.value)
            write = _write_gguf if _FORMAT.value == "gguf" else _write_directory
            with places.using(f"--output={target}", output):
                notes = write(workdir, model, output)
            for note in notes:
                print(note, file=sys.stderr)
            print(f"step {model.step} of {workdir.name}: {target}")


def _write_directory(workdir: Workdir, model: ReopenedRun, output: Path) -> tuple[str, ...]:
    """Returns what to tell the user."""
    lines = History(workdir.files / run_names.METRICS).read()
    before, after = comparison.figures_at(lines, 0), comparison.figures_at(lines, model.step)
    config, trained_on = model.config, model.trained_on
    about = run_export.model_card(config, trained_on, before, after, _command())
    exported = run_export.export_params(
        config,
        model.base,
        trained_on,
        model.params,
        output,
        about,
        cast(ExportDtype | None, _DTYPE.value),
        merge=_MERGE.value,
    )
    if _CHECK.value:
        print(run_export.said_difference(check_export.compare_logits(output)))
    return exported.notes


def _command() -> str:
    """What starts this program again."""
    by_name = sys.argv[0] == "jaxsft export"
    start = ["jaxsft", "export"] if by_name else ["python", sys.argv[0]]
    return shlex.join([*start, *sys.argv[1:]])


def _write_gguf(workdir: Workdir, model: ReopenedRun, output: Path) -> tuple[str, ...]:
    del workdir
    return gguf_file.export_gguf(
        adapter.merged(model.params),
        model.base,
        output,
        dtype=cast(gguf_file.Dtype, _GGUF_DTYPE.value),
        template=model.trained_on.template,
        end_of_turn_ids=model.trained_on.end_of_turn_ids,
        tokenizer=inputs.tokenizer_directory(model.config),
    ).notes
