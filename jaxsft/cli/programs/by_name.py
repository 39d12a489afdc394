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
    *("eval", "compare_models", "compare_runs", "chat", "answer", "curve"),
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
        name, rest = rest[0], ["--help"]
    if name not in NAMES:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        sys.exit(errors.BAD_CONFIG)
    sys.argv = [f"jaxsft {name}", *rest]
    importlib.import_module(f"jaxsft.cli.programs.{name}").start()


def listed() -> str:
    """The programs with the first sentence of what each says of itself."""
    lines = [f"  {name:14} {_summary(name)}" for name in NAMES]
    return "\n".join(
        [
            "jaxsft NAME [--flag=value ...], where NAME is one of",
            "",
            *lines,
            "",
            "`jaxsft NAME --help` lists its flags and the fields of a config.",
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
