"""The loss on held-out data, of each set as a whole."""

import math
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from jaxsft.devices import progress
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model.state import Params
from jaxsft.rundir.metric_lines import finite
from jaxsft.training.batch import Batch
from jaxsft.training.loader import Batches

_AHEAD = 3  # batches that the devices have before them at most, so that a stop is soon seen
_MOST_NATS = 700.0  # whose perplexity is still a float


# Of a set; nats per target, but for the share and the perplexity.
FIGURES = ("loss", "token_accuracy", "perplexity", "entropy", "first_token_loss")


def figures_of(sets: Iterable[str]) -> list[str]:
    """The names of what `mean_losses` gives of sets with these names."""
    return [f"eval/{name}/{figure}" for name in sets for figure in FIGURES]


def mean_losses(
    eval_step: Callable[[Params, Batch], Sums], params: Params, sets: dict[str, Batches]
) -> dict[str, float | None]:
    """`eval/<name>/<figure>` of FIGURES over each whole set, and of a set that is a mixture
    `eval/<name>/<source>/loss` and `.../first_token_loss`.

    The first token is that of an answer: what was asked decides it more than what follows.

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
        values |= _figures(name, jax.device_get(sums), batches.apart)
    return values


def _figures(name: str, sums: list[Sums], apart: Sequence[str]) -> dict[str, float | None]:
    """Of the sums of all batches of a set; `apart` are its sources where those are several."""
    nll, weight, correct, entropy = (
        sum(float(getattr(part, field)) for part in sums)
        for field in ("nll", "weight", "correct", "entropy")
    )
    # S: first tokens of each source, then all others of each.
    nll_S, weight_S = (
        np.asarray([getattr(part, field) for part in sums], np.float64).sum(axis=0)
        for field in ("source_nll_S", "source_weight_S")
    )
    loss, num_sources = _mean(nll, weight), len(nll_S) // 2
    firsts = slice(num_sources)
    first = _mean(nll_S[firsts].sum(), weight_S[firsts].sum())
    perplexity = None if loss is None or loss > _MOST_NATS else math.exp(loss)
    known = loss, _mean(correct, weight), perplexity, _mean(entropy, weight), first
    values = dict(zip(figures_of([name]), known, strict=True))
    for index, source in enumerate(apart) if len(apart) > 1 else ():
        both = [index, index + num_sources]
        values[f"eval/{name}/{source}/loss"] = _mean(nll_S[both].sum(), weight_S[both].sum())
        first = _mean(nll_S[index], weight_S[index])
        values[f"eval/{name}/{source}/first_token_loss"] = first
    return values


def _mean(total: float, weight: float) -> float | None:
    """None: not finite, or of nothing."""
    return finite(total / weight) if weight else None
