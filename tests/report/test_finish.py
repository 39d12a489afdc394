"""What a finished run says of the files that it left."""

import pytest

from jaxsft.report import last_lines
from jaxsft.rundir.workdir import Workdir


def test_answers_are_named_where_there_are_any(tmp_path):
    workdir = Workdir("runs/x", tmp_path)
    metrics, samples = (tmp_path / name for name in ("metrics.jsonl", "samples.jsonl"))
    assert last_lines.where_figures_are(workdir) == str(metrics)
    samples.write_text("")
    assert last_lines.where_figures_are(workdir) == str(metrics)
    samples.write_text("{}\n")
    assert last_lines.where_figures_are(workdir) == f"{metrics}; answers in {samples}"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python -m jaxsft.train --config=c.py --workdir=w", "--config=c.py"),
        ("python -m jaxsft.train --config 'my c.py' --workdir=w", "--config 'my c.py'"),
        (
            "train -config=c.py --workdir=w --config.data.train[0].path='a b' -config.train.seed=1",
            "-config=c.py '--config.data.train[0].path=a b' -config.train.seed=1",
        ),
    ],
)
def test_the_command_to_look_at_the_data_has_the_same_config(command, expected):
    assert last_lines.config_flags(command) == expected
