"""Other meshes, remat policies and micro-batches of a run, compiled and compared."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxsft.config import Config, Mesh
from jaxsft.model import settings
from jaxsft.plan import estimate, memory, text
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.estimate import Estimate
from jaxsft.plan.measured_data import PlannedRun
from jaxsft.plan.memory import GIB
from jaxsft.plan.sizing import REMATS, Guess, guesser
from jaxsft.plan.topology import Topology
from jaxsft.training.mesh_fit import fitting, splitting, words
from jaxsft.training.teacher import Teacher
from jaxsft.training.too_large import TooLarge


@dataclasses.dataclass(frozen=True)
class Candidate:
    config: Config  # with its mesh, remat and micro-batches
    guess: Guess

    @property
    def words(self) -> str:
        model, train = self.config.model, self.config.train
        return f"{words(self.config.mesh)}; remat={model.remat}, microbatches={train.microbatches}"

    def frugal_as(self, other: "Candidate") -> bool:
        """On the same mesh, with no less recomputation and no fewer micro-batches.

        It needs no more memory, then, and takes no less time.
        """
        return (
            self.config.mesh == other.config.mesh
            and REMATS.index(self.config.model.remat) >= REMATS.index(other.config.model.remat)
            and self.config.train.microbatches >= other.config.train.microbatches
        )


@dataclasses.dataclass(frozen=True)
class Tried:
    mesh: Mesh
    remat: str
    microbatches: int
    estimate: Estimate


def search(
    config: Config,
    model: settings.DecoderSettings,
    topology: Topology,
    rows: BatchLoad,
    tries: int,
    minutes: float,
    say: Callable[[str], None],
    teacher: Teacher | None = None,
) -> list[Tried]:
    """What fits, the fastest first.

    The fastest by a guess is compiled first. Whether it fits decides about others on its mesh too:
    what saves more memory is slower and not needed, or what saves less can't fit either.
    """
    limit = memory.limit_of(topology.chip)
    every = list(_candidates(config, model, topology, rows, teacher))
    left = [one for one in every if limit is None or _least(one.guess) <= limit]
    started, count, found = time.monotonic(), 0, []
    say(f"{len(every)} combinations; {len(every) - len(left)} of them can't fit by sizes alone")
    kept = dict.fromkeys(REMATS, 1.0)  # what was needed, over the least that is kept
    while left and count < tries and time.monotonic() - started < 60 * minutes:
        best = min(left, key=lambda one: (_expected(one, kept) > (limit or 0), one.guess.seconds))
        count += 1
        made = _compiled(best, model, topology, rows, teacher)
        fits = made is not None and made.memory.fits
        say(f"{count}/{tries} {best.words}: {_outcome(made)}")
        # A step that the compiler refuses may have been twice too much: no more is known of it.
        needed = 2 * (limit or 0) if made is None else made.memory.needed_bytes
        measured = (needed - best.guess.state_bytes) / best.guess.kept_bytes
        kept[best.config.model.remat] = measured
        if made is not None and fits:
            model_, train = best.config.model, best.config.train
            found.append(Tried(best.config.mesh, model_.remat, train.microbatches, made))
        left = [one for one in left if not (one.frugal_as(best) if fits else best.frugal_as(one))]
    say(_rest(left, count, tries, minutes))
    return _fastest(found)


def _candidates(
    config: Config,
    model: settings.DecoderSettings,
    topology: Topology,
    rows: BatchLoad,
    teacher: Teacher | None,
) -> Iterator[Candidate]:
    batch = config.train.batch_size
    guesses = guesser(config, model, topology, rows, teacher)
    # One that names nothing to keep is slower and larger than one that does: only where asked for.
    remats = REMATS if config.model.remat == REMATS[0] else REMATS[1:]
    for microbatches in (n for n in range(1, batch + 1) if batch % n == 0):
        train = dataclasses.replace(config.train, microbatches=microbatches)
        parted = dataclasses.replace(config, train=train)
        meshes = fitting(parted, model, topology.num_devices, topology.num_slices)
        for mesh in meshes if teacher is None else splitting(meshes, teacher.settings):
            for remat in remats:
                changed: Any = {"mesh": mesh, "model": _with_remat(config, remat)}
                one = dataclasses.replace(parted, **changed)
                yield Candidate(one, guesses.guess(one))


def _with_remat(config: Config, remat: Any) -> Any:
    return dataclasses.replace(config.model, remat=remat)


def _least(guess: Guess) -> float:
    return guess.state_bytes + guess.kept_bytes


def _expected(one: Candidate, kept: dict[str, float]) -> float:
    """Bytes, by what others with the same remat needed."""
    return one.guess.state_bytes + kept[one.config.model.remat] * one.guess.kept_bytes


def _compiled(
    one: Candidate,
    model: settings.DecoderSettings,
    topology: Topology,
    rows: BatchLoad,
    teacher: Teacher | None,
) -> Estimate | None:
    """None where the compiler itself finds that it can't fit."""
    try:
        return estimate.make(one.config, model, topology, rows, teacher=teacher)
    except TooLarge:
        return None


def _outcome(made: Estimate | None) -> str:
    if made is None:
        return "too much for the compiler"
    need = f"{made.memory.needed_bytes / GIB:.1f} GiB"
    if not made.memory.fits:
        return f"{need}, too much"
    seconds = "" if made.seconds is None else f", {made.seconds.estimate:.3f} s a step"
    return f"{need}, fits{seconds} (compiled in {made.compile_seconds:.0f} s)"


def _rest(left: list[Candidate], count: int, tries: int, minutes: float) -> str:
    if not left:
        return f"{count} compiled; the others are slower than one on the same mesh that fits"
    why = f"--tries={tries}" if count == tries else f"--minutes={minutes:g}"
    best = min(left, key=lambda one: one.guess.seconds)
    return f"{count} compiled; {why} left out {len(left)}, such as {best.words}"


def _fastest(found: list[Tried]) -> list[Tried]:
    def seconds(one: Tried) -> float:
        known = one.estimate.seconds
        return one.estimate.matmul_flops if known is None else known.estimate

    return sorted(found, key=seconds)


def as_json(one: Tried, topology: Topology, run: PlannedRun) -> dict[str, Any]:
    chosen = {"remat": one.remat, "microbatches": one.microbatches}
    return chosen | text.as_json(one.estimate, topology, run)


def show(tried: list[Tried], terminal: Console) -> None:
    if not tried:
        terminal.print("nothing that was tried fits; --tries=N tries more, or take more chips")
        return
    table = Table("config.mesh", "remat", "microbatches", "GiB", "s a step", "MFU", "bound by")
    for one in tried:
        made, seconds = one.estimate, one.estimate.seconds
        time = ("", "", "")
        if seconds is not None:
            time = (f"{seconds.estimate:.3f}", f"{made.mfu:.0%}", seconds.bound)
        need = f"{made.memory.needed_bytes / GIB:.1f}"
        table.add_row(words(one.mesh), one.remat, str(one.microbatches), need, *time)
    terminal.print(table)
