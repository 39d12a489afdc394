"""When training no longer trains: steps that the guard of the step skipped, one after the other."""

import jax

from jaxsft.errors import DivergedError, known_to_all


class Divergence:
    """Follows the count of skipped steps, one step late, so that no step waits for it.

    Args:
        max_skipped_steps: in a row, at which a run has diverged.
        skipped: count of the state that the run starts from.
    """

    def __init__(self, max_skipped_steps: int, skipped: int):
        self._max = max_skipped_steps
        self._count = skipped
        self._in_a_row = 0
        self._seen = 0  # steps done with the newest one that was looked at
        self._waiting: list[tuple[int, jax.Array]] = []
        self._save_is_due = False

    def add(self, done: int, skipped_steps: jax.Array) -> bool:
        """Adds the count after step `done`; returns whether the steps before show divergence."""
        self._look()
        self._waiting.append((done, skipped_steps))
        return self._in_a_row >= self._max

    def newest_was_skipped(self) -> bool:
        """Of all steps added; waits for the newest."""
        self._look()
        return self._in_a_row > 0

    def saves(self, due: bool) -> bool:
        """Whether to save after the newest step: now that it is due, or was and had to be put off.

        After a skipped step nothing is saved: what it would replace may be the last good state.
        """
        self._save_is_due |= due
        if not self._save_is_due or self.newest_was_skipped():
            return False
        self._save_is_due = False
        return True

    def error(self) -> DivergedError:
        """What to tell of it; the same on every process."""
        self._look()
        first, last = self._seen - self._in_a_row + 1, self._seen
        which = f"steps {first} to {last} were" if first < last else f"step {last} was"
        said = (
            f"training diverged: {which} skipped: loss or gradients were not finite, or no token of"
            f" the batch had weight; {self._count:,} of {self._seen:,} steps in all. The parameters"
            " are those of before; nothing was saved or exported since. The same start would"
            " diverge again: try a lower config.optim.peak_lr or more warmup_steps, another"
            " config.model.dtype, and look for odd rows and weights with inspect_data"
            f" (config.optim.max_skipped_steps={self._max})"
        )
        return known_to_all(DivergedError(said))

    def _look(self) -> None:
        for done, array in self._waiting:
            count = int(array)
            self._in_a_row = self._in_a_row + 1 if count > self._count else 0
            self._count, self._seen = count, done
        self._waiting.clear()
