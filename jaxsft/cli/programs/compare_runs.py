"""Puts several runs on one page: what differs in their configs, verdicts, curves on the same axes.

    python tools/compare_runs.py RUN RUN ... [--output=compared.html]

Each is the directory of a run, finished or not.
"""

from pathlib import Path

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.errors import ConfigError
from jaxsft.files import run_names

_OUTPUT = flags.DEFINE_string("output", "compared.html", "the page to write")


def start() -> None:
    jaxsft_flags.run_tool(main, words=("RUN", "RUN", jaxsft_flags.MORE))


def main(*directories: str) -> None:
    # It takes a second to import: not before the command line is known good.
    from jaxsft.report.page import compare

    for name in directories:
        if not any((Path(name) / file).is_file() for file in (run_names.CONFIG, run_names.METRICS)):
            raise ConfigError(
                f"{name}: is no directory of a run: it has neither {run_names.CONFIG} nor"
                f" {run_names.METRICS}"
            )
    output = Path(_OUTPUT.value or "compared.html")
    if not output.parent.is_dir():
        raise ConfigError(f"--output={output}: {output.parent} is no directory")
    found = compare.write_comparison([Path(name) for name in directories], output)
    for name, said in found:
        print(f"{name}: {said}")
    print(f"{output} compares {len(found)} runs")
