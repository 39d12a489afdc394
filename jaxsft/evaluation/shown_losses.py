"""token_losses.jsonl: what each token of some training examples cost before and after training."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax

from jaxsft.config import Config
from jaxsft.data.cache.store import Cache
from jaxsft.devices import progress
from jaxsft.files import records, run_names
from jaxsft.model.state import Params
from jaxsft.rundir.metric_lines import JsonLines, finite
from jaxsft.rundir.run_files import Outputs
from jaxsft.training.inputs import PreparedData
from jaxsft.training.job import Job
from jaxsft.training.token_losses import TokenLosses

BEFORE, AFTER = "before", "after"
_EXAMPLES = 6
_MAX_TOKENS = 1500  # of an example that are kept: no reader has patience for more
_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class ShownLosses:
    """A line of the file: of one example, whose tokens' losses in nats come in their order."""

    step: int = 0
    phase: str = AFTER
    data: str = ""  # fingerprint of the data that the example is of
    example: int = 0  # its number in them
    losses: Sequence[float | None] = ()  # None: not known, as of the first token


class LossesOfExamples:
    """Measures the examples that the report shows; nothing in here ends a run."""

    def __init__(self, config: Config, job: Job, data: PreparedData, out: Outputs):
        self._train, self._say = data.train, out.console.say
        self._lines = _lines(out.workdir.files, writes=jax.process_index() == 0)
        self._make = functools.partial(TokenLosses, config, job)

    @functools.cached_property
    def _losses(self) -> TokenLosses:
        return self._make()

    @progress.during("evaluating")
    def measure(self, params: Params, phase: Literal["before", "after"], step: int) -> None:
        """
        Args:
            step: after which these are the parameters.
        """
        wanted = shown(self._train)
        self._lines.keep(lambda line: phase == AFTER and line.get("phase") == BEFORE)
        try:
            ids = [ids[:_MAX_TOKENS] for ids, _ in self._train.examples(wanted)]
            found = self._losses.of(params, ids)
        except Exception as failed:  # no room for one more program, above all
            said = str(failed).partition("\n")[0]
            self._say("tokens", f"note: the losses of the report's examples are not known: {said}")
            return
        for example, losses in zip(wanted, found, strict=True):
            rounded = [finite(loss) for loss in losses.round(_DIGITS)]
            one = ShownLosses(step, phase, self._train.fingerprint, example, rounded)
            self._lines.append(records.to_json(one))


def shown(train: Cache) -> list[int]:
    """The first training example, and others evenly from all of them."""
    total = train.report.examples
    return sorted({place * total // _EXAMPLES for place in range(_EXAMPLES)}) if total else [0]


def read(files: Path, train: Cache) -> dict[tuple[str, int], Sequence[float | None]]:
    """What the directory of a run has of these data, by phase and example."""
    lines = [records.from_json(ShownLosses, line) for line in _lines(files).read()]
    return {(o.phase, o.example): o.losses for o in lines if o.data == train.fingerprint}


def _lines(files: Path, writes: bool = True) -> JsonLines:
    return JsonLines(files / run_names.TOKEN_LOSSES, writes)
