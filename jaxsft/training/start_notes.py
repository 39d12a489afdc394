"""What a run is about to do, in a few lines: those that no other part has told."""

import math

from jaxsft.config import Checkpoint, Config
from jaxsft.files import run_names
from jaxsft.training.inputs import PreparedData
from jaxsft.training.job import Job
from jaxsft.training.schedule import num_warmup_steps

_DOES_NOT_END = ("constant", "inverse_sqrt")


def start_notes(
    config: Config, job: Job, data: PreparedData, shown_directory: str
) -> list[tuple[str, str]]:
    """Topics and texts: data, batch, rate, files."""
    return [
        ("data", _data(data)),
        ("batch", _batch(config, job, data)),
        ("rate", _rate(config, job.num_steps)),
        ("files", _files(config.checkpoint, shown_directory)),
    ]


def _data(data: PreparedData) -> str:
    held_out = [f"{name} {len(cache):,}" for name, cache in data.eval.items()]
    watched = ", ".join(held_out) if held_out else "nothing, so nobody will see what it learns"
    return f"{len(data.train):,} examples to train on; evaluated on: {watched}"


def _batch(config: Config, job: Job, data: PreparedData) -> str:
    train, epochs = config.train, job.batches.epochs
    trained = float(epochs.sums_of_steps(data.train.supervised).mean())
    parts = "" if train.microbatches == 1 else f" in {train.microbatches} parts"
    return (
        f"{train.batch_size} rows of {config.data.sequence_length:,} tokens a step{parts}; about"
        f" {trained:,.0f} tokens of them are trained on"
    )


def _rate(config: Config, num_steps: int) -> str:
    optim = config.optim
    warmup = num_warmup_steps(optim, num_steps)
    end = f" down to {optim.peak_lr * optim.final_lr_fraction:.3g}"
    clipped = optim.max_grad_norm
    return (
        f"{optim.name}, {optim.peak_lr:.3g} after {warmup} steps of warm-up, {optim.schedule}"
        f"{'' if optim.schedule in _DOES_NOT_END else end}; weight decay {optim.weight_decay:g},"
        f" gradients {'not clipped' if clipped is None else f'clipped at {clipped:g}'}"
    )


def _files(save: Checkpoint, directory: str) -> str:
    minutes = save.save_every_minutes
    spacings = [
        *([f"{minutes:g} minutes"] if minutes is not None and math.isfinite(minutes) else []),
        *([f"{save.save_every_steps:,} steps"] if save.save_every_steps is not None else []),
    ]
    if save.save_times_per_epoch is not None:
        spacings.append(f"1/{save.save_times_per_epoch} epoch")
    when = f"saved every {' and every '.join(spacings)}" if spacings else "saved at the end"
    export = f", {run_names.EXPORT}/ at the end" if save.export else ""
    return f"{directory}: {run_names.REPORT}, {run_names.METRICS}; {when}{export}"
