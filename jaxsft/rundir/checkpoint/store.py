"""Numbered states under one directory: Orbax writes and reads, what is read is verified."""

import contextlib
import dataclasses
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from jaxsft.devices.digest import Tree, digests, named
from jaxsft.devices.progress import during, while_growing
from jaxsft.errors import CheckpointError
from jaxsft.rundir.checkpoint import background, files, retention
from jaxsft.rundir.checkpoint.failure import SAID, Failure, cause_of, of_error
from jaxsft.rundir.checkpoint.notes import (
    NOTES_FILE,
    AlteredNotes,
    NewerFormat,
    Notes,
    notes_json,
    parse_notes,
)
from jaxsft.rundir.checkpoint.saving import Progress, Saving, digests_of_finite, not_saved

Form = tuple[tuple[int, ...], str]  # shape and dtype of a leaf
# Between two tries to read: what passes by itself, on a disk of the network, takes seconds.
RETRY_SECONDS = (0.5, 2.0)


class Damaged(CheckpointError):
    """A checkpoint that can't be read, or not as it was saved."""

    def __init__(self, where: str, failure: Failure):
        super().__init__(f"{where}: {SAID[failure.kind]}: {failure.cause}")
        self.failure = failure


class CheckpointStore:
    """The checkpoints of a run, saved in the background.

    A step is there only once its commit file is: what a killed process leaves behind is never taken
    for a checkpoint, on any file system.

    Args:
        keep: newest steps that are kept, beside the best one.
        report: is told of trouble in the background that stops nothing.
        keep_every_steps: multiples of this are kept too.
    """

    def __init__(
        self,
        directory: Path | epath.Path,
        keep: int,
        report: Callable[[str], None] = lambda line: None,
        keep_every_steps: int | None = None,
    ):
        self.directory = files.checkpoint_directory(directory)
        self._keep = retention.Kept(keep, keep_every_steps)
        self._report = report
        self._saving: Saving | None = None  # the newest save, until its end is known
        self._settling: threading.Thread | None = None
        self._newest: int | None = None  # step that was saved; None: not known yet
        self._unread: set[int] = set()  # steps that could not be read, whose numbers are in the way

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return files.committed_steps(self.directory)

    def unfinished(self) -> list[epath.Path]:
        """What saves left that were never completed; none of this start has begun."""
        return files.leftovers(self.directory, before=sys.maxsize)

    @during("saving")
    def save(self, step: int, state: Tree, notes: Notes) -> None:
        """Starts saving `state`; returns when the arrays may be overwritten.

        Args:
            notes: kept beside the arrays, with their digests, and handed back by `notes`; the step
                of notes.best is kept whatever `keep` says.

        Raises:
            NotSaved: this save, or the one before that ran in the background, failed.
            DivergedError: the state is not finite.
            CheckpointError: the step is there already.
        """
        self._wait_for_commit()
        path = self.directory / str(step)
        self._free(path)
        kept = digests_of_finite(state, step)
        try:
            with _context():
                saved = notes_json(dataclasses.replace(notes, digests=kept))
                response = ocp.save_async(path, state, custom_metadata=saved)
        except Exception as error:
            raise not_saved(path, error) from error
        best = None if notes.best is None else notes.best.step
        keep = dataclasses.replace(self._keep, best=best)
        self._saving = saving = Saving(path, response)
        before, over = self._settling, threading.Event()
        self._settling = background.start(
            lambda: self._settle(saving, kept, keep, before, over), over
        )

    def _free(self, path: epath.Path) -> None:
        """Makes the step's number free: of what no save completed, and of what can't be read.

        Raises:
            CheckpointError: it is a good checkpoint's, or there is a newer one.
        """
        step, committed = int(path.name), files.is_committed(path)
        if committed and step not in self._unread:
            raise CheckpointError(f"{path}: is there already")
        if self._newest is None:
            self._newest = max(set(self.steps()) - self._unread, default=-1)
        if step < self._newest:
            raise CheckpointError(f"{path}: is older than {self._newest}, which is there already")
        self._newest = step
        self._unread.discard(step)  # the one that comes now is read back and counts
        if jax.process_index() == 0 and path.exists():
            if committed:
                files.set_aside(path)
            else:
                files.remove(path)

    def _settle(
        self,
        saving: Saving,
        kept: dict[str, int],
        keep: retention.Kept,
        before: threading.Thread | None,
        over: threading.Event,
    ) -> None:
        if not saving.follow():
            return  # the main thread asks, at the next step
        if before is not None:
            before.join()
        process = jax.process_index(), jax.process_count()
        try:
            retention.settle(
                self.directory, saving.step, keep, kept, self._unread, process, self._report, over
            )
        except Exception as error:  # nothing is lost: older steps stay, and the next save tries
            self._report(f"warning: older checkpoints could not be deleted: {cause_of(error)}")

    def outcome(self) -> Progress:
        """What has become of the newest save here; it is forgotten once it is known to all."""
        if self._saving is None:
            return "done"
        return self._saving.progress()

    def let_end(self, seconds: float) -> None:
        """Waits for the newest save, well or not, but no longer than this."""
        if self._saving is not None:
            self._saving.ended.wait(seconds)

    def give_up(self) -> None:
        """Forgets the newest save, which failed here or on another process: this one may wait for
        that one, in Orbax, for minutes."""
        self._saving = self._settling = None

    def _wait_for_commit(self) -> None:
        saving, self._saving = self._saving, None
        if saving is None:
            return
        saving.ended.wait()
        if saving.error is not None:
            raise not_saved(saving.path, saving.error) from saving.error

    @during("saving")
    def wait(self, settled: bool = True) -> None:
        """Returns when everything saved so far is committed.

        Args:
            settled: and older steps are deleted.

        Raises:
            NotSaved: a save failed in the background.
        """
        self._wait_for_commit()
        if settled and self._settling is not None:
            self._settling.join()

    def notes(self, step: int) -> Notes:
        """What was handed to `save` beside the arrays, with the arrays' digests.

        Raises:
            Damaged: they can't be read.
            CheckpointError: a later version of this program saved them.
        """
        path = self.directory / str(step)
        failure = Failure("unreadable", "")
        for wait in (*RETRY_SECONDS, None):
            try:
                return parse_notes((path / NOTES_FILE).read_text())
            except NewerFormat as error:
                raise CheckpointError(f"{path}: {error}") from None
            except AlteredNotes as error:
                failure = Failure("altered", f"{NOTES_FILE} {error}")
            except Exception as error:  # stores of objects have kinds of their own
                failure = of_error(error)
            if wait is not None:
                time.sleep(wait)
        raise Damaged(str(path), files.examine(path) or failure)

    def restore(self, step: int, abstract: Tree) -> Tree:
        """The state saved at `step`, laid out as `abstract` (shapes with shardings) says.

        Raises:
            CheckpointError: another shape, dtype or set of leaves.
            Damaged: it can't be read as it was saved.
        """
        return self._read_verified(step, abstract, None)

    def restore_part(self, step: int, name: str, abstract: Tree) -> Tree:
        """One field of the state saved at `step`, by its dotted path; the others are not read.

        Raises:
            CheckpointError, Damaged: as restore.
        """
        return self._read_verified(step, abstract, name)

    def _read_verified(self, step: int, abstract: Tree, field: str | None) -> Tree:
        digests = self.notes(step).digests
        state = self.read(step, abstract, field)
        failure = self.verify(state if field is None else nested(field, state), digests)
        if failure is not None:
            raise Damaged(str(self.directory / str(step)), failure)
        return state

    @during("reading a checkpoint")
    def read(self, step: int, abstract: Tree, field: str | None = None) -> Tree:
        """This process's part of a state, not yet verified; no other process is waited for.

        Args:
            field: of the state, which alone is read; None: all of it.

        Raises:
            CheckpointError: another shape, dtype or set of leaves.
            Damaged: after several tries.
        """
        path, failure = self.directory / str(step), Failure("unreadable", "")
        # What describes the arrays goes through parsers that can die of it, not only refuse it.
        found = files.examine(path, but=files.ARRAYS)
        if found is not None and found.kind == "altered":
            raise Damaged(str(path), found)
        for wait in (*RETRY_SECONDS, None):
            try:
                with _context(alone=True), _quiet(), while_growing(files.bytes_read):
                    return self._load(path, abstract, field)
            except CheckpointError:
                raise
            except Exception as error:
                failure = of_error(error)
            if failure.kind == "memory":
                break
            if wait is not None:
                time.sleep(wait)
        raise Damaged(str(path), self._judged(path, failure))

    def _judged(self, path: epath.Path, failure: Failure) -> Failure:
        """The failure as the step's files show it; what nothing proves is no proof of damage."""
        if failure.ends_the_run:
            return failure
        if (by_files := files.examine(path)) is not None:
            return by_files
        proven = failure.kind == "altered" and files.is_known(path)
        return failure if proven else Failure("unreadable", failure.cause)

    def _load(self, path: epath.Path, abstract: Tree, field: str | None) -> Any:
        saved: Any = ocp.metadata(path).metadata
        if saved is not None:  # else unreadable; loading it says why
            wanted = abstract if field is None else nested(field, abstract)
            _compare(path, _forms(saved), _forms(wanted), field)
        if field is None:
            return ocp.load(path, abstract)
        if saved is None:
            return ocp.load(path, nested(field, abstract))
        loaded: Any = ocp.load(path, _among_others(saved, field.split("."), abstract))
        for name in field.split("."):
            loaded = loaded[name]
        return loaded

    @staticmethod
    def verify(state: Tree, wanted: Mapping[str, int]) -> Failure | None:
        """How `state` differs from what was saved; the same answer on every process.

        Args:
            wanted: the digests of its notes.
        """
        found = {n: int(digest) for n, digest in jax.device_get(digests(named(state))).items()}
        altered = [name for name, digest in found.items() if wanted.get(name) != digest]
        if not altered:
            return None
        differ = f"({len(altered)} of {len(found)} leaves do)"
        return Failure("altered", f"{altered[0]} differs from what was saved {differ}")

    def leave(self, step: int) -> None:
        """Goes on without a step that can't be read, where it is, until its number is needed."""
        self._unread.add(step)

    def set_aside(self, step: int) -> str:
        """Renames a step that was altered; returns its new path."""
        return str(files.set_aside(self.directory / str(step)))


