"""What the user's own data say of a batch, where they have been prepared."""

import dataclasses

import numpy as np

from jaxsft.config import Config
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache.prepare import Progress, Work
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack.epochs import Epochs, epochs_of, num_steps
from jaxsft.errors import UserError
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.terminal.console import Console
from jaxsft.training import inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What is to be trained."""

    rows: BatchLoad
    num_steps: int | None  # of the whole run; None: it depends on data that aren't prepared
    where_from: str


class _NotPrepared(UserError):
    pass


def look(config: Config, base: Pretrained) -> PlannedRun:
    """From the cache of the training data, or what is taken without one."""
    length = config.data.sequence_length

    def refuse(work: Work, progress: Progress) -> None:
        raise _NotPrepared("not prepared")

    train_only = dataclasses.replace(config.data, eval=())
    try:
        data = inputs.prepare_data(
            dataclasses.replace(config, data=train_only), base, Console(speaks=False), refuse
        )
    except UserError as error:
        why = "is not prepared" if isinstance(error, _NotPrepared) else f"can't be read ({error})"
        return PlannedRun(
            # The most that the step can cost.
            rows=BatchLoad(tokens=1.0, supervised=1.0, segment_length=float(length)),
            num_steps=config.train.steps,
            where_from=f"full rows, all supervised: the data {why}",
        )
    epochs = epochs_of(
        data.train,
        config.data.train,
        sequence_length=length,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
    )
    return PlannedRun(
        rows=load_of(data.train, epochs),
        num_steps=num_steps(config.train, epochs),
        where_from=f"the prepared data, {data.train.directory.name}",
    )


def load_of(train: Cache, epochs: Epochs) -> BatchLoad:
    """Of the mean batch that these epochs make of prepared data."""
    lengths, supervised = np.asarray(train.lengths), np.asarray(train.supervised)
    share = float(supervised.sum() / lengths.sum())
    # Segments weighed by their tokens: attention costs pairs, so long ones weigh more.
    mean = float((lengths.astype(np.float64) ** 2).sum() / lengths.sum())
    return BatchLoad(
        tokens=epochs.fill,
        supervised=share * epochs.fill,
        segment_length=mean,
        max_segments=epochs.max_segments,
    )
