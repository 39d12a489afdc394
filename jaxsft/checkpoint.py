"""Checkpoints of a run: Orbax behind a small class that commits atomically and verifies reads."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from jaxsft import places
from jaxsft.errors import CheckpointError, UserError

Tree = Any  # a pytree of arrays


class Damaged(CheckpointError):
    """A checkpoint that can't be read, or not as it was saved."""


class CheckpointStore:
    """Numbered states under one directory, saved in the background.

    A step is there only once its commit file is (`COMMIT_FILE`): what a killed process leaves
    behind is never taken for a checkpoint, on any file system.
    """

    def __init__(self, directory: Path | epath.Path, keep: int):
        context = ocp.Context()
        context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
        self.directory = directory.absolute() if isinstance(directory, Path) else directory
        newest: Any = ocp.training.preservation_policies.LatestN(keep)  # fails its own protocol
        self._checkpointer = ocp.training.Checkpointer(
            str(self.directory),
            context=context,
            preservation_policy=newest,
            cleanup_tmp_directories=True,
        )

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def save(self, step: int, state: Tree, notes: dict[str, Any]) -> None:
        """Starts saving `state`; returns when the arrays may be overwritten.

        Args:
            notes: JSON kept beside the arrays and handed back by `restore`.

        Raises:
            CheckpointError: this save, or the one before that ran in the background, failed.
        """
        if step in self.steps():
            raise CheckpointError(f"{self.directory}/{step}: is there already")
        notes = {**notes, "digests": _named(jax.device_get(digests(state)))}
        try:
            self._checkpointer.wait()
            saved = self._checkpointer.save_async(step, state, force=True, custom_metadata=notes)
        except Exception as error:
            raise _not_saved(f"{self.directory}/{step}", error) from error
        if saved is None:
            raise CheckpointError(f"{self.directory}/{step}: not saved; a later step is there")

    def wait(self) -> None:
        """Returns when everything saved so far is committed.

        Raises:
            CheckpointError: a save failed in the background.
        """
        try:
            self._checkpointer.wait()
        except Exception as error:
            raise _not_saved(str(self.directory), error) from error

    def close(self) -> None:
        self._checkpointer.close()

    def delete(self, step: int) -> None:
        self._checkpointer.delete(step)

    def notes(self, step: int) -> dict[str, Any]:
        """What was handed to `save` beside the arrays."""
        notes = self._checkpointer.metadata(step).custom_metadata
        return notes if isinstance(notes, dict) else {}

    def restore(self, step: int, abstract: Tree) -> Tree:
        """The state saved at `step`, laid out as `abstract` (shapes with shardings) says.

        Raises:
            CheckpointError: another shape, dtype or set of leaves.
            Damaged: unreadable or altered data.
        """
        self._compare(step, _forms(abstract), None)
        state = self._load(step, abstract)
        self._verify(step, _named(state))
        return state

    def restore_part(self, step: int, name: str, abstract: Tree) -> Tree:
        """One field of the state saved at `step`; the others are not read.

        Raises:
            CheckpointError, Damaged: as restore.
        """
        self._compare(step, _forms({name: abstract}), name)
        saved: Any = self._checkpointer.metadata(step).metadata
        tree = {field: jax.tree.map(lambda _: ocp.PLACEHOLDER, saved[field]) for field in saved}
        part = self._load(step, {**tree, name: abstract})[name]
        self._verify(step, _named({name: part}))
        return part

    def _load(self, step: int, abstract: Tree) -> Any:
        try:
            return self._checkpointer.load(step, abstract)
        except Exception as error:
            where = f"{self.directory}/{step}"
            raise Damaged(f"{where}: can't be read: {_cause(error)}") from error

    def _compare(self, step: int, wanted: dict[str, Any], field: str | None) -> None:
        """Refuses a tree of another form, before anything is read."""
        metadata = self._checkpointer.metadata(step).metadata
        if metadata is None:
            return  # unreadable; loading it says why
        saved = _forms(metadata)
        if field is not None:
            saved = {n: form for n, form in saved.items() if n.split(".")[0] == field}
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"{self.directory}/{step}: {name} was saved as {saved.get(name, 'absent')} and"
                    f" is {wanted.get(name, 'absent')} in this run; use another --workdir for"
                    " another model or optimizer"
                )

    def _verify(self, step: int, leaves: dict[str, Any]) -> None:
        wanted: Any = self.notes(step).get("digests", {})
        found = {name: int(digest) for name, digest in jax.device_get(digests(leaves)).items()}
        altered = [name for name, digest in found.items() if wanted.get(name) != digest]
        if altered:
            raise Damaged(
                f"{self.directory}/{step}: {altered[0]} differs from what was saved"
                f" ({len(altered)} of {len(found)} leaves do)"
            )


def _forms(tree: Tree) -> dict[str, Any]:
    """Shape and dtype of each leaf by its dotted path."""
    return {
        name: (tuple(leaf.shape), jnp.dtype(leaf.dtype).name) for name, leaf in _named(tree).items()
    }


@jax.jit
def digests(tree: Tree) -> Tree:
    """A uint32 of every leaf that changes when any one bit of it does; the same on any mesh."""
    return jax.tree.map(_digest, tree)


def _digest(array: jax.Array) -> jax.Array:
    width = jnp.dtype(array.dtype).itemsize * 8
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{width}")).astype(jnp.uint32)
    index = jnp.zeros(array.shape, jnp.uint32)
    for dim, size in enumerate(array.shape):
        index = index * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, dim)
    odd = index * np.uint32(2654435761) * np.uint32(2) + np.uint32(1)
    return jnp.sum(bits * odd, dtype=jnp.uint32)


def _named(tree: Tree) -> dict[str, Any]:
    """Leaves by their dotted path; numpy scalars become ints."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            int(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _not_saved(where: str, error: Exception) -> UserError:
    """A disk that is full or can't be written is what the user can mend."""
    found = places.refusal(error, where)
    return found or CheckpointError(f"{where}: can't save: {_cause(error)}")


def _cause(error: BaseException) -> str:
    """The innermost reason: Orbax wraps a full disk and a missing file alike in its own errors."""
    inner = error.__cause__ or error.__context__
    return _cause(inner) if inner else f"{type(error).__name__}: {error}"
