"""`jaxsft NAME ...`: one of the programs, by its name.

Neither jax nor another program is imported before the name is known: each defines flags of its own.
"""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from jaxsft import errors
from jaxsft.terminal import signals, streams

NAMES = ("train", "prepare", "inspect", "export", "plan", "selfcheck") + (
    *("eval", "compare_models", "compare_runs", "chat", "answer"),
)
_HELP = ("help", "--help", "-help", "-h")


def start() -> None:
    """Runs the program that the command line names, which sees the words after its name."""
    signals.end_at_once()
    name, *rest = sys.argv[1:] or ["help"]
    if name in _HELP:
        if not rest:
            streams.protect()
            streams.end_when_lost()
            print(listed())
            return
        if rest[0] not in NAMES or rest[0] == "config":
            _help_on_field(rest[0])
            return
        name, rest = rest[0], ["--help"]
    if name not in NAMES:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        sys.exit(errors.BAD_CONFIG)
    sys.argv = [f"jaxsft {name}", *rest]
    importlib.import_module(f"jaxsft.cli.programs.{name}").start()


def _help_on_field(asked: str) -> None:
    # Not where a program is started: reading the config's sources takes a moment.
    from jaxsft.cli import program_help

    streams.protect()
    streams.end_when_lost()
    try:
        print(program_help.of_fields(asked) or program_help.refuse_unknown(asked, NAMES))
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def listed() -> str:
    """The programs with the first sentence of what each says of itself."""
    lines = [f"  {name:14} {_summary(name)}" for name in NAMES]
    return "\n".join(
        [
            "jaxsft NAME [--flag=value ...], where NAME is one of",
            "",
            *lines,
            "",
            "`jaxsft NAME --help` lists its flags and the fields of a config;",
            "`jaxsft help optim.warmup_steps` has all that is to be said of a field.",
        ]
    )


def _summary(name: str) -> str:
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    paragraph = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, NAMES, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NAMES)}"
    return f"jaxsft {ascii(name)}: no such program; {hint}"
