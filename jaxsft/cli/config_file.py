"""The user's config file, run: its Config, or one message with the line that is to blame."""

import dataclasses
import difflib
import importlib.machinery
import importlib.util
import re
import traceback
from pathlib import Path
from typing import NoReturn

from jaxsft import config as config_module
from jaxsft.config import Config
from jaxsft.errors import ConfigError, Stopped, UserError, chain


def load(path: str) -> Config:
    """Runs the config file and returns what its get_config() returns.

    Raises:
        ConfigError: there is no such file, or its code fails or ends the program: with the line.
    """
    file = Path(path)
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.py")], 1)
        hint = f"; did you mean {str(file.parent / near[0])!r}?" if near else ""
        raise ConfigError(f"--config={path}: no such file{hint}")
    if file.suffix != ".py":
        raise ConfigError(f"--config={path}: expected a Python file (.py) with get_config()")
    # Absolute, as Python itself makes it in the frames of a traceback.
    where = str(file.absolute())
    loader = _Fresh("jaxsft_run_config", where)
    spec = importlib.util.spec_from_file_location(loader.name, where, loader=loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        get_config = vars(module).get("get_config")
        config = get_config() if get_config else None
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # sys.exit too: it would end the program without a word
        raise _refusal(error, path, where) from error
    if get_config is None:
        raise ConfigError(f"--config={path}: it defines no get_config()")
    if not isinstance(config, Config):
        raise ConfigError(
            f"--config={path}: get_config() returned {type(config).__name__}, expected Config"
        )
    return config


class _Fresh(importlib.machinery.SourceFileLoader):
    """Runs the file as it is now: Python would take bytecode that it wrote before for that of a
    file that was changed to another one of the same length within the same second."""

    def path_stats(self, path: object) -> NoReturn:
        raise OSError(f"{path}: no bytecode of it is read or written")


def _refusal(error: BaseException, path: str, where: str) -> UserError:
    """The error as one message that names the config file, the line in it, and a line below it."""
    line = _line_of(error, where)
    begin = f"--config={path}" + ("" if line is None else f":{line}")
    if below := _user_line_below(error, where):
        begin += f": in {below}"
    kind = type(error) if isinstance(error, UserError) else ConfigError
    return kind(f"{begin}: {_said(error)}")


def _said(error: BaseException) -> str:
    """What went wrong, with the errors that it was raised from."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, SystemExit):
        given = "" if error.code is None else repr(error.code)
        return (
            f"sys.exit({given}) would end the program;"
            " let get_config() return a Config, or raise an error that says what is wrong"
        )
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    said = f"{type(error).__name__}: {words}".removesuffix(": ") + _nearest_argument(error)
    if isinstance(error, BaseExceptionGroup):
        said += f": {'; '.join(_said(one) for one in error.exceptions)}"
    return said if error.__cause__ is None else f"{said} (from {_said(error.__cause__)})"


def _lines(error: BaseException) -> list[tuple[str, int]]:
    """File and line of each frame that led to the error, the deepest last."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__) if f.lineno]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        frames.append((error.filename, error.lineno))  # which has no frame: it never ran
    return frames


def _line_of(error: BaseException, where: str) -> int | None:
    """The line of the config file that led to the error, which may have been raised further down;
    None where the file could not even be read as text."""
    for one in chain(error):
        if lines := [line for file, line in _lines(one) if file == where]:
            return lines[-1]
    return None


def _user_line_below(error: BaseException, where: str) -> str | None:
    """`file:line` of the last frame in a module of the user that the config calls or imports."""
    lines = _lines(error)
    below = [at for at, (file, _) in enumerate(lines) if file == where]
    theirs = [(f, n) for f, n in lines[below[-1] + 1 if below else 0 :] if _is_theirs(f)]
    return f"{theirs[-1][0]}:{theirs[-1][1]}" if theirs else None


def _is_theirs(file: str) -> bool:
    """Whether it is neither Python's, an installed library's nor ours."""
    library = Path(traceback.__file__).parent
    ours = Path(__file__).parents[1]
    parents = Path(file).parents
    installed = any(one.name in ("site-packages", "dist-packages") for one in parents)
    return Path(file).is_absolute() and not (installed or library in parents or ours in parents)


def _nearest_argument(error: BaseException) -> str:
    """The field that `Train(batchsize=8)` probably meant; Python says it from 3.13 on only."""
    found = re.fullmatch(r"(\w+)\.__init__\(\) got an unexpected .* '(\w+)'", str(error))
    section = vars(config_module).get(found[1]) if found else None
    if not found or not dataclasses.is_dataclass(section):
        return ""
    near = difflib.get_close_matches(found[2], [f.name for f in dataclasses.fields(section)], 1)
    return f"; did you mean {near[0]!r}?" if near else ""
