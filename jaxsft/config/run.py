"""The whole config of a run, and its sections that are about the run as such."""

import dataclasses
from typing import Literal

from jaxsft.config.data import Data
from jaxsft.config.distil import Distil
from jaxsft.config.lora import Lora
from jaxsft.config.loss import Loss
from jaxsft.config.model import Model
from jaxsft.config.optim import Optim
from jaxsft.config.scorers import Scorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices along each mesh axis; None: what the other axes leave.

    With `data` and `fsdp` both None, each slice (or box) has a replica, over its own devices.
    """

    data: int | None = None  # replicas of the parameters; the only axis that crosses a network well
    fsdp: int | None = None  # parameters, optimizer state and batch are split
    context: int = 1  # positions of a row
    expert: int = 1  # experts of a mixture, and the batch of all that is no expert
    tensor: int = 1  # heads and MLP columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    batch_size: int  # packed rows in one optimizer step, over all devices and hosts
    epochs: int | None = None  # exactly one of epochs and steps
    steps: int | None = None  # optimizer steps
    microbatches: int = 1  # the batch is computed in this many parts
    seed: int = 0  # of data order, random weights and the noise of a step
    # Steps between two that are made twice, whose bits are compared on every device: hardware that
    # computes wrongly ends the run with 72. Takes a step and moving the state to the host and back.
    sdc_check_every_steps: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    # Each that is set saves, as do the last step, a termination signal, and SIGUSR1.
    save_every_minutes: float | None = 15.0  # since the save before, whatever it was made for
    save_every_steps: int | None = None  # by the count of steps
    save_times_per_epoch: int | None = None  # instead; evenly spaced, after the last step too
    keep: int = 2  # newest checkpoints kept
    keep_every_steps: int | None = None  # and, of those saved, the steps that are a multiple of it
    # Seconds from a termination signal to the end, in which a step is finished and saved; after
    # them the process ends as it is. Clouds give 25 to 30; where a step and a save take longer, let
    # the cluster give more, and say so here.
    grace_seconds: float = 22.0
    # A figure of evaluation, such as "eval/holdout/loss": the step that has the best is saved, and
    # kept beside the newest.
    best: str | None = None
    best_mode: Literal["min", "max"] | None = None  # None: by its name, as a loss is best least
    # Write <workdir>/export when training ends: a model, or after config.lora an adapter for PEFT.
    export: bool = True
    export_best: bool = True  # of the best step, where `best` names a figure; else of the last
    merge: bool = False  # after config.lora: write the whole model to <workdir>/export_merged too
    # Dtype of the exported weights; "source": each as in the base.
    export_dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"
    check_export: bool = False  # compare its logits with transformers'; needs torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    # Loss on data.eval and on what data.holdout takes; None: before the first and after the last
    # step only.
    every_steps: int | None = None
    times_per_epoch: int | None = None  # instead of every_steps; evenly spaced
    # Evaluations in a row in which checkpoint.best does not get better by more than
    # min_improvement, after which the run ends; None: it has all its steps.
    early_stopping: int | None = None
    min_improvement: float = 0.0  # less is none, for early_stopping
    # Packed rows; None: train.batch_size, or fewer where they hold all rows of the largest set.
    batch_size: int | None = None
    # Held-out prompts answered before and after, of each set of evaluation that has conversations.
    prompts: int = 0
    # Answered during training too, at the first evaluation from each multiple of it on; 1: at all.
    answer_every_steps: int | None = None
    max_new_tokens: int = 128  # per answer
    # How an answer is scored, in a figure eval/<set>/<name> each: "exact", "contains", "number",
    # "json" and "tool_calls", or what jaxsft/config/scorers.py has, with settings.
    scorers: tuple[Scorer, ...] = ()
    # One of them as the figure eval/<set>/match, which reports show first.
    match: Literal["exact", "json"] | None = None
    instruction: str | None = None  # a system message; the untrained model is also measured with it
    # Examples of the training data before each prompt; the untrained model is also measured so.
    shots: int = 0
    # Before and after, requests to refuse and harmless ones that look alike are answered too:
    # eval/refusal/refused and eval/refusal/over_refused.
    refusal: bool = False
    harmful_requests: str | None = None  # a file of rows; None: 24 that come with the package
    harmless_requests: str | None = None  # as harmful_requests


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    every_steps: int = 1  # one line in metrics.jsonl, means over the steps since the last
    # Of several processes: the time that each needs by itself, and the slowest if it holds all up.
    processes_every_steps: int = 50
    # A step whose loss lies so many deviations above the usual one, of the median's kind, is told
    # with the rows that made it, in odd_steps.jsonl, as skipped steps are; None: only those are.
    spike_deviations: float | None = 8.0
    examples: bool = False  # the rows of every step in examples.jsonl
    price_per_hour: float | None = None  # of all the machines together: the report's price
    # First and last step of a trace of jax's profiler, in <workdir>/profile; such as 10,13.
    profile_steps: tuple[int, ...] | None = None
    # Where the figures go beside metrics.jsonl, which has all of them always.
    writers: tuple[Literal["tensorboard", "wandb"], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    model: Model
    data: Data
    optim: Optim
    train: Train
    lora: Lora | None = None  # None: the model's own weights are trained
    loss: Loss = Loss()
    distil: Distil | None = None  # None: no teacher
    mesh: Mesh = Mesh()
    checkpoint: Checkpoint = Checkpoint()
    eval: Eval = Eval()
    log: Log = Log()
