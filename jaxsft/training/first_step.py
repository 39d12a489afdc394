"""The first step of a start, whose end ends the start."""

from collections.abc import Callable

import jax

from jaxsft.terminal.start_clock import StartClock
from jaxsft.training.batch import Batch
from jaxsft.training.step import StepMetrics, TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


class FirstStep:
    """A training step, the first of which is waited for, and then how long the start took is said.

    Args:
        say: says one line: what it is about, then what there is to know.
    """

    def __init__(self, step: Step, clock: StartClock, say: Callable[[str, str], object]):
        self._step, self._clock, self._say = step, clock, say
        self._told = False

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        state, metrics = self._step(state, batch)
        if not self._told:
            self._told = True
            number = int(jax.device_get(state.step))  # waits for it
            self._clock.ended("first step")
            self._say("start", f"step {number} ended {self._clock.words()}")
        return state, metrics
