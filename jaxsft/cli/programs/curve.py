"""Says whether more data would help, or better data: trains on shares of the rows.

    jaxsft curve --config=configs/x.py --workdir=runs/x_curve [--shares=0.25,0.5,1]

Each share is a run in a directory of its own, with the config's epochs and held-out data; a smaller
share is part of a larger one. Started again, it goes on: what is finished is not trained again.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.cli.programs import train
from jaxsft.config import Config, validate
from jaxsft.errors import ConfigError
from jaxsft.files import places, records, run_names

if TYPE_CHECKING:
    from jaxsft.evaluation.data_curve import Curve, Point
    from jaxsft.terminal.console import Console

_SHARES = flags.DEFINE_list("shares", ["0.25", "0.5", "1"], "of the rows, rising")


def start() -> None:
    jaxsft_flags.run_program(main, required=("workdir",), with_base=True)


def main(config: Config, base: Config) -> None:
    config = train.continued(config)
    # These take seconds to import: not before the command line is known good.
    from jaxsft.evaluation import data_curve
    from jaxsft.terminal.console import Console

    shares = data_curve.shares_of(_SHARES.value or ())
    configs = {share: data_curve.config_of(config, share) for share in shares}
    for one in configs.values():
        validate(one)
    workdir = _directory()
    curve = data_curve.read(workdir / run_names.CURVE)
    console = Console()
    for number, (share, of_share) in enumerate(configs.items(), 1):
        console.say("curve", f"{100 * share:.4g} % of the rows, run {number} of {len(configs)}")
        point = _point(curve.point(share), of_share, base, workdir, share, console)
        others = [one for one in curve.points if one.share in configs and one.share != share]
        curve = data_curve.of_points([*others, point])
        with places.using(f"--workdir={workdir}"):
            records.write(workdir / run_names.CURVE, curve)
    _show(curve, workdir, console)


def _directory() -> Path:
    """
    Raises:
        ConfigError: it is in a bucket, can't be written, or another process has several of these.
    """
    name = flags.FLAGS.workdir
    if "://" in name:
        raise ConfigError(f"--workdir={name}: must be a local directory, for the runs are compared")
    if (flags.FLAGS.num_processes or 1) > 1:
        raise ConfigError(
            f"--num_processes={flags.FLAGS.num_processes}: the runs are compared by one process;"
            " train them with `train --config.data.share=...` in the directories share_25, share_50"
            " ... of one, and start this there"
        )
    flags.FLAGS.num_processes = 1  # several runs one after the other, of which each would join
    places.make_writable(Path(name), f"--workdir={name}")
    return Path(name)


def _point(
    known: "Point | None",
    config: Config,
    base: Config,
    workdir: Path,
    share: float,
    console: "Console",
) -> "Point":
    """The point of this share: that of an earlier start, or of a run that is trained now.

    Raises:
        ConfigError: it was trained with other values.
    """
    from jaxsft.evaluation import data_curve
    from jaxsft.report import curve_point
    from jaxsft.rundir import identity

    directory = workdir / data_curve.directory_of(share)
    if known is not None:
        now = json.loads(json.dumps(identity.identity(config)))
        changed = identity.changes(known.identity, now)
        if changed:
            said = "; ".join(f"{c.field} was {c.before!r} and is {c.now!r}" for c in changed)
            raise ConfigError(
                f"{directory}: was trained with other values: {said}; go back, or use"
                " another --workdir"
            )
        console.say("curve", f"{directory.name} is done")
        return known
    if not curve_point.is_finished(directory):
        train.run_in(str(directory), config, base, _command(config, directory))
    return curve_point.point_of(directory, share, config)


def _command(config: Config, directory: Path) -> Sequence[str]:
    """What trains this share alone."""
    own = {
        "--workdir": directory,
        "--config.data.share": config.data.share,
        "--config.train.steps": config.train.steps,
        "--config.optim.warmup_steps": config.optim.warmup_steps,
    }
    ours = {*own, "--shares"}
    given = [one for one in sys.argv[1:] if one.partition("=")[0] not in ours]
    added = [f"{name}={value}" for name, value in own.items() if value is not None]
    return ["python", "-m", "jaxsft.train", *given, *added]


def _show(curve: "Curve", workdir: Path, console: "Console") -> None:
    from jaxsft.report import curve_point

    console.table("On held-out data", curve_point.head(curve), curve_point.rows(curve))
    for line in curve.says:
        console.say("curve", line)
    console.say(
        "curve",
        "a point is one run, which another seed moves too; with the same epochs fewer rows are"
        " fewer steps",
    )
    console.say("curve", str(workdir / run_names.CURVE))
