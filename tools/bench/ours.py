"""Our training step, compiled, loaded and timed as the training loop runs it."""

import dataclasses
import time

import jax

from bench import step_batches
from bench.step_batches import BenchBatches
from jaxsft.config import Config
from jaxsft.convert import pretrained
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.plan import memory, relief, remat_choice
from jaxsft.training import first_state, mesh_program, step
from jaxsft.training.over_mesh import TrainStep
from jaxsft.training.step import TrainState
from jaxsft.training.too_large import TooLarge


@dataclasses.dataclass(frozen=True)
class Step:
    seconds: float  # from the end of the step before, or from the start of `run`
    wait_seconds: float  # for the loader, within `seconds`
    counts: BatchCounts
    supervised_tokens: float
    loss: float


class Ours:
    """A trainer without evaluation, checkpoints and logs.

    Attributes:
        compile_seconds: with the cache of compiled programs, if it had this one.
    """

    def __init__(self, config: Config, base: Pretrained, num_segments: int | None):
        """Compiles and loads.

        Args:
            num_segments: in a row of random tokens; None: the rows of config.data.

        Raises:
            TooLarge: the devices can't hold the step.
        """
        if num_segments is not None:  # losses by source would need rows that say theirs
            one = dataclasses.replace(config.data, train=config.data.train[:1])
            config = dataclasses.replace(config, data=one)
        mesh = mesh_program.checked_mesh(config, base.settings)
        if num_segments is None:
            self.rows: BenchBatches = step_batches.of_config(config, base, mesh)
        else:
            self.rows = step_batches.synthetic(config, base.settings, mesh, num_segments)
        stored = pretrained.stored_dtypes(base)
        built = mesh_program.make_program(
            config, base.settings, 10**6, mesh, self.rows.max_segments, stored
        )
        chosen = remat_choice.choose(built, config, memory.limit_here(), _quiet)
        if chosen.error is not None:  # nothing is tried: the device is here to be measured
            raise TooLarge(f"{chosen.error} {relief.of_step(config, dict(mesh.shape), None)}")
        self.compiled, self.memory = chosen.measured
        self.program, self.remat_why = chosen.program, chosen.why
        self.compile_seconds = chosen.compile_seconds
        # The dead rows of a tokenizer stay as they are.
        params = first_state.run_params(config, base, self.program)
        self._state = first_state.of_params(self.program, params)
        self._train_step = TrainStep(self.compiled)
        self._batches = self.rows.stream()

    @property
    def state(self) -> TrainState:
        """After the newest step."""
        return self._state

    def run(self, num_steps: int) -> list[Step]:
        """Takes steps, each dispatched before the one before is waited for; ends when all are."""
        with jax.set_mesh(self.program.mesh):
            done: list[Step] = []
            pending = None
            since = time.perf_counter()
            for _ in range(num_steps):
                waiting = time.perf_counter()
                batch, counts = next(self._batches)
                waited = time.perf_counter() - waiting
                self._state, metrics = self._train_step(self._state, batch)
                if pending is not None:
                    done.append(_finished(*pending, since))
                    since = time.perf_counter()
                pending = waited, counts, metrics
            if pending is not None:
                done.append(_finished(*pending, since))
            return done


def _quiet(line: str) -> None:
    """What takes long is part of the measurement."""


def _finished(waited: float, counts: BatchCounts, metrics: step.StepMetrics, since: float) -> Step:
    sums = jax.device_get(metrics.sums)
    return Step(
        seconds=time.perf_counter() - since,
        wait_seconds=waited,
        counts=counts,
        supervised_tokens=float(sums.supervised_tokens),
        loss=float(sums.nll / sums.weight),
    )
