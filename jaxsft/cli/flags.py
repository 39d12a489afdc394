"""The command line: absl flags for the program, typed `--config.a.b=value` for the run."""

import dataclasses
import difflib
import json
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from absl import flags

from jaxsft import config as config_module
from jaxsft import errors
from jaxsft.cli import config_file, program_help
from jaxsft.config import Config, optional_section, type_name, validate
from jaxsft.errors import ConfigError, UserError
from jaxsft.files import places
from jaxsft.terminal import advice, deadline, signals, streams
from jaxsft.terminal.printable import printable
from jaxsft.terminal.redact import redacted

_WHOLE = re.compile(r"[+-]?\d+")
_WHOLE_NUMBERS = re.compile(r"\d+(?:,\d+)+")
_OVERRIDE = re.compile(r"--?config\.(?P<path>[^=]+)(=(?P<value>.*))?$", re.DOTALL)
_HELP = frozenset({"--help", "-help", "-h"})


def define_config() -> None:
    """Defines --config; call it at module level next to the main that reads it."""
    flags.DEFINE_string(
        "config",
        None,
        "Python file with get_config(); change a field with --config.section.field=value",
    )


def define_peers() -> None:
    """Defines how a process of several finds the others; call it where define_config is called."""
    flags.DEFINE_string("coordinator_address", None, "host:port of process 0; found on a cluster")
    flags.DEFINE_integer("num_processes", None, "processes of this run; found on a cluster")
    flags.DEFINE_integer("process_id", None, "of this process, from 0; found on a cluster")
    flags.DEFINE_integer("connect_seconds", 600, "how long to wait for the other processes", 1)


def peers() -> tuple[str | None, int | None, int | None, int]:
    """What distributed.connect takes."""
    given = flags.FLAGS
    return (
        given.coordinator_address,
        given.num_processes,
        given.process_id,
        given.connect_seconds,
    )


def run_program(
    main: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    required: tuple[str, ...] = (),
    known: Callable[[], Config] | None = None,
    with_base: bool = False,
) -> None:
    """Parses the command line, runs `main(config)` and exits with a code of jaxsft.errors.

    Args:
        known: the config where no file is named.
        with_base: it is `main(config, base)`, with the config that the command line changed.
    """
    arguments = list(sys.argv if argv is None else argv)

    def run() -> int | None:
        base, config = parsed(arguments, required, _about(main), known)
        return main(config, base) if with_base else main(config)

    sys.exit(_exit_code(run))


MORE = "..."  # as the last of a program's words: as many arguments more as there are


def run_tool(
    main: Callable[..., int | None], required: tuple[str, ...] = (), words: tuple[str, ...] = ()
) -> None:
    """run_program for a program without --config.

    Args:
        words: what the arguments without a name are called, all of which main is given; the last
            may be MORE.
    """

    def run() -> int | None:
        given = _parse_flags(list(sys.argv), required, _about(main), words)
        return main(*given)

    sys.exit(_exit_code(run))


def given(flag: flags.FlagHolder[str | None]) -> str:
    """The value of a flag that is among `required`."""
    value = flag.value
    assert value is not None, flag.name
    return value


def _about(main: Callable[..., int | None]) -> str:
    """What the file of this main says of itself."""
    return sys.modules[main.__module__].__doc__ or ""


def _exit_code(run: Callable[[], int | None]) -> int:
    streams.protect()
    advice.leave_out()
    grace_seconds = config_module.Checkpoint().grace_seconds  # until a config is read
    try:
        with deadline.watching(grace_seconds), signals.unraised_in_silence(), signals.raised():
            return run() or errors.DONE
    except UserError as error:
        return _refused(error)
    except (_HelpGiven, streams.NobodyReads):
        return errors.DONE
    except errors.Stopped as stopped:
        print(stopped, file=sys.stderr)
        deadline.leave_soon(stopped.exit_code)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("stopped by SIGINT; start the same command again", file=sys.stderr)
        deadline.leave_soon(errors.STOPPED)
        return errors.STOPPED
    except BaseException as error:  # a library's sys.exit, and errors of Rust that are no Exception
        if refusal := places.user_error(error):
            return _refused(refusal)
        print(redacted(traceback.format_exc()), file=sys.stderr)
        print(
            "error: this is a defect of jaxsft, please report it with the lines above",
            file=sys.stderr,
        )
        return errors.INTERNAL


