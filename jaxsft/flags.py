"""The command line: absl flags for the program, typed `--config.a.b=value` overrides for the run."""

import ast
import dataclasses
import difflib
import importlib.util
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from absl import flags

from jaxsft import errors
from jaxsft.config import Config, type_name, validate
from jaxsft.errors import ConfigError, UserError

_OVERRIDE = re.compile(r"--?config\.(?P<path>[^=]+)(=(?P<value>.*))?$", re.DOTALL)


def define_config() -> None:
    """Defines --config; call it at module level next to the main that reads it."""
    flags.DEFINE_string(
        "config",
        None,
        "Python file with get_config(); change a field with --config.section.field=value",
    )


def run_program(
    main: Callable[[Config], int | None],
    argv: Sequence[str] | None = None,
    required: tuple[str, ...] = (),
) -> None:
    """Parses the command line, runs `main(config)` and exits with the code of design: 0, 64, 65, 66, 70, 75."""
    sys.exit(_run(main, list(sys.argv if argv is None else argv), required))


def _run(main: Callable[[Config], int | None], argv: list[str], required: tuple[str, ...]) -> int:
    try:
        config = parse(argv, required)
        return main(config) or errors.DONE
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except errors.Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except Exception:
        traceback.print_exc()
        print(
            "error: this is a defect of jaxsft, please report it with the lines above",
            file=sys.stderr,
        )
        return errors.INTERNAL


def parse(argv: list[str], required: tuple[str, ...] = ()) -> Config:
    """The config that `argv` asks for: the file named by --config with its overrides applied, validated.

    Raises:
        ConfigError: unknown, repeated or ill-typed flags, stray arguments, a missing file.
    """
    overrides, rest = _split_overrides(argv)
    _refuse_repeated(rest)
    try:
        stray = flags.FLAGS(rest)[1:]
    except flags.Error as error:
        raise ConfigError(str(error)) from None
    if flags.FLAGS["help"].value:
        print(_help(rest[0]))
        raise SystemExit(errors.DONE)
    if stray:
        raise ConfigError(f"{stray[0]!r}: unexpected argument; flags are written --name=value")
    for name in ("config", *required):
        if flags.FLAGS[name].value is None:
            raise ConfigError(f"--{name} is missing; {flags.FLAGS[name].help}")
    config = load(flags.FLAGS["config"].value)
    for path, text in overrides:
        config = override(config, path, text)
    validate(config)
    return config


def load(path: str) -> Config:
    """Runs the config file and returns what its get_config() returns."""
    file = Path(path)
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.py")], 1)
        hint = f"; did you mean {str(file.parent / near[0])!r}?" if near else ""
        raise ConfigError(f"--config={path}: no such file{hint}")
    spec = importlib.util.spec_from_file_location("jaxsft_run_config", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise ConfigError(f"--config={path}:{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(
            f"--config={path}: get_config() returned {type(config).__name__}, expected Config"
        )
    return config


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
            new = _replace(_section(getattr(holder, name), here), parts[1:], text, here)
        return dataclasses.replace(holder, **{name: new})
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
    """The value that `text` spells for a field annotated with `hint`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if text == "None" and type(None) in args:
            return None
        return parse_value(next(arg for arg in args if arg is not type(None)), text, name)
    try:
        if origin is Literal:
            return next(arg for arg in args if str(arg) == text)
        if origin is tuple and not dataclasses.is_dataclass(args[0]):
            return tuple(ast.literal_eval(text))
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        if hint in (int, float, str):
            return hint(text)
    except (StopIteration, KeyError, ValueError, SyntaxError, TypeError):
        near = difflib.get_close_matches(text, [str(arg) for arg in args], 1)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}={text}: expected {type_name(hint)}{suggestion}") from None
    raise ConfigError(
        f"{name}={text}: a whole section can't be set here; set its fields one by one"
    )


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


def _refuse_repeated(argv: list[str]) -> None:
    names = [
        argument.lstrip("-").partition("=")[0] for argument in argv[1:] if argument.startswith("-")
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--{name}: given twice")


def _help(program: str) -> str:
    main = sys.modules["__main__"]
    lines = [main.__doc__ or program, "", "Flags:"]
    for flag in flags.FLAGS.flags_by_module_dict().get(program, []) or _own_flags():
        lines.append(f"  --{flag.name}: {flag.help} (default: {flag.value})")
    lines += ["", "Config fields (--config.section.field=value):"]
    for section in dataclasses.fields(Config):
        section_type = typing.get_type_hints(Config)[section.name]
        for name, hint in typing.get_type_hints(section_type).items():
            lines.append(f"  --config.{section.name}.{name}: {type_name(hint)}")
    return "\n".join(lines)


def _own_flags() -> list[Any]:
    return [
        flag
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if not module.startswith("absl")
        for flag in defined
    ]
