"""What a run does beside its steps, for the time that it still takes."""

from jaxsft.config import Config
from jaxsft.data.pack.epochs import Epochs
from jaxsft.devices import progress
from jaxsft.terminal.eta import Schedule

_EVALUATION, _LAST_EVALUATION, _SAVE = "evaluation", "last evaluation", "save"


def schedule_of(config: Config, epochs: Epochs, total: int) -> Schedule:
    """Evaluations and saves by the steps; at the end both, and the export, which like a save writes
    every weight once.

    Saves by the clock are not among them. An evaluation takes as long as that before the first step
    did, until one was seen.
    """
    evaluate, save = config.eval, config.checkpoint
    spacings = {
        _EVALUATION: (evaluate.every_steps, evaluate.times_per_epoch),
        _SAVE: (save.save_every_steps, save.save_times_per_epoch),
    }

    def due(step: int) -> list[str]:
        return [name for name, spacing in spacings.items() if epochs.is_due(*spacing, step)]

    def left(step: int) -> dict[str, float]:
        counts = {}
        for name, (every, times) in spacings.items():
            count = 0.0
            if every is not None:
                count = (total - 1) // every - step // every
            elif times is not None:
                count = (epochs.epochs_at(total) - epochs.epochs_at(step)) * times - 1
            counts[name] = max(0.0, count)
        return counts

    return Schedule(
        due,
        left,
        (_LAST_EVALUATION, _SAVE, *([_SAVE] if save.export else ())),
        _seconds_before(config),
    )


def _seconds_before(config: Config) -> dict[str, float]:
    """What was measured before the first step of this start; nothing where that went on."""
    spent, asks = progress.spent(), config.eval
    losses, answers = spent.get("evaluating", 0.0), spent.get("answering", 0.0)
    answers /= 1 + (asks.instruction is not None) + bool(asks.shots)  # asked in so many ways
    on_the_way = losses + (answers if asks.answer_every_steps is not None else 0.0)
    return {_EVALUATION: on_the_way, _LAST_EVALUATION: losses + answers}
