"""Writes docs/failures.md's tables from what tests say of the faults that they inject.

python tools/failure_page.py [--page=docs/failures.md] [--tests=tests]
"""

from pathlib import Path

from absl import flags
from pages import failures

from jaxsft.cli import flags as jaxsft_flags

_PAGE = flags.DEFINE_string("page", "docs/failures.md", "the Markdown file")
_TESTS = flags.DEFINE_string("tests", "tests", "folder of the tests")


def main() -> None:
    page = Path(_PAGE.value)
    page.write_text(failures.updated(page.read_text(), Path(_TESTS.value)))


if __name__ == "__main__":
    jaxsft_flags.run_tool(main)
