"""Runs as they are usually made: what the files of configs/ have in common.

Rates are those that published recipes meet at: 1e-5 to 2e-5 for all weights and ten to twenty times
as much for adapters of rank 16 on every matrix, with a cosine after a warm-up of 3 %, two epochs of
packed rows and no weight decay.
"""

import dataclasses
from pathlib import Path

from jaxsft.cli import config_file
from jaxsft.config import (
    Checkpoint,
    Config,
    Data,
    Eval,
    Log,
    Lora,
    Mesh,
    Model,
    Optim,
    Source,
    Train,
)


def all_weights(
    model: str,
    *,
    batch_size: int,
    microbatches: int = 1,
    sequence_length: int = 4096,
    peak_lr: float = 1e-5,
    template: str | None = None,
    mesh: Mesh | None = None,
) -> Config:
    """A run that trains all weights on data/train.jsonl, some rows of which it holds out.

    Args:
        model, template: of Model.source and Data.template.
        batch_size, microbatches: of Train.
        mesh: None: a replica for each slice or box, over all its devices.
    """
    return Config(
        model=Model(source=model),
        data=Data(
            train=(Source(path="data/train.jsonl"),),
            holdout=0.05,
            sequence_length=sequence_length,
            template=template,
        ),
        mesh=mesh or Mesh(),
        # Of a run of some hundred steps the usual b2 of 0.999 would remember all.
        optim=Optim(peak_lr=peak_lr, warmup_share=0.03, b2=0.95),
        train=Train(batch_size=batch_size, epochs=2, microbatches=microbatches),
        checkpoint=Checkpoint(save_times_per_epoch=2),
        eval=Eval(times_per_epoch=2, prompts=8),
        log=Log(every_steps=5),
    )


def adapters(
    full: Config,
    *,
    batch_size: int,
    microbatches: int = 1,
    peak_lr: float = 2e-4,
    divide_expert_rank: bool = False,
    frozen_dtype: str = "source",
) -> Config:
    """A run on the same data that trains adapters of rank 16 on every matrix in place of weights.

    Args:
        full: a run that trains all weights.
        frozen_dtype: of Model: how the weights of the model itself are kept.
    """
    sizes = {"batch_size": batch_size, "microbatches": microbatches}
    return dataclasses.replace(
        full,
        model=dataclasses.replace(full.model, frozen_dtype=frozen_dtype),
        lora=Lora(rank=16, alpha=32.0, divide_expert_rank=divide_expert_rank),
        optim=dataclasses.replace(full.optim, peak_lr=peak_lr),
        train=dataclasses.replace(full.train, **sizes),
    )


def beside(file: str, name: str) -> Config:
    """The run of another config file in the same folder.

    Args:
        file: the config file that asks, its __file__.
    """
    return config_file.load(str(Path(file).with_name(name)))
