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
_LOST_SECONDS = flags.DEFINE_float(
    "lost_seconds", 20.0, "a process with no sign of life for so long ends all others", 1.0
)
_HANG_SECONDS = flags.DEFINE_float(
    "hang_seconds",
    300.0,
    "a step that takes so long, and ten times the median of the steps before, ends the run with all"
    " stacks and the process that is behind; what has no steps, such as a compilation, may take 12"
    " times as long",
    1.0,
)


def start() -> None:
    jaxsft_flags.run_program(main, required=("workdir",), with_base=True)


def main(config: Config, base: Config) -> None:
    if _CONTINUE_FROM.value is not None:
        config = jaxsft_flags.override(config, "model.continue_from", _CONTINUE_FROM.value)
        validate(config)
    from jaxsft.rundir.checkpoint import background
    from jaxsft.rundir.workdir import opened

    with background.left_behind(), opened(flags.FLAGS.workdir) as workdir:
        _run(config, base, workdir)


def _run(config: Config, base: Config, workdir: "Workdir") -> None:
    workdir.forget(run_names.ERROR)
    # jax, flax and transformers take seconds to import: not before the command line is known good.
    from jaxsft.devices import cloud_notices, distributed, peers
    from jaxsft.report import endings
    from jaxsft.run import run
    from jaxsft.rundir.run_files import Command
    from jaxsft.training import too_large

    clock = StartClock()
    clock.ended("imports")
    patience = peers.Patience(_LOST_SECONDS.value, _HANG_SECONDS.value)
    distributed.connect(
        *jaxsft_flags.peers(),
        lambda line: print(line, file=sys.stderr, flush=True),
        max(100, 3 * patience.lost_seconds),  # jax must not come first
    )
    command = ["python", "-m", "jaxsft.train", *sys.argv[1:]]

    def end(error: BaseException) -> None:
        endings.write_ending(workdir, error)

    notices = cloud_notices.followed(_CLOUD_NOTICES.value, _obey)
    with notices, peers.listening(end, patience) as listener:
        try:
            given = Command(shlex.join(command), flags.FLAGS.config, base)
            run(config, workdir, given, _ALLOW_CHANGED.value or (), clock)
        except BaseException as raised:  # a stop too
            stop = signals.stop_behind(raised)
            refusal = places.user_error(raised, workdir.name) or too_large.ran_out(raised, config)
            error = stop or refusal or raised
            listener.leave(error)
            if error is raised:
                raise
            raise error from (None if stop else raised)


def _obey(notice: "Notice") -> None:
    if notice.stops:
        signals.notice(notice.words)
    print(f"cloud      {notice.words}", file=sys.stderr, flush=True)