def nested(field: str, tree: Tree) -> Tree:
    """The tree below the names of a dotted path."""
    for name in reversed(field.split(".")):
        tree = {name: tree}
    return tree


def _among_others(saved: Tree, path: list[str], wanted: Tree) -> Tree:
    """What was saved, as placeholders that are not read, but for what is wanted at a path."""
    if not path:
        return wanted
    return {
        name: _among_others(saved[name], path[1:], wanted)
        if name == path[0]
        else jax.tree.map(lambda _: ocp.PLACEHOLDER, saved[name])
        for name in saved
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what Orbax and asyncio log of a read that fails: our own error says it, once."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    except BaseException:
        gc.collect()  # a read that nobody awaited is logged when it is collected
        raise
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _context(alone: bool = False) -> ocp.Context:
    """Orbax's settings.

    Args:
        alone: no process waits for another, which may have no such work to do.
    """
    context = ocp.Context()
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    if alone:
        number = jax.process_index()
        context.multiprocessing.active_processes = {number}
        context.multiprocessing.primary_host = number
        context.multiprocessing.barrier_sync_key_prefix = f"process-{number}"
    return context


def _compare(
    path: epath.Path, saved: dict[str, Form], wanted: dict[str, Form], field: str | None
) -> None:
    """Refuses a tree of another form, before anything is read."""
    if field is not None:
        saved = {n: form for n, form in saved.items() if f"{n}.".startswith(f"{field}.")}
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{path}: {name} was saved as {saved.get(name, 'absent')} and"
                f" is {wanted.get(name, 'absent')} in this run; use another --workdir for"
                " another model or optimizer"
            )


def _forms(tree: Tree) -> dict[str, Form]:
    """Shape and dtype of each leaf by its dotted path."""
    return {
        name: (tuple(leaf.shape), jnp.dtype(leaf.dtype).name) for name, leaf in named(tree).items()
    }
