"""What a finished run says of the files that it left."""

import json
from typing import Any

import pytest

from jaxsft.evaluation.scoring.table import table
from jaxsft.files import records
from jaxsft.report import last_lines
from jaxsft.report import summary as summary_file
from jaxsft.report.summary import Summary
from jaxsft.rundir.sample import Sample
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


class Lines:
    """A console that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.names: list[str] = []

    def say(self, what: str, line: str) -> None:
        self.said.append(f"{what} {line}")

    def table(self, title: str, head: Any, rows: list[tuple[str, ...]]) -> None:
        self.names += [row[0] for row in rows]


def test_the_end_says_what_the_answers_are_worth_and_how_sure_that_is(tmp_path):
    samples = [
        Sample(phase=phase, source="held", row=row, scores={"exact": row < right})
        for phase, right in (("before", 1), ("after", 9))
        for row in range(16)
    ]
    figures = {"eval/held/exact": 0.0625, "eval/held/loss": 2.0, "eval/held/perplexity": 7.4}
    summary = Summary(steps=3, command="train", before=figures, scores=table(samples))
    console: Any = Lines()
    last_lines.show(summary, Workdir("runs/x", tmp_path), console)
    said = "scores held exact 6.2 % -> 56.2 % of 16 (95 % 33 to 77), p = 0.008"
    assert said in console.said and console.names == ["held/exact", "held/loss"]
    assert console.said[-3:] == [
        "compare python tools/compare_runs.py runs/x ANOTHER_RUN",
        "next run python -m jaxsft.train  --workdir=runs/x_2 --config.FIELD=VALUE",
        "tokens python tools/inspect_data.py  --limit=3",
    ]
    written = json.loads(json.dumps(records.to_json(summary)))
    assert list(summary_file.from_json(written).scores) == list(summary.scores)
    assert not summary.without_its_end().scores


def test_the_end_says_how_to_talk_to_it_how_to_compare_it_and_what_comes_next():
    command = "python -m jaxsft.train --config=c.py --config.optim.peak_lr=1e-5 --workdir='my run'"
    summary = Summary(command=command, export="my run/export")
    assert last_lines.next_commands(summary, "my run/") == [
        ("talk", "python tools/chat.py '--model=my run'"),
        ("compare", "python tools/compare_runs.py 'my run' ANOTHER_RUN"),
        (
            "next run",
            "python -m jaxsft.train --config=c.py --config.optim.peak_lr=1e-5"
            " '--workdir=my run_2' --config.FIELD=VALUE",
        ),
        (
            "tokens",
            "python tools/inspect_data.py --config=c.py --config.optim.peak_lr=1e-5 --limit=3",
        ),
    ]
    remote = last_lines.next_commands(summary, "gs://bucket/run")
    assert [what for what, _ in remote] == ["compare", "next run", "tokens"]
