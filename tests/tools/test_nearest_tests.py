"""Which tests lie nearest to a changed file: `make check` runs those first."""

import subprocess
from pathlib import Path

import pytest
from imports import graph

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "jaxsft/low.py": "",
    "jaxsft/room/high.py": "def f():\n    from jaxsft import low\n",
    "jaxsft/room/page.jinja": "",
    "jaxsft/room/page.py": "open('page.jinja')\n",
    "tools/program.py": "import jaxsft.room.high\n",
    "tests/test_low.py": "import jaxsft.low\n",
    "tests/room/cases.py": "from jaxsft.room.high import f\n",
    "tests/room/test_high.py": "import cases\n",
    "tests/room/test_page.py": "from jaxsft.room import page\n",
    "tests/test_program.py": "run('tools', 'program.py')\n",
    "tests/test_module.py": "run('-m', 'jaxsft.room.high')\n",
    "tests/room/conftest.py": "",
    "tests/test_architecture.py": "",
}


@pytest.fixture
def needs(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return graph.arrows(tmp_path)


def test_distances_are_counted_in_imports(needs):
    found = graph.distances(["jaxsft/low.py"], needs)
    assert found["tests/test_low.py"] == 1
    assert found["jaxsft/room/high.py"] == 1  # imported inside a function
    assert found["tests/room/test_high.py"] == 3  # over cases.py
    assert found["tests/test_program.py"] == 3  # which names a program's file
    assert found["tests/test_module.py"] == 2  # which names a module
    assert "tests/room/test_page.py" not in found
    assert graph.distances(["jaxsft/room/page.jinja"], needs)["tests/room/test_page.py"] == 2


def test_the_nearest_tests_come_first(needs):
    found = graph.groups(["jaxsft/room/high.py"], needs)
    assert found == [
        ["tests/test_architecture.py"],
        ["tests/test_module.py"],
        ["tests/room/test_high.py", "tests/test_program.py"],
    ]
    page = graph.groups(["jaxsft/room/page.py"], needs)
    assert page == [["tests/room/test_page.py", "tests/test_architecture.py"]]
    below = graph.groups(["tests/room/conftest.py"], needs)[0]
    assert below[:2] == ["tests/room/test_high.py", "tests/room/test_page.py"]
    assert graph.groups(["notes.md"], needs) == []


def test_types_are_checked_where_a_change_is_seen(needs):
    assert graph.to_type_check(["jaxsft/low.py"], needs) == ["jaxsft/low.py", "jaxsft/room/high.py"]
    assert graph.to_type_check(["tests/test_low.py"], needs) == []


def test_the_programs_of_this_repository_are_seen():
    found = graph.distances(["jaxsft/cli/programs/export.py"], graph.arrows(ROOT))
    assert found["tests/files/test_remote.py"] == 2  # starts tools/export_hf.py
