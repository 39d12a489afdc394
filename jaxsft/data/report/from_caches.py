"""The data report of prepared caches and of the run that is to use them."""

from collections.abc import Iterable, Mapping

from jaxsft.config import Data, Train
from jaxsft.data.cache.manifest import CacheReport
from jaxsft.data.cache.prepare import source_names
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack.epochs import Epochs, epochs_of, num_steps
from jaxsft.data.quality import measures, row_statistics
from jaxsft.data.report import warnings
from jaxsft.data.report.data_report import DataReport, DataWarning, PlannedSteps

_FEW_HELD_OUT = 0.9  # of those asked for


def report_of(
    data: Data,
    train: Train,
    cache: Cache,
    evals: Mapping[str, Cache],
    epochs: Epochs | None = None,
    shares: int = 1,
    hints: Iterable[DataWarning] = (),
) -> DataReport:
    """What there is to know of these caches and of the steps that `train` makes of them.

    Args:
        epochs: of the training cache, where they are planned already.
        shares: of a batch's rows, one for each device that has rows of its own; 1 if not known.
        hints: of what isn't data.
    """
    epochs = epochs or epochs_of(
        cache,
        data.train,
        sequence_length=data.sequence_length,
        batch_size=train.batch_size,
        seed=train.seed,
    )
    train_facts = row_statistics.load(cache.directory)
    overlaps = {
        name: measures.overlap_of(train_facts, row_statistics.load(other.directory))
        for name, other in evals.items()
    }
    return warnings.whole_report(
        cache.report,
        {name: other.report for name, other in evals.items()},
        overlaps,
        planned_steps(data, train, cache, epochs, shares),
        [*_few_held_out(data, cache.report), *hints],
    )


def _few_held_out(data: Data, report: CacheReport) -> list[DataWarning]:
    """Rows that are alike stay on one side, so fewer may be held out than were asked for."""
    if data.holdout is None:
        return []
    there = report.rows_out + report.held_out
    wanted = data.holdout if isinstance(data.holdout, int) else round(data.holdout * there)
    if report.held_out >= _FEW_HELD_OUT * wanted:
        return []
    return [
        DataWarning(
            f"{report.held_out:,} rows are held out where data.holdout={data.holdout} asks for"
            f" {wanted:,} of {there:,}",
            "Rows that are alike or have the same prompt stay on one side, and their groups are"
            " large: hold out more, name rows of their own in data.eval, or see whether so many"
            " rows should be alike (data.duplicates).",
            [],
        )
    ]


def planned_steps(
    data: Data, train: Train, cache: Cache, epochs: Epochs, shares: int = 1
) -> PlannedSteps:
    """The steps of the run."""
    steps = num_steps(train, epochs)
    per_step = epochs.sums_of_steps(cache.supervised)
    return PlannedSteps(
        sequence_length=data.sequence_length,
        batch_size=train.batch_size,
        batch_multiple=shares * train.microbatches,
        packed_rows=epochs.num_rows,
        fill=epochs.fill,
        steps_per_epoch=epochs.steps_in(1),
        steps=steps,
        epochs=epochs.epochs_at(steps),
        supervised_tokens_per_epoch=int(per_step.sum()),
        examples_per_epoch=dict(zip(source_names(data.train), epochs.wanted, strict=True)),
        fewest_supervised_tokens=int(per_step.min()),
    )
