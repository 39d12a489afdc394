"""The faults that tests inject, read from their sources, as the tables of docs/failures.md."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from jaxsft.errors import ConfigError

BEGIN = "<!-- faults: made by tools/failure_page.py from the tests -->"
END = "<!-- end of faults -->"
_GROUPS = ("stopping", "processes", "checkpoints", "numbers", "data", "models and security")
_HEADS = ("what", "what the run does", "what is lost", "exit", "proved by")


@dataclasses.dataclass(frozen=True)
class Fault:
    """The arguments of a test's `fault`, and where the test stands."""

    group: str
    what: str
    happens: str
    lost: str
    code: int | str
    test: str


def updated(page: str, tests: Path) -> str:
    """The page with a table for each group between its marks.

    Raises:
        ConfigError: a page without the marks, or a fault of no group.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the page needs the lines {BEGIN!r} and {END!r}")
    found = sorted(faults(tests), key=lambda one: (_group(one), one.test))
    parts = [
        f"## {group.capitalize()}\n\n{_table([one for one in found if one.group == group])}"
        for group in _GROUPS
        if any(one.group == group for one in found)
    ]
    return "\n\n".join([before + begin, *parts, end + after])


def faults(tests: Path) -> Iterator[Fault]:
    for file in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                for call in _calls(node):
                    yield _fault(call, f"{file.relative_to(tests)}::{node.name}")


def _calls(function: ast.FunctionDef) -> list[ast.Call]:
    calls = [one for one in function.decorator_list if isinstance(one, ast.Call)]
    return [one for one in calls if isinstance(one.func, ast.Name) and one.func.id == "fault"]


def _fault(call: ast.Call, test: str) -> Fault:
    group, what, happens = (ast.literal_eval(one) for one in call.args)
    named = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    return Fault(group, what, happens, named["lost"], named["code"], test)


def _group(one: Fault) -> int:
    if one.group not in _GROUPS:
        raise ConfigError(f"{one.test}: group {one.group!r}: expected one of {', '.join(_GROUPS)}")
    return _GROUPS.index(one.group)


def _table(found: list[Fault]) -> str:
    rows = [
        (one.what, one.happens, one.lost, str(one.code), f"`{one.test.split('::')[1]}`")
        for one in found
    ]
    lines = [_HEADS, ("---",) * len(_HEADS), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
