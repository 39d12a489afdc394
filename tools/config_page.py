"""Writes docs/config.md: every field of a config, from its declaration.

python tools/config_page.py [--page=docs/config.md]
"""

from pathlib import Path

from absl import flags
from pages import config_fields

from jaxsft.cli import flags as jaxsft_flags

_PAGE = flags.DEFINE_string("page", "docs/config.md", "the Markdown file")


def main() -> None:
    Path(_PAGE.value).write_text(config_fields.page())


if __name__ == "__main__":
    jaxsft_flags.run_tool(main)
