"""`prepare` and `inspect` show the same split, and with it where each row went."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from jaxsft.data.quality import division
from tests import programs

ROOT = Path(__file__).resolve().parents[3]
DEBUG = f"--config={ROOT}/configs/debug.py"
REPEATED = ROOT / "configs" / "debug_data" / "train.jsonl"


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    """Of debug's data, but that its first source repeats three of its rows at its end."""
    folder = tmp_path_factory.mktemp("held")
    rows = REPEATED.read_text().splitlines(keepends=True)
    (folder / "again.jsonl").write_text("".join([*rows, *rows[2:5]]))
    return [
        DEBUG,
        f"--config.data.train[0].path={folder / 'again.jsonl'}",
        f"--config.data.cache_dir={folder / 'cache'}",
        "--config.data.holdout=6",
        "--config.data.duplicates=drop_exact",
    ]


@pytest.fixture(scope="module")
def prepared(flags, tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "report.json"
    done = programs.tool("prepare_data", *flags, f"--output={report}")
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(report.read_text())


def inspected(flags, *more) -> list[dict]:
    done = programs.tool("inspect_data", *flags, "--format=jsonl", *more)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_report_has_all_counts(prepared):
    said, report = prepared
    train, held = report["train"], report["eval"]["holdout"]
    assert (train["rows_in"], train["rows_out"], train["held_out"]) == (63, 54, 6)
    assert train["dropped"] == {division.EXACT: 3}
    assert held["rows_in"] == held["rows_out"] == 6
    assert held["overlap"]["exact"]["rows"] == held["overlap"]["near"]["rows"] == 0
    assert list(report["eval"]) == ["holdout", "heldout"]
    assert "63 rows = 54 used + 6 held out + 3 dropped" in said
    assert re.search(rf"3 dropped, \d.\d% of the tokens: {division.EXACT}", said)
    assert re.search(
        r"for example \S+again.jsonl:49, after \S+again.jsonl:3", " ".join(said.split())
    )
    assert "Rows and tokens of eval holdout" in said
    # The directories that it names hold the same account.
    caches = re.findall(r"^cache +(\S+)$", said, re.MULTILINE)
    assert len(caches) == 3
    assert json.loads((Path(caches[0]) / "report.json").read_text())["held_out"] == 6
    assert json.loads((Path(caches[1]) / "report.json").read_text())["rows_out"] == 6


def test_inspect_shows_the_same_rows(flags, prepared):
    _, report = prepared
    rows = inspected(flags)
    why = Counter(row.get("dropped", "trained") for row in rows)
    held = "held out: an evaluation row, by data.holdout"
    assert why == {"trained": 54, held: 6, division.EXACT: 3}
    of_eval = inspected(flags, "--split=eval", "--source=holdout")
    assert all("dropped" not in row for row in of_eval)
    assert [(r["file"], r["row"]) for r in of_eval] == [
        (r["file"], r["row"]) for r in rows if r.get("dropped") == held
    ]
    assert sum(len(row["ids"]) for row in of_eval) == report["train"]["tokens"]["held_out"]
    both = inspected(flags, "--split=eval")
    assert both[:6] == of_eval and len(both) > 6


def test_a_set_of_that_name_is_refused(flags):
    done = programs.tool("prepare_data", *flags, "--config.data.eval[0].name=holdout")
    assert done.returncode == 64
    assert "config.data.eval[0].name=holdout: so is the set called" in done.stderr


def test_too_many_rows_are_bad_data(flags):
    others = [flag for flag in flags if "holdout" not in flag]
    done = programs.tool("prepare_data", *others, "--config.data.holdout=60")
    assert done.returncode == 65
    assert "config.data.holdout=60: of the 60 rows that can be trained on" in done.stderr


def test_a_figure_that_no_set_has_is_refused(flags):
    others = ("--config.checkpoint.best=eval/holdout/los", "--config.eval.every_steps=5")
    done = programs.tool("prepare_data", *flags, *others)
    assert done.returncode == 64
    assert "checkpoint.best=eval/holdout/los: " in done.stderr and "holdout/loss" in done.stderr


def test_fewer_rows_than_were_asked_for_are_no_secret(tmp_path):
    """20 rows have one prompt and stay together."""
    rows = [("Which number is next?", f"It is {n}.") for n in range(20)]
    rows += [(f"What colour has thing {n}{n}?", f"Shade {n} of {n * 7}.") for n in range(10)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in rows))
    done = programs.tool(
        "prepare_data",
        DEBUG,
        f'--config.data.train=[{{"path": "{file}"}}]',
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        "--config.data.holdout=15",
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "10 rows are held out where data.holdout=15 asks for 15 of 30" in said
