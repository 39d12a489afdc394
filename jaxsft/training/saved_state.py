"""What of a state a checkpoint holds, and the state again."""

import dataclasses

from jaxsft.model.adapter import without_starts
from jaxsft.model.state import Params, merged
from jaxsft.training.step import Changing, TrainState


def saved_of(state: TrainState) -> Changing:
    """What a step changes, and also what adapters began with where that isn't zero.

    It could be computed again, but not to the last bit on other hardware.
    """
    params = merged(state.trained, without_starts(state.frozen)[1])
    return dataclasses.replace(state.changing, params=params)


def state_of(saved: Changing, frozen: Params, teacher: Params | None = None) -> TrainState:
    """The state that was saved.

    Args:
        frozen: all that no step changes, what adapters began with too.
    """
    trained, _ = without_starts(saved.params)
    return TrainState.of(dataclasses.replace(saved, params=trained), frozen, teacher)
