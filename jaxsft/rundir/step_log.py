"""The line of metrics.jsonl of each logged step, read from the device one step late."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import numpy as np

from jaxsft.data.pack.counts import BatchCounts
from jaxsft.devices import peak_memory, progress
from jaxsft.model import settings
from jaxsft.model.moe import load_balancing_loss
from jaxsft.rundir.metric_lines import finite
from jaxsft.rundir.step_figures import StepFigures
from jaxsft.training.flops import forward_flops, recomputed_flops, training_flops
from jaxsft.training.step import StepMetrics
from jaxsft.training.untrained import ALL_TRAINS, Untrained


@dataclasses.dataclass(frozen=True)
class _Entry:
    done: int  # steps completed with this one
    metrics: StepMetrics
    counts: BatchCounts
    data_wait_seconds: float
    others: Mapping[str, float]


class StepLog:
    """Collects steps and gives their means; reading the device never holds the next step up.

    Args:
        remat: the policy that the step was compiled with, whose recomputation counts in `hfu`.
        every_steps: steps in one line.
        epochs_at: epochs that a number of steps makes.
        sources: names of the sources whose losses are kept apart.
        peak_flops: of all devices together, FLOP/s; None: neither mfu nor hfu.
        teacher: whose forward pass counts in `hfu`; None: there is none.
        untrained: what `mfu` and `hfu` leave out.
    """

    def __init__(
        self,
        model: settings.DecoderSettings,
        *,
        remat: str,
        every_steps: int,
        epochs_at: Callable[[int], float],
        sources: Sequence[str],
        peak_flops: float | None,
        teacher: settings.DecoderSettings | None = None,
        untrained: Untrained = ALL_TRAINS,
    ):
        self._model = model
        self._remat = remat
        self._every_steps = every_steps
        self._epochs_at = epochs_at
        self._sources = sources
        self._peak_flops = peak_flops
        self._teacher = teacher
        self._untrained = untrained
        self._entries: list[_Entry] = []
        self._since = time.monotonic()

    def restart_clock(self) -> None:
        """Leaves out of the step time what was done since the last line (a save, an evaluation)."""
        self._since = time.monotonic()

    def add(
        self,
        done: int,
        metrics: StepMetrics,
        counts: BatchCounts,
        data_wait_seconds: float,
        others: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Adds a step that is on its way to the devices; the one before is over or soon will be.

        Args:
            others: figures that the line of this step has, too, by their keys.
        """
        progress.mark(done)
        self._entries.append(_Entry(done, metrics, counts, data_wait_seconds, others))

    def lines(self, flush: bool = False) -> list[StepFigures]:
        """The lines that are due; the newest step is left for later unless `flush`.

        Of several lines the steps took equally long: when each was over is not seen.
        """
        due: list[list[_Entry]] = []
        while len(self._entries) > self._every_steps or (flush and self._entries):
            due.append(self._entries[: self._every_steps])
            del self._entries[: self._every_steps]
        if not due:
            return []
        values = jax.device_get([[entry.metrics for entry in entries] for entries in due])
        now = time.monotonic()
        seconds, self._since = (now - self._since) / sum(map(len, due)), now
        return [self._line(*line, seconds) for line in zip(due, values, strict=True)]

    def _line(
        self, entries: list[_Entry], values: list[StepMetrics], seconds: float
    ) -> StepFigures:
        sums = {
            field.name: sum(float(getattr(value.sums, field.name)) for value in values)
            for field in dataclasses.fields(values[0].sums)
            if not field.name.startswith("source_")
            and getattr(values[0].sums, field.name) is not None
        }
        counts = sum((entry.counts for entry in entries[1:]), entries[0].counts)
        supervised = sums["supervised_tokens"]
        needed = training_flops(self._model, counts, supervised, self._untrained) / len(entries)
        again = recomputed_flops(self._model, counts, self._remat) / len(entries)
        if self._teacher is not None:
            again += forward_flops(self._teacher, counts, supervised) / len(entries)
        last, done = values[-1], entries[-1].done
        return StepFigures(
            step=done,
            epoch=self._epochs_at(done),
            loss=_mean(sums, "nll"),
            token_accuracy=_mean(sums, "correct"),
            entropy=_mean(sums, "entropy"),
            grad_norm=finite(last.grad_norm),
            learning_rate=float(last.learning_rate),
            supervised_tokens=int(supervised),
            tokens=counts.tokens,
            examples=counts.examples,
            tokens_per_second=counts.tokens / len(entries) / seconds,
            supervised_tokens_per_second=supervised / len(entries) / seconds,
            mfu=self._share(needed / seconds),
            hfu=self._share((needed + again) / seconds),
            packing_efficiency=counts.tokens / counts.slots,
            device_imbalance=counts.busiest_cost / counts.cost if counts.cost else None,
            step_seconds=seconds,
            data_wait_seconds=float(np.mean([entry.data_wait_seconds for entry in entries])),
            memory_bytes=peak_memory.device_bytes() or peak_memory.host_bytes(),
            skipped_steps=int(last.skipped_steps),
            others=_objective(sums)
            | self._source_losses(values)
            | self._expert_balance(values)
            | {key: value for entry in entries for key, value in entry.others.items()},
        )

    def _share(self, flops_per_second: float) -> float | None:
        return flops_per_second / self._peak_flops if self._peak_flops else None

    def _source_losses(self, values: list[StepMetrics]) -> dict[str, float | None]:
        """`loss/<source>` of each source; None where the steps had no target of it."""
        if not self._sources:
            return {}
        nll, weight = (
            np.sum([np.asarray(getattr(value.sums, name)) for value in values], axis=0).tolist()
            for name in ("source_nll_S", "source_weight_S")
        )
        return {
            f"loss/{name}": finite(n / w) if w else None
            for name, n, w in zip(self._sources, nll, weight, strict=True)
        }

    def _expert_balance(self, values: list[StepMetrics]) -> dict[str, float | None]:
        """The load-balancing loss over its value for even use, mean of all layers.

        1: every expert gets as many tokens; num_experts / experts_per_token: always the same few.
        By layer, since the third expert of one layer has nothing to do with that of the next.
        """
        if self._model.moe is None:
            return {}
        total = jax.tree.map(lambda *parts: sum(parts), *(value.routing_L for value in values))
        if not total.tokens.all():
            return {"expert_balance": None}
        even = self._model.moe.experts_per_token
        return {"expert_balance": finite(load_balancing_loss(total).mean() / even)}


def _objective(sums: dict[str, float]) -> dict[str, float | None]:
    """`objective`, what is minimised, where that isn't `loss`; and `kl`, with a teacher."""
    if "objective" not in sums:
        return {}
    weight = sums["objective_weight"]
    found = {"objective": finite(sums["objective"] / weight) if weight else None}
    return found | ({"kl": _mean(sums, "kl")} if "kl" in sums else {})


def _mean(sums: dict[str, float], name: str) -> float | None:
    """The mean over the targets' weight; None where there is no weight or the sum is not finite."""
    return finite(sums[name] / sums["weight"]) if sums["weight"] else None
