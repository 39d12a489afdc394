"""Makes the caches of a run's data ahead of it and prints what there is to know of them.

    python tools/prepare_data.py --config=configs/x.py [--output=data_report.json]
        [--beam=--runner=DataflowRunner,--project=P]

Refuses what `train` would refuse, as far as no device is needed for it: exit status 64 where the
config, its data and its model don't fit each other, 65 with file:line and reason of each bad row,
when data.bad_rows does not allow them.
--beam prepares with Apache Beam; data.cache_dir must then be a folder that all its workers share.
"""

from pathlib import Path

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.files import places, records, run_names
from jaxsft.training import inputs

jaxsft_flags.define_config()
_OUTPUT = flags.DEFINE_string("output", None, "File for the report as JSON.")
_BEAM = flags.DEFINE_list("beam", None, "Options of an Apache Beam pipeline that prepares.")


def start() -> None:
    jaxsft_flags.run_program(main)


def main(config: Config) -> None:
    # These take seconds to import: not before the command line is known good.
    from jaxsft.data.cache import beam
    from jaxsft.data.cache.store import write_json
    from jaxsft.data.pack.epochs import epochs_of
    from jaxsft.data.report import from_caches
    from jaxsft.data.report import text as report_text
    from jaxsft.devices import mesh
    from jaxsft.evaluation import answers, asked
    from jaxsft.evaluation.losses import figures_of
    from jaxsft.evaluation.scoring import registry
    from jaxsft.rundir.watch import watch_of
    from jaxsft.terminal.console import Console
    from jaxsft.training import mesh_fit, preflight

    if _OUTPUT.value is not None:
        places.make_writable(Path(_OUTPUT.value).absolute().parent, f"--output={_OUTPUT.value}")
    console = Console()
    base = inputs.open_model(config, console.say, weights=False)
    preflight.check_config(config, base.settings)
    scorers = registry.scorers_of(config.eval)
    if config.data.holdout is None:  # else all rows have to be read first
        answers.held_out_prompts(config.data, config.eval.prompts)
    make = None if _BEAM.value is None else beam.maker(_BEAM.value)
    data = inputs.prepare_data(config, base, console, make)
    answers.held_out_prompts(config.data, config.eval.prompts, data.train)
    scores = asked.scores_of(config.eval, scorers, data.eval)
    watch_of(config.checkpoint, config.eval, figures_of(data.eval), scores)
    planned = epochs_of(
        data.train,
        config.data.train,
        sequence_length=config.data.sequence_length,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
    )
    preflight.steps_of_run(config, planned)
    trained = preflight.num_trained(config, base)
    shares = mesh.parts("batch", mesh_fit.given_sizes(config.mesh))
    report = from_caches.report_of(
        config.data,
        config.train,
        data.train,
        data.eval,
        planned,
        shares,
        preflight.method_hints(config, trained, planned, data.train),
    )
    console.show(lambda terminal: report_text.print_report(report, terminal))
    for cache in (data.train, *data.eval.values()):
        console.say("cache", str(cache.directory))
    write_json(
        Path(_OUTPUT.value or data.train.directory / run_names.DATA_REPORT), records.to_json(report)
    )
