"""What --help says of a program's flags and of the fields of a config, and `jaxsft help` of one."""

import dataclasses
import difflib
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from absl import flags

from jaxsft.config import Config, optional_section, type_name
from jaxsft.config.comments import in_one_line, meaning
from jaxsft.errors import ConfigError

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Field:
    """
    Attributes:
        path: such as "optim.warmup_steps"; a tuple's first: "data.train[0].path".
        section: the class that declares it.
        hint: its type.
        default: as Python writes it; None: it must be given.
        meaning: what its comment says.
    """

    path: str
    section: type
    hint: Any
    default: str | None
    meaning: str

    @property
    def typed(self) -> str:
        default = "" if self.default is None else f" (default: {self.default})"
        return f"{type_name(self.hint)}{default}"

    @property
    def line(self) -> str:
        said = in_one_line(self.meaning)
        return f"  --config.{self.path}: {self.typed}{f': {said}' if said else ''}"


def of_program(program: str, required: tuple[str, ...], about: str) -> str:
    """Its flags and, where it takes a config, each field in a line."""
    lines = [about or program, "", "Flags:"]
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in defined if module == program or module.startswith("jaxsft.") else ():
            needed = flag.name in ("config", *required)
            note = "required" if needed else f"default: {flag.value}"
            lines.append(f"  --{flag.name}: {flag.help} ({note})")
    if "config" in flags.FLAGS:
        lines += ["", "Config fields, changed with --config.section.field=value:"]
        lines += [field.line for field in fields()]
        lines += ["", "`jaxsft help optim.warmup_steps` has all that is to be said of a field."]
    return "\n".join(lines)


def fields() -> list[Field]:
    """All fields of a config, in the order of their declaration."""
    found: list[Field] = []
    for name, hint in typing.get_type_hints(Config).items():
        found += _fields(name, optional_section(hint) or hint)
    return found


def _fields(path: str, section: type) -> Iterator[Field]:
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        hint, inside = hints[field.name], f"{path}.{field.name}"
        args = typing.get_args(hint)
        if args and dataclasses.is_dataclass(args[0]) and isinstance(args[0], type):
            yield from _fields(f"{inside}[0]", args[0])
            continue
        yield Field(inside, section, hint, default_of(field), meaning(section, field.name))


def default_of(field: "dataclasses.Field[Any]") -> str | None:
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return None if field.default is dataclasses.MISSING else str(field.default)


def of_fields(asked: str) -> str | None:
    """All that is to be said of a field, or a line for each of a section; None: it is neither.

    Args:
        asked: such as "config.optim.warmup_steps", "optim", or "warmup_steps" alone.
    """
    path = asked.lstrip("-").partition("=")[0].removeprefix("config.").replace("[0]", "")
    every = fields()
    plain = {field.path.replace("[0]", ""): field for field in every}
    if asked == "config":
        return "\n".join(field.line for field in every)
    if path in plain:
        return _whole(plain[path])
    if inside := [field for name, field in plain.items() if name.startswith(f"{path}.")]:
        return "\n".join(field.line for field in inside)
    same = [field for name, field in plain.items() if name.rpartition(".")[2] == path]
    return "\n\n".join(_whole(field) for field in same) or None


def refuse_unknown(asked: str, programs: tuple[str, ...]) -> typing.NoReturn:
    """
    Raises:
        ConfigError: with the names that are most like it.
    """
    names = [field.path.replace("[0]", "") for field in fields()]
    ends = {name.rpartition(".")[2]: name for name in names}
    near = difflib.get_close_matches(asked, [*programs, *names, *ends], 3)
    full = [name if name in programs else ends.get(name, name) for name in near]
    hint = " or ".join(dict.fromkeys(map(repr, full)))
    raise ConfigError(
        f"jaxsft help {ascii(asked)}: no program and no field of a config; "
        + (f"did you mean {hint}?" if near else "`jaxsft help config` lists the fields")
    )


def _whole(field: Field) -> str:
    said = textwrap.wrap(field.meaning, _WIDTH - 2, initial_indent="  ", subsequent_indent="  ")
    example = "VALUE" if field.default in (None, "None", "()", "{}") else field.default
    name = field.path.rpartition(".")[2]
    return "\n".join(
        [
            f"config.{field.path}: {field.typed}",
            *said,
            "",
            f"  on the command line   --config.{field.path}={example}",
            f"  in a config file      {field.section.__name__}({name}=...)",
        ]
    )
