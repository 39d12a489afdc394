"""What the comments in the sources of the config say of each field."""

import ast
import functools
import inspect
import io
import re
import tokenize


def meaning(section: type, field: str) -> str:
    """The comment behind a field and the lines of comment right above it, as one paragraph.

    Where a comment says nothing, what the docstring says of the field under "Attributes:".
    """
    return _of_sections(inspect.getsourcefile(section) or "")[section.__name__].get(field, "")


def in_one_line(text: str) -> str:
    """The first sentence, up to a full stop or semicolon."""
    return re.split(r"(?<=\w\w)[.;](?=\s|$)", text, maxsplit=1)[0]


@functools.cache
def _of_sections(file: str) -> dict[str, dict[str, str]]:
    with open(file, encoding="utf-8") as opened:
        source = opened.read()
    found = _comments(source)
    return {
        node.name: _of_fields(node, found)
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """By line the text, and whether the line has nothing else."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = token.string.lstrip("# ").rstrip(), alone
    return found


def _of_fields(node: ast.ClassDef, comments: dict[int, tuple[str, bool]]) -> dict[str, str]:
    documented = _documented(ast.get_docstring(node) or "")
    meanings = {}
    for one in node.body:
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
            continue
        behind = [
            comments[line][0]
            for line in range(one.lineno, (one.end_lineno or one.lineno) + 1)
            if line in comments
        ]
        above, line = [], one.lineno - 1
        while line in comments and comments[line][1]:
            above.insert(0, comments[line][0])
            line -= 1
        said = [" ".join(part) for part in (behind, above) if part]
        name = one.target.id
        meanings[name] = ". ".join(text.removesuffix(".") for text in said) or documented.get(
            name, ""
        )
    return meanings


def _documented(docstring: str) -> dict[str, str]:
    """What follows the names under "Attributes:"."""
    found: dict[str, str] = {}
    name, inside = None, False
    for line in docstring.splitlines():
        if line.strip() == "Attributes:":
            inside = True
        elif inside and (match := re.match(r"    (\w+): (.*)", line)):
            name = match[1]
            found[name] = match[2]
        elif inside and name and line.startswith("        "):
            found[name] += f" {line.strip()}"
        elif line.strip():
            inside = False
    return found
