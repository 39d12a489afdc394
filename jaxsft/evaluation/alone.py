"""A model evaluated by itself, as the end of a run would evaluate it."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from jaxsft.config import Config
from jaxsft.convert import pretrained
from jaxsft.evaluation.measurer import Measurer
from jaxsft.evaluation.scoring.table import ScoreRow, table
from jaxsft.files import records, run_names
from jaxsft.model.state import Params
from jaxsft.rundir import reopen
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.sample import Sample
from jaxsft.rundir.workdir import opened
from jaxsft.terminal.console import Console
from jaxsft.training import inputs
from jaxsft.training.job import Job, set_up

_PHASE = "after"  # under which a measurer has the figures


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """
    Attributes:
        figures: by name, such as eval/heldout/loss; None: not finite.
        scores: of the answers, with their intervals.
    """

    figures: Mapping[str, float | None]
    scores: Sequence[ScoreRow]


def of_source(config: Config, source: str) -> Config:
    """The same for another model, whose files have all of its weights and tokens."""
    model = dataclasses.replace(
        config.model,
        source=source,
        weights="pretrained",
        continue_from=None,
        new_tokens=(),
        pad_vocab_to=1,
        frozen_dtype="source",
    )
    tokenizer = None if config.model.new_tokens else config.data.tokenizer
    data = dataclasses.replace(config.data, tokenizer=tokenizer)
    return dataclasses.replace(config, model=model, data=data, lora=None)


def evaluate(
    config: Config,
    workdir: str | None,
    step: int | None,
    samples: Path | None,
    console: Console,
) -> Evaluated:
    """
    Args:
        config: whose model is evaluated on whose sets.
        workdir: of a run, whose checkpoint is evaluated in the model's place; None: the model.
        step: of the checkpoint.
        samples: where the answers go, a line each, as a run writes them; None: nowhere.

    Raises:
        UserError: a model, checkpoint, tokenizer or set that can't be used.
    """
    params = None
    if workdir is not None:
        with opened(workdir, writes=False) as run:
            run.fetch()
            params = reopen.read(run, step).params
    config = dataclasses.replace(config, distil=None)
    base = inputs.open_model(config, console.say)
    data = inputs.prepare_data(config, base, console)
    job = set_up(config, base, data)
    with tempfile.TemporaryDirectory() as folder:
        file = samples or Path(folder) / run_names.SAMPLES
        measurer = Measurer(config, job, data, JsonLines(file), _but_figures(console))
        measurer.check_prompts(before=False)
        with jax.set_mesh(job.program.mesh):
            figures = measurer.measure(_placed(params, base, job), _PHASE)
        lines = JsonLines(file).read()
    return Evaluated(figures, table([records.from_json(Sample, line) for line in lines]))


def _but_figures(console: Console) -> Callable[[str, str], None]:
    """What is said of prompts and scorers; the figures are handed back."""
    return lambda topic, line: None if topic == _PHASE else console.say(topic, line)


def _placed(params: Params | None, base: pretrained.Pretrained, job: Job) -> Params:
    placement = job.program.placement.params
    if params is None:
        return pretrained.read_params(base, placement)
    return jax.device_put(params, placement)
