"""How a run's step runs the layers: the fastest way that fits, found once and remembered."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsft.config import Config
from jaxsft.devices import distributed
from jaxsft.files import whole_files
from jaxsft.files.caches import cache_root
from jaxsft.plan import memory
from jaxsft.plan.memory import GIB, Memory
from jaxsft.training import mesh_program
from jaxsft.training.mesh_program import MeshProgram
from jaxsft.training.too_large import TooLarge

Say = Callable[[str], None]
Refused = dict[str, str]  # ways that don't fit, and what each needs, in words
# What makes the program of a lowered text, beside the flags in the environment.
_COMPILERS = ("jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The program whose step fits; where none does, the one that needs the least memory."""

    program: MeshProgram  # says its way
    compiled: Any | None  # its step; None: the compiler itself refused it
    memory: Memory | None  # that it needs
    error: TooLarge | None  # why this process can't run it
    why: str
    compile_seconds: float  # of that step alone

    @property
    def line(self) -> str:
        return f"{self.program.way.words} ({self.why})"

    @property
    def measured(self) -> tuple[Any, Memory]:
        """The compiled step and what it needs, be it too much.

        Raises:
            TooLarge: the compiler itself refused it.
        """
        if self.compiled is None or self.memory is None:
            assert self.error is not None
            raise self.error
        return self.compiled, self.memory


@dataclasses.dataclass(frozen=True)
class _Attempt:
    compiled: Any | None
    memory: Memory | None
    error: TooLarge | None
    seconds: float

    @property
    def words(self) -> str:
        if self.memory is None or self.memory.limit_bytes is None:
            return "is too large for the compiler"
        needed, limit = self.memory.needed_bytes / GIB, self.memory.limit_bytes / GIB
        return f"needs {needed:.1f} GiB of {limit:.1f}"


def choose(built: MeshProgram, config: Config, limit_bytes: int | None, say: Say) -> Chosen:
    """The program with the way that the config names or, where it doesn't, the fastest that fits.

    All processes of a run take part, and get the same way: it fits on each of them.

    Args:
        built: with the first of the ways.
        limit_bytes: that a program may use of a device; None: not known, and all that the compiler
            takes fits.
    """
    ways = mesh_program.ways(config, built.settings, built.mesh)
    path, refused = Path(), Refused()
    if len(ways) > 1:
        path = distributed.together(lambda: _file(built, config, limit_bytes))
        refused = distributed.of_first(lambda: _read(path, [way.words for way in ways]))
    while True:
        way = ways[len(refused)]
        program = mesh_program.with_way(built, config, way)
        work = functools.partial(_attempt, program, config, limit_bytes, say)
        mine = distributed.together(work)
        words = _refusal_of_any(mine)
        if words is None or way == ways[-1]:
            break
        refused |= {way.words: words}
        distributed.of_first(functools.partial(_write, path, refused, say))
    why = _why(config, limit_bytes, refused, fits=words is None)
    return Chosen(program, mine.compiled, mine.memory, mine.error, why, mine.seconds)


def _attempt(program: MeshProgram, config: Config, limit_bytes: int | None, say: Say) -> _Attempt:
    started = time.monotonic()
    try:
        compiled = mesh_program.compile_train_step(program, config)
    except TooLarge as error:
        return _Attempt(None, None, error, time.monotonic() - started)
    seconds = time.monotonic() - started
    needed = memory.of(compiled, limit_bytes)
    say(
        f"compiled in {seconds:.0f} s; needs {needed.needed_bytes / GIB:.2f} GiB on each device"
        f" with remat {program.way.words}"
    )
    error = None if needed.fits else TooLarge(memory.too_large(needed))
    return _Attempt(compiled, needed, error, seconds)


def _refusal_of_any(mine: _Attempt) -> str | None:
    """What the first process says that it doesn't fit on; None: it fits on all of them."""
    everyone = distributed.gather({"refused": None if mine.error is None else mine.words})
    return next((one["refused"] for one in everyone if one["refused"] is not None), None)


def _why(config: Config, limit_bytes: int | None, refused: Refused, fits: bool) -> str:
    if config.model.remat != "auto":
        return "config.model.remat"
    others = "".join(f"; {way} {words}" for way, words in refused.items())
    if not fits:
        return f"auto: the one that needs the least{others}"
    if limit_bytes is None and not refused:
        return "auto: the fastest; what the device's memory holds is not known"
    return f"auto: the fastest that fits{others}"


def _file(built: MeshProgram, config: Config, limit_bytes: int | None) -> Path:
    """Where a start writes which ways a step did not fit with, for the next start of the same.

    It says nothing of the way that did fit: that one is compiled, and measured, at every start.
    """
    facts = [
        mesh_program.lower_train_step(built, config).as_text(),
        built.mesh.devices.flat[0].device_kind,
        limit_bytes,
        [_version(name) for name in _COMPILERS],
        [os.environ.get(name) for name in _FLAGS],
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return cache_root(None) / "remat" / f"{digest[:32]}.json"


def _read(path: Path, ways: Sequence[str]) -> Refused:
    """The first of the ways, which did not fit; none where nothing that is whole says so."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or list(found) != list(ways[:-1][: len(found)]):
        return {}
    return {way: str(words) for way, words in found.items()}


def _write(path: Path, refused: Refused, say: Say) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        whole_files.write_text(path, json.dumps(refused))
    except OSError as error:
        say(f"note: {path} can't be written ({error}): the next start compiles these again")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
