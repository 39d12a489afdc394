"""A chat in a terminal: lines that are read, commands among them, answers as they are written."""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsft.errors import ConfigError, UserError
from jaxsft.generation.chat import Tokens
from jaxsft.generation.session import Session

HELP = """/system TEXT        another system message; without TEXT none
/reset              forgets the conversation, but for the system message
/retry              another answer in the place of the last one
/edit [TEXT]        the right answer in the place of the last one; without TEXT in $EDITOR
/save [FILE]        appends the conversation to a file of rows to train on
/tokens [ids]       the conversation as tokens, what would be trained of it in colour
/set NAME=VALUE     temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, seed
/help               this
/quit               ends, as Ctrl-D does; Ctrl-C ends an answer"""


class Dialogue:
    """
    Args:
        sessions: by what to call them: one, or two that are asked the same.
        read: a line that the user types behind a mark; EOFError: there are no more.
    """

    def __init__(
        self, sessions: dict[str, Session], read: Callable[[str], str], console: Console, save: Path
    ):
        self._sessions, self._read, self._console, self._save = sessions, read, console, save
        self._first = next(iter(sessions.values()))

    def run(self) -> None:
        """Until the user ends it; what the user does wrong is said, and it goes on."""
        self._console.print("/help lists what can be done beside talking", style="dim")
        while True:
            try:
                line = self._read("you> ")
                while line.endswith("\\"):
                    line = line[:-1] + "\n" + self._read("...> ")
            except (EOFError, KeyboardInterrupt):
                self._console.print()
                return
            try:
                if not self._take(line.strip()):
                    return
            except KeyboardInterrupt:
                self._console.print("\n(stopped)", style="dim")
            except UserError as error:
                self._console.print(f"error: {error}", style="red", markup=False)

    def _take(self, line: str) -> bool:
        """Whether the chat goes on."""
        if not line:
            return True
        if not line.startswith("/"):
            self._each(lambda session, tell: session.ask(line, tell))
            return True
        name, _, rest = line[1:].partition(" ")
        if name in ("quit", "exit"):
            return False
        commands = {
            "help": lambda: self._say(HELP),
            "system": lambda: self._all(lambda session: session.set_system(rest.strip())),
            "reset": lambda: self._all(Session.reset),
            "retry": lambda: self._each(Session.retry),
            "edit": lambda: self._edit(rest.strip()),
            "save": lambda: self._keep(Path(rest.strip()) if rest.strip() else self._save),
            "tokens": lambda: self._show(self._first.tokens(), rest.strip() == "ids"),
            "set": lambda: self._set(rest.strip()),
        }
        if name not in commands:
            raise ConfigError(f"/{name}: no such command; /help lists them")
        commands[name]()
        return True

    def _each(self, answer: Callable[[Session, Callable[[str], object]], object]) -> None:
        """Answers by all models, as they are written; their calls get results from the user."""
        for name, session in self._sessions.items():
            self._console.print(Text(f"{name}> ", style="bold"), end="")
            answer(session, self._tell)
            self._console.print()
            while calls := session.calls():
                results = []
                for call in calls:
                    said = (
                        f"{call['function']['name']}({_arguments(call['function']['arguments'])})"
                    )
                    self._console.print(Text(f"calls {said}", style="cyan"))
                    results.append(self._read("result> "))
                self._console.print(Text(f"{name}> ", style="bold"), end="")
                session.give_results(results, self._tell)
                self._console.print()
        if len(self._sessions) > 1:
            self._beside()

    def _tell(self, piece: str) -> None:
        self._console.file.write(piece)
        self._console.file.flush()

    def _beside(self) -> None:
        """The last answers, each in its column."""
        table = Table(*self._sessions, expand=True)
        last = [session.messages[-1] for session in self._sessions.values()]
        table.add_row(*(Text(str(message.get("content", ""))) for message in last))
        self._console.print(table)

    def _all(self, change: Callable[[Session], object]) -> None:
        for session in self._sessions.values():
            change(session)

    def _edit(self, text: str) -> None:
        self._first.edit(text or _in_editor(self._first.last_answer()["content"]))
        self._say("the answer is replaced; /save keeps the conversation as a row")

    def _keep(self, path: Path) -> None:
        count = self._first.save(path)
        self._say(f"{path} has {count} row{'s' * (count != 1)}")

    def _set(self, text: str) -> None:
        if not text:
            self._say("  ".join(f"{k}={v}" for k, v in vars(self._first.sampling).items()))
            return
        for part in shlex.split(text):
            name, _, value = part.partition("=")
            self._all(lambda session, name=name, value=value: session.set(name, value))

    def _show(self, tokens: Tokens, ids: bool) -> None:
        rows = list(
            zip(tokens.ids_T.tolist(), tokens.weights_T.tolist(), tokens.texts, strict=True)
        )
        shown = Text()
        for number, weight, text in rows:
            style = "black on green" if weight > 0 else "dim"
            shown.append(f"{number} {weight:g} {text!r}\n" if ids else text, style)
            shown.append("" if ids else "\u00b7", "dim")
        self._console.print(shown)
        trained = sum(weight > 0 for _, weight, _ in rows)
        self._say(f"{len(rows)} tokens, {trained} would be trained")

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)


def _arguments(arguments: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _in_editor(text: str) -> str:
    """What the user makes of the text.

    Raises:
        ConfigError: there is no editor, or it failed.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise ConfigError("/edit: give the right answer behind it, or set EDITOR")
    with tempfile.NamedTemporaryFile("w+", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            subprocess.run([*shlex.split(editor), file.name], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(f"/edit: {editor}: {error}") from None
        return Path(file.name).read_text(encoding="utf-8").strip()
