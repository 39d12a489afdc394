"""The key of a cache covers all code that decides what is in it."""

import ast
from pathlib import Path

from jaxsft.data.cache import prepare, shards

ROOT = Path(__file__).resolve().parents[3]


def test_no_file_that_decides_what_is_in_a_cache_is_left_out_of_its_key():
    """A file that moves takes its pattern along, and a new one that shards need has one."""
    package = ROOT / "jaxsft"
    found = {pattern: set(package.glob(pattern)) for pattern in prepare._CODE}
    assert [pattern for pattern, files in found.items() if not files] == []
    code, needed = set().union(*found.values()), {Path(shards.__file__)}
    while new := {file for name in needed for file in imported_data_files(name)} - needed:
        needed |= new
    assert len(needed) > 20 and needed - code == set()


def imported_data_files(file: Path) -> set[Path]:
    """The files of jaxsft/data that this one imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxsft.data"):
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                found.add(ROOT / f"{name.replace('.', '/')}.py")
    return {path for path in found if path.is_file()}
