"""docs/failures.md says what tests prove, and nothing else."""

import pytest
from pages import failures

from jaxsft.errors import ConfigError
from tests.programs import ROOT

TEST = """
@fault("{group}", "a fault", "ends", lost="nothing", code=75)
@pytest.mark.slow
def test_of_it(tmp_path):
    pass
"""


def test_the_page_is_that_of_the_tests():
    page = (ROOT / "docs/failures.md").read_text()
    assert failures.updated(page, ROOT / "tests") == page, "python tools/failure_page.py"


def test_a_line_for_each_fault(tmp_path):
    (tmp_path / "test_a.py").write_text(TEST.format(group="numbers"))
    page = failures.updated(f"before\n{failures.BEGIN}\nold\n{failures.END}\nafter\n", tmp_path)
    assert "## Numbers\n" in page and "old" not in page
    assert "| a fault | ends | nothing | 75 | `test_of_it` |" in page
    assert page.startswith("before\n") and page.endswith("\nafter\n")


def test_a_fault_of_no_group_is_refused(tmp_path):
    (tmp_path / "test_a.py").write_text(TEST.format(group="others"))
    with pytest.raises(ConfigError, match="test_a.py::test_of_it: group 'others': expected one of"):
        failures.updated(f"{failures.BEGIN}{failures.END}", tmp_path)
    with pytest.raises(ConfigError, match="needs the lines"):
        failures.updated(failures.BEGIN, tmp_path)
