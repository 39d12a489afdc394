"""Which file of the repository needs which, and the tests that lie nearest to some files.

A file needs what it imports, inside functions too, and what its text names: a module by its dotted
name (`"-m", "jaxsft.train"`), any other file by its last part (`"debug.py"`), and a program of
tools/ by its name in quotes (`"export_hf"`).
"""

import ast
import collections
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

Arrows = Mapping[str, Set[str]]  # file: the files that it needs
_HOLDS_ALWAYS = "tests/test_architecture.py"
_DOTTED = re.compile(r"jaxsft(?:\.\w+)+")
_QUOTED = re.compile(r'"(\w+)"')


def arrows(root: Path) -> Arrows:
    """Of all Python files under git, new ones too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    files = [file for file in listed.stdout.splitlines() if (root / file).is_file()]
    modules = {name: file for file in files if file.endswith(".py") for name in _names(file)}
    others = {Path(file).name: file for file in files if not file.startswith(("jaxsft/", "tests/"))}
    others |= {Path(file).name: file for file in files if not file.endswith(".py")}
    return {
        file: _needed(file, (root / file).read_text(encoding="utf-8"), modules, others)
        for file in files
        if file.endswith(".py")
    }


def _names(file: str) -> Iterator[str]:
    """The names that the file can be imported by; tests and tools are on the path too."""
    parts = Path(file).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    yield ".".join(parts)
    if parts[:1] == ("tools",):
        yield ".".join(parts[1:])
    elif parts[:1] == ("tests",):
        yield parts[-1]


def _needed(
    file: str, text: str, modules: Mapping[str, str], others: Mapping[str, str]
) -> frozenset[str]:
    names = set(_DOTTED.findall(text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    words = set(re.findall(r"[\w.\-]+", text)) | {f"{name}.py" for name in _QUOTED.findall(text)}
    found = {modules[name] for name in names if name in modules}
    found |= {others[word] for word in words if word in others}
    folders = Path(file).parents if file.startswith("tests/") else ()
    above = (modules.get(".".join([*folder.parts, "conftest"])) for folder in folders)
    found |= {one for one in above if one}
    return frozenset(found - {file})


def distances(changed: Sequence[str], needs: Arrows) -> dict[str, int]:
    """How many arrows lead from each file to a changed one, at least."""
    needed_by = collections.defaultdict(set)
    for file, targets in needs.items():
        for target in targets:
            needed_by[target].add(file)
    found = dict.fromkeys(changed, 0)
    waiting = collections.deque(changed)
    while waiting:
        target = waiting.popleft()
        for file in sorted(needed_by[target] - found.keys()):
            found[file] = found[target] + 1
            waiting.append(file)
    return found


def groups(changed: Sequence[str], needs: Arrows) -> list[list[str]]:
    """The files of tests that reach a changed file: first those of its room, then by distance."""
    found = distances(changed, needs)
    rooms = {_room(file) for file in changed}
    by_group = collections.defaultdict(list)
    for file, distance in found.items():
        if file.startswith("tests/") and Path(file).name.startswith("test_"):
            near = distance < 2 and _room(file) in rooms
            by_group[0 if near else distance + 1].append(file)
    if any(file.endswith(".py") for file in changed):
        by_group = {n: [f for f in group if f != _HOLDS_ALWAYS] for n, group in by_group.items()}
        by_group[0] = [_HOLDS_ALWAYS, *by_group.get(0, [])]
    return [sorted(by_group[number]) for number in sorted(by_group) if by_group[number]]


def _room(file: str) -> tuple[str, ...]:
    """The folder inside jaxsft/, tests/ or tools/."""
    return Path(file).parent.parts[1:]


def to_type_check(changed: Sequence[str], needs: Arrows) -> list[str]:
    """The changed files of the library, and those that import them."""
    near = (file for file, distance in distances(changed, needs).items() if distance < 2)
    return sorted(file for file in near if file.startswith("jaxsft/") and file.endswith(".py"))
