"""Old checkpoints are deleted when a newer one has been read back, and by nothing else.

It happens in the background, file by file, without a word between processes that a loop could wait
for: each process reads its share of the leaves and leaves a file that says so.
"""

import dataclasses
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorstore  # Orbax's own way to the disk
from etils import epath

from jaxsft.devices import digest
from jaxsft.rundir.checkpoint import files

_READ_BACK = "jaxsft_read_back_{}_of_{}"  # written by each process
_POLL_SECONDS = 1.0
_MAX_POLLS = 600  # for the other processes; what is not deleted now is deleted after the next save
_INDEX_BYTES = 2**26
Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Kept:
    """Which steps stay for good, or while there are no newer ones."""

    newest: int
    every_steps: int | None = None  # and the multiples of this
    best: int | None = None  # and this one

    def old(self, steps: Sequence[int]) -> list[int]:
        """Those of `steps`, oldest first, that go."""
        return [one for one in steps[: -self.newest] if not self._for_good(one)]

    def _for_good(self, step: int) -> bool:
        return step == self.best or (self.every_steps is not None and not step % self.every_steps)


def settle(
    directory: epath.Path,
    step: int,
    keep: Kept,
    digests: dict[str, int],
    ignored: set[int],
    process: tuple[int, int],
    report: Report,
    over: threading.Event,
) -> None:
    """Keeps the sizes of a committed step's files; deletes what it and the steps before it replace.

    Later steps, saved meanwhile or in the making, are not looked at: nobody has read them back.

    Args:
        digests: of the leaves as they were in memory.
        ignored: steps that can't be read: neither counted nor deleted.
        process: number of this one, and of all.
        report: is told what keeps older steps from being deleted.
        over: once set, the program ends: nothing more is read or deleted.
    """
    number, count = process
    path = directory / str(step)
    if number == 0:
        files.write_sizes(path)
    committed = files.committed_steps(directory)
    old = keep.old([one for one in committed if one <= step and one not in ignored])
    unfinished = files.leftovers(directory, before=step)
    if not old and not unfinished:
        return
    if old and not _read_back(path, digests, process, report, over):
        return
    if number == 0 and not over.is_set():
        for one in (*(directory / str(one) for one in old), *unfinished):
            files.remove(one)


def _read_back(
    path: epath.Path,
    digests: dict[str, int],
    process: tuple[int, int],
    report: Report,
    over: threading.Event,
) -> bool:
    """Whether all processes found in their share of the step's files what was in memory."""
    number, count = process
    mine = sorted(digests)[number::count]
    # All leaves lie in one store, whose index is read once this way, not once a leaf.
    index = tensorstore.Context({"cache_pool": {"total_bytes_limit": _INDEX_BYTES}})
    altered = [name for name in mine if _digest_on_disk(path, name, index, over) != digests[name]]
    if over.is_set():
        return False
    if altered:
        report(
            f"warning: {path}: {altered[0]} was saved and reads back differently: older"
            " checkpoints are kept; look at the disk"
        )
        return False
    (path / _READ_BACK.format(number, count)).write_text("")
    for _ in range(_MAX_POLLS):
        if all((path / _READ_BACK.format(one, count)).exists() for one in range(count)):
            return True
        if over.wait(_POLL_SECONDS):
            return False
    report(f"warning: {path}: not all processes have read it back; older checkpoints are kept")
    return False


def _digest_on_disk(
    path: epath.Path, name: str, index: "tensorstore.Context", over: threading.Event
) -> int:
    """The digest of a leaf, read chunk by chunk: a device's part of it at a time in memory."""
    array = _open(path, name, index)
    total = 0
    chunk: Any = array.chunk_layout.read_chunk.shape or array.shape  # a scalar has none
    for block in itertools.takewhile(lambda _: not over.is_set(), _blocks(array.shape, chunk)):
        part = np.asarray(array[block].read().result())
        total += digest.of_part(part, [along.start for along in block], array.shape)
    return total % 2**32


def _open(path: epath.Path, name: str, index: "tensorstore.Context") -> "tensorstore.TensorStore":
    about = json.loads((path / "state" / "_METADATA").read_text())
    base = str(path / "state")
    spec = {
        "driver": "zarr3" if about["use_zarr3"] else "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": f"{base if '://' in base else f'file://{base}'}/",
            "path": f"{name}/",
        },
    }
    return tensorstore.open(spec, read=True, context=index).result()


def _blocks(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The blocks of a grid over an array; one without slices for a scalar."""
    return itertools.product(
        *(
            [slice(start, min(start + step, size)) for start in range(0, size, step)]
            for size, step in zip(shape, chunk, strict=True)
        )
    )
