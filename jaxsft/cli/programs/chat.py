"""Talks to a model in the terminal, with the template of its training.

    python tools/chat.py --model=RUN|EXPORT|BASE|ADAPTER [--against=OTHER] [--temperature=0.7]
    echo "What is a mesh?" | python tools/chat.py --model=runs/x

What is piped in is answered once. /help lists the commands: to correct an answer and to keep the
conversation as a row to train on, among others.
"""

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.cli import sampling_flags
from jaxsft.errors import ConfigError
from jaxsft.terminal import deadline

if TYPE_CHECKING:
    from jaxsft.generation.session import Session

_MODEL = flags.DEFINE_string("model", None, "directory, hub id, .gguf file, adapter or run")
_AGAINST = flags.DEFINE_string("against", None, "another one, which is asked the same")
_SYSTEM = flags.DEFINE_string("system", None, "a system message")
_TOOLS = flags.DEFINE_string("tools", None, "JSON file with the tools that the model may call")
_TEMPLATE = flags.DEFINE_string("template", None, "a .jinja file instead of the model's template")
_SAVE = flags.DEFINE_string("save", "chat_rows.jsonl", "where /save puts conversations")
sampling_flags.define(max_new_tokens=512)


def start() -> None:
    jaxsft_flags.run_tool(main, required=("model",))


def main() -> None:
    # These take seconds to import: not before the command line is known good.
    from rich.console import Console

    from jaxsft.generation.dialogue import Dialogue

    talks = sys.stdin.isatty()
    text = "" if talks else _piped()
    name, other = jaxsft_flags.given(_MODEL), _AGAINST.value
    sessions = {name: _session(name)}
    if other is not None:
        sessions[f"{other} again" if other == name else other] = _session(other)
    if not talks:
        for name, session in sessions.items():
            answer = session.ask(text)
            print(f"{name}:\n{answer}\n" if other is not None else answer)
        return
    import readline  # noqa: F401  (lines can be edited and called back)

    # Ctrl-C ends an answer, and not the chat.
    deadline.of_this_process().spared = frozenset({signal.SIGINT})
    console = Console(highlight=False, soft_wrap=True)
    Dialogue(sessions, input, console, Path(_SAVE.value)).run()


def _piped() -> str:
    text = sys.stdin.read().strip()
    if not text:
        raise ConfigError("standard input: is empty; there is nothing to answer")
    return text


def _session(name: str) -> "Session":
    import jax

    from jaxsft.generation.chat import Chat
    from jaxsft.generation.sampling import Sampling
    from jaxsft.generation.session import Session

    sampling = Sampling(**sampling_flags.sampling())
    tools = None if _TOOLS.value is None else _tools(Path(_TOOLS.value))
    dtype = sampling_flags.dtype(jax.default_backend())
    chat = Chat(name, dtype=dtype, parameter_dtype=dtype, template=_TEMPLATE.value)
    session = Session(chat, tools, sampling)
    session.set_system(_SYSTEM.value or "")
    return session


def _tools(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--tools={path}: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--tools={path}: is no JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ConfigError(f"--tools={path}: expected a list of tools, as JSON objects")
    return found
