"""Other meshes, remat policies and micro-batches of a run, compiled and compared."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxsft.config import Config, Mesh
from jaxsft.errors import ConfigError
from jaxsft.mesh_fit import fitting, words
from jaxsft.model import settings
from jaxsft.model.remat import KEPT
from jaxsft.plan import estimate, text
from jaxsft.plan.estimate import Estimate, Rows
from jaxsft.plan.memory import GIB
from jaxsft.plan.prepared import Run
from jaxsft.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class Tried:
    mesh: Mesh
    remat: str
    microbatches: int
    estimate: Estimate


def search(
    config: Config,
    model: settings.Decoder,
    topology: Topology,
    rows: Rows,
    tries: int,
    say: Callable[[str], None],
) -> list[Tried]:
    """What fits, the fastest first.

    For each mesh, the plainest first, the settings that cost least time are tried first, and the
    first that fits is taken: less recomputation, then fewer micro-batches.
    """
    found: list[Tried] = []
    left = tries
    for mesh in fitting(config, model, topology.num_chips, topology.num_slices):
        for remat, microbatches in _settings(config):
            if left == 0:
                return _fastest(found)
            tried = _try(config, model, topology, rows, mesh, remat, microbatches)
            if tried is None:
                continue
            left -= 1
            need = tried.estimate.memory.needed_bytes / GIB
            fits = tried.estimate.memory.fits
            say(
                f"{words(mesh)}; remat={remat}, microbatches={microbatches}: {need:.1f} GiB,"
                f" {'fits' if fits else 'too much'}"
            )
            if fits:
                found.append(tried)
                break
    return _fastest(found)


def _settings(config: Config) -> Iterator[tuple[str, int]]:
    counts = [n for n in range(1, config.train.batch_size + 1) if config.train.batch_size % n == 0]
    for microbatches in counts:
        for remat in KEPT:  # the faster first
            yield remat, microbatches


def _try(
    config: Config,
    model: settings.Decoder,
    topology: Topology,
    rows: Rows,
    mesh: Mesh,
    remat: Any,
    microbatches: int,
) -> Tried | None:
    changed = dataclasses.replace(
        config,
        mesh=mesh,
        model=dataclasses.replace(config.model, remat=remat),
        train=dataclasses.replace(config.train, microbatches=microbatches),
    )
    try:
        made = estimate.make(changed, model, topology, rows)
    except ConfigError:  # micro-batches that this mesh does not split
        return None
    return Tried(mesh, remat, microbatches, made)


def _fastest(found: list[Tried]) -> list[Tried]:
    def seconds(one: Tried) -> float:
        known = one.estimate.seconds
        return one.estimate.matmul_flops if known is None else known.estimate

    return sorted(found, key=seconds)


def as_json(one: Tried, topology: Topology, run: Run) -> dict[str, Any]:
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
