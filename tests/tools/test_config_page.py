"""docs/config.md is what the config's declaration says."""

from pages import config_fields

from tests.programs import ROOT


def test_the_page_is_that_of_the_config():
    page = (ROOT / "docs" / "config.md").read_text()
    assert config_fields.page() == page, "python tools/config_page.py"


def test_a_row_has_type_default_and_meaning():
    lines = config_fields.page().splitlines()
    (rate,) = (line for line in lines if line.startswith("| `peak_lr`"))
    assert rate == "| `peak_lr` | float | *must be given* | learning rate that warmup ends at |"
    assert "### Regex" in lines and any(line.startswith("| `pattern` | str |") for line in lines)
