"""Several runs on one page: what differs, what came of it, curves on the same axes."""

import json
from pathlib import Path

import pytest

from jaxsft.errors import ConfigError
from jaxsft.report import run_read
from jaxsft.report.page import compare, curves
from tests.report.test_verdict import RUNS, write_run


@pytest.fixture
def directories(tmp_path) -> list[Path]:
    found = []
    for place, kind in enumerate(("worked", "forgot", "worked")):
        directory = tmp_path / f"{place}" / "run"
        directory.mkdir(parents=True)
        write_run(directory, **RUNS[kind])
        config = {"optim": {"peak_lr": 1e-5 * (1 + place), "weight_decay": 0.5}, "lora": None}
        config |= {"lora": {"rank": 4}} if place == 2 else {}
        (directory / "config.json").write_text(json.dumps(config))
        found.append(directory)
    return found


def test_what_differs_stands_first(directories, tmp_path):
    said = compare.write_comparison(directories, tmp_path / "both.html")
    assert [name for name, _ in said] == ["0/run", "1/run", "2/run"]
    assert "forgot other things" in said[1][1]
    page = (tmp_path / "both.html").read_text()
    assert page.index("optim.peak_lr") < page.index("It worked") < page.index("<svg")
    assert "optim.weight_decay" not in page and "lora.rank" in page
    runs = [run_read.read_run(directory) for directory in directories]
    assert ("lora.rank", ["–", "–", "4"]) in compare.differences(runs)
    rows = dict(compare.figures(runs))
    assert [cell.best for cell in rows["prose: loss"]] == [True, False, True]
    assert not any(cell.best for cell in rows["held: loss"])  # all alike


def test_each_run_has_its_colour_on_the_same_axes(directories):
    runs = [run_read.read_run(directory) for directory in directories[:2]]
    loss, *_ = curves.charts_of(runs)
    assert len(loss.curves) == 6 and {curve.color for curve in loss.curves} == {1, 2}
    assert all(curve.name.startswith("run: ") for curve in loss.curves)


def test_the_same_run_twice_has_two_names(tmp_path):
    assert compare.names_of([tmp_path, tmp_path]) == [f"1: {tmp_path.name}", f"2: {tmp_path.name}"]


def test_what_is_no_run_is_refused(directories, tmp_path):
    from jaxsft.cli.programs import compare_runs

    with pytest.raises(ConfigError, match="nothing: is no directory of a run"):
        compare_runs.main(str(directories[0]), str(tmp_path / "nothing"))
