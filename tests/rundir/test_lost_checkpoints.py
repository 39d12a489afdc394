"""A run that must have saved does not begin again from step 0 where its checkpoints are away."""

import contextlib

import pytest

from jaxsft.config import Checkpoint
from jaxsft.errors import CheckpointError
from jaxsft.rundir import resume
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.run_files import Outputs
from jaxsft.rundir.saver import Saver
from jaxsft.rundir.workdir import Workdir
from jaxsft.rundir.writers.history import History
from jaxsft.rundir.writers.writer import Writers
from jaxsft.terminal.console import Console
from tests.faults import fault

LOST = "checkpoints: has no checkpoint, but by metrics.jsonl this run did .* is a disk not mounted"


@fault(
    "checkpoints",
    "a disk of checkpoints that is not mounted",
    "ends instead of beginning anew",
    lost="nothing",
    code=66,
)
@pytest.mark.parametrize("saves", ['"save_every_steps": 10', '"save_times_per_epoch": 2'])
@pytest.mark.parametrize(
    ("done", "skipped", "left", "failures", "refused"),
    [
        (10, 0, (), 0, False),
        (11, 0, (), 0, True),  # step 11 begins when the save of 10 has
        (13, 3, (), 0, False),  # 10 to 12 put it off
        (11, 0, ("10",), 0, False),  # which was never completed
        (20, 0, ("10", "20"), 0, False),
        (21, 0, ("10", "20"), 0, True),  # the save of 20 waited for that of 10
        (40, 0, ("10", "20"), 2, False),  # the disk was full
        (41, 0, ("10", "20"), 2, True),
    ],
)
def test_a_run_does_not_begin_again_where_it_must_have_saved(
    tmp_path, done, skipped, left, failures, refused, saves
):
    workdir, lines = Workdir("w", tmp_path), JsonLines(tmp_path / "metrics.jsonl")
    store = CheckpointStore(workdir.checkpoints, keep=1)
    metrics = Writers(History(tmp_path / "metrics.jsonl"))
    console = Console(speaks=False)
    out = Outputs(workdir, console, metrics, lines, store, Saver(store, Checkpoint(), console.say))
    resume.refuse_lost_checkpoints(out)
    (tmp_path / "config.json").write_text(f'{{"checkpoint": {{{saves}}}}}')
    # 20 steps are an epoch.
    line = {"step": done, "loss": 1.0, "skipped_steps": skipped, "epoch": done / 20}
    lines.append(line | {"checkpoint_failures": failures})
    for name in left:
        (workdir.checkpoints / name).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=LOST) if refused else contextlib.nullcontext():
        resume.refuse_lost_checkpoints(out)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(CheckpointError, match=LOST):
        resume.refuse_lost_checkpoints(out)
