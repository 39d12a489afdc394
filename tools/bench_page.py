"""Puts saved measurements into the tables of a page.

python tools/bench_page.py --page=docs/performance.md --measurements=docs/measurements
"""

from pathlib import Path

from absl import flags
from bench import measurement, page

from jaxsft.cli import flags as jaxsft_flags

_PAGE = flags.DEFINE_string("page", "docs/performance.md", "the Markdown file")
_MEASURED = flags.DEFINE_string(
    "measurements", "docs/measurements", "folder of what tools/bench.py --save=FILE wrote"
)


def main() -> None:
    file = Path(_PAGE.value)
    saved = sorted(Path(_MEASURED.value).glob("*.json"))
    measured = [measurement.read(one.read_text(), str(one)) for one in saved]
    file.write_text(page.updated(file.read_text(), measured))


if __name__ == "__main__":
    jaxsft_flags.run_tool(main)
