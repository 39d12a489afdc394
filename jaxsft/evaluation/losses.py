"""The loss on held-out data, of each set as a whole."""

from collections.abc import Callable, Iterable

import jax

from jaxsft.devices import progress
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model.state import Params
from jaxsft.rundir.metric_lines import finite
from jaxsft.training.batch import Batch
from jaxsft.training.loader import Batches

_AHEAD = 3  # batches that the devices have before them at most, so that a stop is soon seen


def figures_of(sets: Iterable[str]) -> list[str]:
    """The names of what `mean_losses` gives of sets with these names."""
    return [f"eval/{name}/{figure}" for name in sets for figure in ("loss", "token_accuracy")]


def mean_losses(
    eval_step: Callable[[Params, Batch], Sums], params: Params, sets: dict[str, Batches]
) -> dict[str, float | None]:
    """`eval/<name>/loss` (nats per target) and `eval/<name>/token_accuracy` over each whole set.

    Sums are divided once, so that neither batch size nor packing changes a figure.
    """
    values = losses_unless(lambda: False, eval_step, params, sets)
    assert values is not None
    return values


def losses_unless(
    stopped: Callable[[], bool],
    eval_step: Callable[[Params, Batch], Sums],
    params: Params,
    sets: dict[str, Batches],
) -> dict[str, float | None] | None:
    """As mean_losses; None: `stopped`, which is asked before each batch, said so."""
    values: dict[str, float | None] = {}
    for name, batches in sets.items():
        sums: list[Sums] = []
        for batch, _ in batches.stream(0, batches.epochs.steps_in(1)):
            if stopped():
                return None
            with progress.waiting():
                sums.append(eval_step(params, batch))
            jax.block_until_ready(sums[-_AHEAD:][:1])
            progress.mark()
        nll, weight, correct = (
            sum(float(getattr(part, field)) for part in jax.device_get(sums))
            for field in ("nll", "weight", "correct")
        )
        found = finite(nll / weight), finite(correct / weight)
        values |= zip(figures_of([name]), found, strict=True)
    return values
