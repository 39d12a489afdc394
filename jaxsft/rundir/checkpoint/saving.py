"""A save in the background: what is never saved, how far it is, and why it failed."""

import threading
from typing import Any, Literal

import jax
from etils import epath

from jaxsft.devices.digest import Tree, digests_and_finite, named
from jaxsft.errors import BAD_MODEL, CheckpointError, DivergedError, known_to_all
from jaxsft.files import places
from jaxsft.rundir.checkpoint.failure import cause_of


class NotSaved(CheckpointError):
    """A save that failed, with the exit code of its cause."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


Progress = Literal["saving", "done"] | NotSaved


class Saving:
    """A save in the background."""

    def __init__(self, path: epath.Path, response: Any):
        self.path, self.step = path, int(path.name)
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._response = response  # Orbax's

    def follow(self) -> bool:
        """Waits for its end; whether it is committed."""
        try:
            self._response.result()
        except Exception as error:
            self.error = error
        self.ended.set()
        return self.error is None

    def progress(self) -> Progress:
        if not self.ended.is_set():
            return "saving"
        return "done" if self.error is None else not_saved(self.path, self.error)


def not_saved(path: epath.Path, error: Exception) -> NotSaved:
    """A disk that is full or can't be written is what the user can mend."""
    found = places.user_error(error, str(path))
    code = BAD_MODEL if found is None else found.exit_code
    said = f"can't save: {cause_of(error)}" if found is None else str(found)
    return NotSaved(said if str(path) in said else f"{path}: {said}", code)


def digests_of_finite(state: Tree, step: int) -> dict[str, int]:
    """The digests of a state, by leaf.

    Raises:
        DivergedError: naming a leaf that is not finite, which would be all that a run goes on from.
    """
    kept, finite = (named(values) for values in jax.device_get(digests_and_finite(state)))
    bad = [name for name, good in finite.items() if not good]
    if bad:
        more = f" (nor are {len(bad) - 1} other leaves)" if len(bad) > 1 else ""
        raise known_to_all(
            DivergedError(
                f"{bad[0]} is not finite after step {step}{more}: not saved; the newest checkpoint"
                " is the last good state. A lower optim.peak_lr or a smaller optim.max_grad_norm"
                " may keep it finite"
            )
        )
    return kept
