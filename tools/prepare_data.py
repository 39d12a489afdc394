"""Makes the caches of a run's data ahead of it and prints what there is to know of them.

    python tools/prepare_data.py --config=configs/x.py [--output=data_report.json]
        [--beam=--runner=DataflowRunner,--project=P]

Exit status 65 with file:line and reason of each bad row, when data.bad_rows does not allow them.
--beam prepares with Apache Beam; data.cache_dir must then be a folder that all its workers share.
"""

from pathlib import Path

from absl import flags

from jaxsft import flags as jaxsft_flags
from jaxsft import setup
from jaxsft.config import Config
from jaxsft.console import Console
from jaxsft.data import beam
from jaxsft.data.cache import write_json
from jaxsft.data.gate import report_text as gate_text
from jaxsft.data.gate.survey import survey

jaxsft_flags.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "File for the report as JSON.")
_BEAM = flags.DEFINE_list("beam", None, "Options of an Apache Beam pipeline that prepares.")


def main(config: Config) -> None:
    console = Console()
    base = setup.open_model(config, console.say, weights=False)
    make = None if _BEAM.value is None else beam.maker(_BEAM.value)
    data = setup.prepare_data(config, base, console, make)
    report = survey(config.data, config.train, data.train, data.eval)
    console.show(lambda terminal: gate_text.print_report(report, terminal))
    for cache in (data.train, *data.eval.values()):
        console.say("cache", str(cache.directory))
    write_json(Path(_OUTPUT.value or data.train.directory / "data_report.json"), report)


if __name__ == "__main__":
    jaxsft_flags.run_program(main)
