"""Fine-tunes a pretrained model on conversations, from prepared data to an exported model.

    python -m jaxsft.train --config=configs/quickstart.py --workdir=runs/quickstart

Started again with the same flags, it goes on from its last checkpoint.
"""

import shlex
import sys
from typing import TYPE_CHECKING

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config, validate
from jaxsft.files import places, run_names
from jaxsft.terminal import signals
from jaxsft.terminal.start_clock import StartClock

if TYPE_CHECKING:
    from jaxsft.devices.cloud_notices import Notice
    from jaxsft.rundir.workdir import Workdir

jaxsft_flags.define_config()
flags.DEFINE_string(
    "workdir",
    None,
    "directory of this run, local or gs://; started again, the run goes on there",
)
_CONTINUE_FROM = flags.DEFINE_string(
    "continue_from",
    None,
    "RUN or RUN:step, the directory of another run: begins with its weights, at step 0",
)
_ALLOW_CHANGED = flags.DEFINE_list(
    "allow_changed",
    [],
    "fields that decide the result and may differ from when this run began, such as"
    " optim.peak_lr,data; each is named by the refusal that it lifts",
)
_CLOUD_NOTICES = flags.DEFINE_enum(
    "cloud_notices",
    "auto",
    ["auto", "off", "gce"],
    "whose notices that this machine is taken back end the run, as a signal would: those of the"
    " cloud that the machine is of, of none, or of Google",
)
jaxsft_flags.define_peers()


def start() -> None:
    jaxsft_flags.run_program(main, required=("workdir",))


def main(config: Config) -> None:
    if _CONTINUE_FROM.value is not None:
        config = jaxsft_flags.override(config, "model.continue_from", _CONTINUE_FROM.value)
        validate(config)
    from jaxsft.rundir.checkpoint import background
    from jaxsft.rundir.workdir import opened

    with background.left_behind(), opened(flags.FLAGS.workdir) as workdir:
        _run(config, workdir)


def _run(config: Config, workdir: "Workdir") -> None:
    workdir.forget(run_names.ERROR)
    # jax, flax and transformers take seconds to import: not before the command line is known good.
    from jaxsft.devices import cloud_notices, distributed, peers
    from jaxsft.report import endings
    from jaxsft.run import run
    from jaxsft.training import too_large

    clock = StartClock()
    clock.ended("imports")
    distributed.connect(
        *jaxsft_flags.peers(), lambda line: print(line, file=sys.stderr, flush=True)
    )
    command = ["python", "-m", "jaxsft.train", *sys.argv[1:]]

    def end(error: BaseException) -> None:
        endings.write_ending(workdir, error)

    with cloud_notices.followed(_CLOUD_NOTICES.value, _obey), peers.listening(end):
        try:
            run(config, workdir, shlex.join(command), _ALLOW_CHANGED.value or (), clock)
        except BaseException as raised:  # a stop too
            stop = signals.stop_behind(raised)
            refusal = places.user_error(raised, workdir.name) or too_large.ran_out(raised, config)
            error = stop or refusal or raised
            peers.leave(error, end)
            if error is raised:
                raise
            raise error from (None if stop else raised)


def _obey(notice: "Notice") -> None:
    print(f"cloud      {notice.words}", file=sys.stderr, flush=True)
    if notice.stops:
        signals.notice(notice.words)
