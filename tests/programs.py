"""Runs a program as its command line does, but in this process: no imports again, no new jax.

What only a process of its own shows (a signal, a kill, peers, output that nobody reads) is started
with `subprocess` by the tests of that.
"""

import contextlib
import dataclasses
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType

from absl import flags

ROOT = Path(__file__).resolve().parents[1]
# Modules that define flags; each run defines them afresh.
PROGRAMS = ("jaxsft.train.", "jaxsft.cli.programs.")


@dataclasses.dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(
    program: str | Path, *arguments: str | Path, env: Mapping[str, str] = MappingProxyType({})
) -> Done:
    """What a module (`python -m`) or a file did, started in the repository with these arguments.

    Args:
        env: added to the environment.
    """
    from jaxsft.terminal import deadline  # not before conftest has had its say

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        for file in said:
            stack.enter_context(_stream(file))
        stack.enter_context(_replaced(sys, "argv", [str(program), *map(str, arguments)]))
        stack.enter_context(_environment(env))
        stack.enter_context(contextlib.chdir(ROOT))
        stack.enter_context(_flags_of_its_own())
        stack.enter_context(signals_given_back())
        stack.enter_context(_replaced(deadline, "_exit", lambda code: None))  # it is our process
        code = _exit_code(program)
        stack.close()
        return Done(code, *(file.read_text(encoding="utf-8") for file in said))


def train(
    workdir: str | Path,
    *flags: str,
    check: bool = True,
    env: Mapping[str, str] = MappingProxyType({}),
) -> Done:
    """configs/debug.py in this directory; without `check` it may end in any way."""
    fixed = (f"--config={ROOT}/configs/debug.py", f"--workdir={workdir}", "--num_processes=1")
    done = run("jaxsft.train", *fixed, *flags, env=env)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def tool(name: str, *arguments: str | Path) -> Done:
    return run(ROOT / "tools" / f"{name}.py", *arguments)


def _exit_code(program: str | Path) -> int:
    start = runpy.run_path if isinstance(program, Path) else runpy.run_module
    try:
        start(str(program), run_name="__main__")
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int), end.code
        return end.code or 0
    return 0


@contextlib.contextmanager
def _stream(file: Path) -> Iterator[None]:
    """Inside, sys.stdout or sys.stderr, as the file is called, has a descriptor of its own.

    The program puts a stream that does not break in its place, as it does with a terminal's.
    """
    with open(file, "w", encoding="utf-8") as opened, _replaced(sys, file.name, opened):
        try:
            yield
        finally:
            getattr(sys, file.name).close()


@contextlib.contextmanager
def _replaced(holder: object, name: str, value: object) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def signals_given_back() -> Iterator[None]:
    """After it signals do what they did before: a program that was stopped ignores them."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _flags_of_its_own() -> Iterator[None]:
    """Inside, no flag of this repository is defined; those of libraries stay."""
    modules = _without_programs()
    before = _without_ours()
    try:
        yield
    finally:
        _without_programs()
        sys.modules.update(modules)
        _without_ours()
        for module, flag in before:
            flags.FLAGS[flag.name] = flag
            flags.FLAGS.register_flag_by_module(module, flag)


def _without_programs() -> dict[str, ModuleType]:
    """Takes the imported programs away, and returns them by name."""
    names = [name for name in sys.modules if f"{name}.".startswith(PROGRAMS)]
    return {name: sys.modules.pop(name) for name in names}


def _without_ours() -> list[tuple[str, flags.Flag]]:
    """Takes this repository's flags away, and returns them with the modules that defined them."""
    ours = [
        (module, flag)
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        for flag in defined
        if module not in sys.modules or _is_ours(module)
    ]
    for _, flag in ours:
        if flag.name in flags.FLAGS:
            delattr(flags.FLAGS, flag.name)
    return ours


def _is_ours(module: str) -> bool:
    file = getattr(sys.modules[module], "__file__", None)
    inside = file is not None and Path(file).is_relative_to(ROOT)
    return inside and "site-packages" not in Path(file).relative_to(ROOT).parts