class _HelpGiven(SystemExit):
    pass


def _refused(error: UserError) -> int:
    print(f"error: {printable(redacted(str(error)))}", file=sys.stderr)
    return error.exit_code


def parse(
    argv: list[str],
    required: tuple[str, ...] = (),
    about: str = "",
    known: Callable[[], Config] | None = None,
) -> Config:
    """The validated config that `argv` asks for, as `parsed` has it."""
    return parsed(argv, required, about, known)[1]


def parsed(
    argv: list[str],
    required: tuple[str, ...] = (),
    about: str = "",
    known: Callable[[], Config] | None = None,
) -> tuple[Config, Config]:
    """The config of the file of --config, and the validated one with its overrides applied.

    Args:
        about: the first lines of what --help answers.
        known: the config where no file is named; None: one must be.

    Raises:
        ConfigError: unknown, repeated or ill-typed flags, stray arguments, a missing file, text
            that is not UTF-8.
        SystemExit: after --help has been answered.
    """
    _refuse_other_encodings(argv)
    overrides, rest = _split_overrides(argv)
    _parse_flags(rest, required if known else ("config", *required), about)
    path = flags.FLAGS["config"].value
    if path is None:
        assert known is not None
        base = known()
    else:
        base = config_file.load(path)
    config = base
    for field, text in overrides:
        config = override(config, field, text)
    validate(config)
    return base, config


def _parse_flags(
    argv: list[str], required: tuple[str, ...], about: str, words: tuple[str, ...] = ()
) -> list[str]:
    """The arguments without a name, one for each of `words`, and more where the last is "..."."""
    _refuse_other_encodings(argv)
    more = words[-1:] == (MORE,)
    words = words[: len(words) - more]
    if _HELP.intersection(argv[1:]):
        print(program_help.of_program(argv[0], required, about))
        raise _HelpGiven(errors.DONE)
    _refuse_repeated(argv)
    try:
        stray = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        raise ConfigError(str(error)) from None
    if stray[len(words) :] and not more:
        unexpected = stray[len(words)]
        raise ConfigError(f"{unexpected!r}: unexpected argument; flags are written --name=value")
    if missing := words[len(stray) :]:
        raise ConfigError(f"{missing[0]} is missing; the arguments are {' '.join(words)}")
    for name in required:
        if flags.FLAGS[name].value in (None, ""):  # "" is what an unset variable of a shell leaves
            raise ConfigError(f"--{name} is missing; {flags.FLAGS[name].help}")
    return stray


def override(config: Any, path: str, text: str) -> Any:
    """A copy of `config` with the field at a dotted path set from its text.

    Raises:
        ConfigError: an unknown field (with the nearest name) or a value of another type.
    """
    return _replace(config, path.split("."), text, "config")


def _replace(holder: Any, parts: list[str], text: str, above: str) -> Any:
    name, index = _split_index(parts[0], above)
    hint = _field_type(holder, name, above)
    here = f"{above}.{parts[0]}"
    if index is None:
        if len(parts) == 1:
            new = parse_value(hint, text, here)
        else:
            held = getattr(holder, name)
            if held is None and (section := optional_section(hint)) is not None:
                held = section()  # one field of a section switches it on
            new = _replace(_section(held, here), parts[1:], text, here)
        return dataclasses.replace(holder, **{name: new})
    if not isinstance(getattr(holder, name), tuple):
        raise ConfigError(f"{here}: {above}.{name} is one value, not a list of them")
    items = list(getattr(holder, name))
    if not 0 <= index < len(items):
        raise ConfigError(f"{here}: {above}.{name} has {len(items)} items")
    if len(parts) == 1:
        items[index] = parse_value(typing.get_args(hint)[0], text, here)
    else:
        items[index] = _replace(_section(items[index], here), parts[1:], text, here)
    return dataclasses.replace(holder, **{name: tuple(items)})


