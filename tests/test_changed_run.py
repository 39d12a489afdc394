"""A run that goes on with other values: refused at once, or let through, said and kept."""

import json
import re

import pytest

from tests.faults import fault
from tests.programs import train

SHORT = (
    *("--config.eval.prompts=0", "--config.eval.every_steps=None"),
    *("--config.data.eval=[]", "--config.checkpoint.export=false"),
)
SAVING = "--config.checkpoint.save_every_steps=2"
OTHER = ("--config.optim.peak_lr=1e-3", "--config.data.train_on=last_turn")


@fault(
    "checkpoints",
    "a command with other values than the run began with",
    "refused before anything is compiled, with old and new values, and the flag that allows them",
    lost="nothing",
    code=66,
)
@pytest.mark.slow  # five runs
def test_allowed_changes_are_made_said_and_kept(tmp_path):
    """Other data too: the run goes on at the same place of theirs."""
    train(tmp_path, *SHORT, "--config.train.steps=4", SAVING)
    longer = ("--config.train.steps=6",)
    refused = train(tmp_path, *SHORT, *longer, *OTHER, check=False)
    assert refused.returncode == 66
    assert "config.optim.peak_lr was 0.003 when this run began and is 0.001 now" in refused.stderr
    assert "--allow_changed=optim.peak_lr" in refused.stderr
    assert not re.search("^(data|plan|step) ", refused.stdout, re.MULTILINE)  # nothing took time

    half = train(tmp_path, *SHORT, *longer, *OTHER, "--allow_changed=optim.peak_lr", check=False)
    assert half.returncode == 66 and "prepared training data was " in half.stderr
    assert "--allow_changed=data" in half.stderr

    both = "--allow_changed=config.optim.peak_lr,data,train.seed"
    done = train(tmp_path, *SHORT, *longer, *OTHER, SAVING, both)
    said = "config.optim.peak_lr was 0.003 and is 0.001 after step 4, as --allow_changed asks"
    assert f"warning: {said}" in done.stdout and "from step 4 of 6" in done.stdout
    assert "note: config.train.seed is as it was" in done.stdout
    changes = json.loads((tmp_path / "summary.json").read_text())["changes"]
    assert [(one["field"], one["step"]) for one in changes] == [
        ("config.optim.peak_lr", 4),
        ("prepared training data", 4),
    ]
    assert "config.optim.peak_lr changed from 0.003 to 0.001 after step 4" in (
        (tmp_path / "report.html").read_text()
    )
    # Its checkpoints know the new values, and that there were others.
    again = train(tmp_path, *SHORT, "--config.train.steps=7", *OTHER)
    assert "allow_changed" not in again.stdout and "from step 6 of 7" in again.stdout
    assert json.loads((tmp_path / "summary.json").read_text())["changes"] == changes
