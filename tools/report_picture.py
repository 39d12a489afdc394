"""The first screen of a run's report as a picture, drawn by a browser.

    python tools/report_picture.py --workdir=runs/quickstart --output=docs/report.png

Needs chromium.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.errors import ConfigError
from jaxsft.files import run_names
from jaxsft.report.page.write import write_report

_WORKDIR = flags.DEFINE_string("workdir", None, "a run's directory, whose report is written anew")
_OUTPUT = flags.DEFINE_string("output", None, "the .png file")
_SIZE = flags.DEFINE_string("size", "1180,1000", "of the window, in pixels")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SECONDS = 240


def main() -> None:
    workdir = Path(jaxsft_flags.given(_WORKDIR))
    output = Path(jaxsft_flags.given(_OUTPUT)).resolve()
    if not (workdir / run_names.METRICS).is_file():
        raise ConfigError(f"--workdir={workdir}: holds no {run_names.METRICS}")
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise ConfigError(f"a browser is missing: none of {', '.join(_BROWSERS)} is installed")
    page = write_report(workdir).resolve()
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={profile}", "--virtual-time-budget=2000"),
                *(f"--window-size={_SIZE.value}", f"--screenshot={output}", f"file://{page}"),
            ],
            check=True,
            capture_output=True,
            timeout=_SECONDS,
        )
    print(f"{output}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    jaxsft_flags.run_tool(main, required=("workdir", "output"))
