"""The page where it is read: in a browser, whose console stays empty."""

import re
import shutil
import subprocess

import pytest

from tests.report.test_page_size import hostile_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_no_console_error_and_curves_that_the_script_drew(tmp_path):
    path = hostile_run(tmp_path)
    assert BROWSER is not None
    found = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"),
            *("--window-size=390,900", "--dump-dom", f"file://{path}"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "CONSOLE" not in found.stderr, found.stderr[-2000:]
    page = found.stdout
    assert re.search(r"<title>[^<]*</title>", page)[0].endswith("jaxsft report</title>")  # pyright: ignore
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert svgs and all("clip-path" in svg and "NaN" not in svg for svg in svgs)
    assert 'id="curve-tools" class="tools"' in page  # no longer hidden
    assert not re.search(r'<p id="filter"[^>]*hidden', page)