def _section(value: Any, name: str) -> Any:
    if not dataclasses.is_dataclass(value):
        raise ConfigError(f"{name}={value!r}: is a value, it has no fields")
    return value


def _split_index(part: str, above: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", part)
    if not match:
        raise ConfigError(f"{above}.{part}: expected a field name, or name[index]")
    return match[1], None if match[2] is None else int(match[2])


def _field_type(holder: Any, name: str, above: str) -> Any:
    hints = typing.get_type_hints(type(holder))
    if name in hints:
        return hints[name]
    near = difflib.get_close_matches(name, hints, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(hints)}"
    raise ConfigError(f"{above}.{name}: {type(holder).__name__} has no field {name!r}; {hint}")


def parse_value(hint: Any, text: str, name: str) -> Any:
    """The value that `text` spells for a field annotated with `hint`.

    Raises:
        ConfigError: the text spells no such value, or the field is a section of its own.
    """
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    choices = typing.get_args(hint) if optional else (hint,)
    if text == "None" and type(None) in choices:
        return None
    plain = next(choice for choice in choices if choice is not type(None))
    args = typing.get_args(plain)
    try:
        if typing.get_origin(plain) is Literal:
            return next(arg for arg in args if str(arg) == text)
        if plain is bool:
            return {"true": True, "false": False}[text.lower()]
        if {int, float} <= set(choices):
            return int(text) if _WHOLE.fullmatch(text) else float(text)
        if plain in (int, float, str):
            return plain(text)
        if typing.get_origin(plain) in (tuple, dict):
            return _collection(plain, text, name)
    except ConfigError:
        raise
    except (StopIteration, KeyError, ValueError):
        near = difflib.get_close_matches(text, [str(arg) for arg in args], 1)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        form = {tuple: ", as a JSON list", dict: ", as a JSON object"}.get(
            typing.get_origin(plain), ""
        )
        raise ConfigError(f"{name}={text}: expected {type_name(hint)}{form}{suggestion}") from None
    raise ConfigError(
        f"{name}={text}: a whole section can't be set here; set its fields one by one"
    )


def _collection(hint: Any, text: str, name: str) -> Any:
    """A tuple from a JSON list, whose sections are objects, or from whole numbers such as 10,13; a
    dict from a JSON object.

    Raises:
        ConfigError: a section has no such field, or lacks one.
        ValueError: the text is not JSON, or its items are not what the hint says.
    """
    if typing.get_args(hint)[0] is int and _WHOLE_NUMBERS.fullmatch(text):
        text = f"[{text}]"
    value = config_module.from_value(hint, json.loads(text), name)
    if not config_module.is_instance(value, hint):
        raise ValueError(text)
    return value


def _split_overrides(argv: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    overrides: dict[str, str] = {}
    rest = []
    for argument in argv:
        match = _OVERRIDE.match(argument)
        if not match:
            rest.append(argument)
            continue
        if match["value"] is None:
            raise ConfigError(f"{argument}: expected {argument}=value")
        if match["path"] in overrides:
            raise ConfigError(f"--config.{match['path']}: given twice")
        overrides[match["path"]] = match["value"]
    return list(overrides.items()), rest


def _refuse_other_encodings(argv: list[str]) -> None:
    """A path in an argument goes into files and messages, which are UTF-8."""
    for argument in argv:
        places.refuse_other_encoding(argument)


def _refuse_repeated(argv: list[str]) -> None:
    """absl takes the last of repeated flags in silence."""
    given: set[str] = set()
    for argument in argv[1:]:
        if argument == "--":
            return
        name = argument.lstrip("-").partition("=")[0]
        if name.startswith("no") and name not in flags.FLAGS:
            name = name.removeprefix("no")
        if not argument.startswith("-") or name not in flags.FLAGS:
            continue
        if name in given:
            raise ConfigError(f"--{name}: given twice")
        given.add(name)
