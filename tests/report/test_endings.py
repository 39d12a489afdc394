"""A run that ends before its time leaves its reason and its report, whatever fails on the way."""

import json
import os
import signal

import pytest

from jaxsft import errors
from jaxsft.report import endings
from jaxsft.rundir.workdir import Workdir


@pytest.fixture
def workdir(tmp_path) -> Workdir:
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "loss": 2.0}\n')
    (tmp_path / "data_report.json").write_text('{"plan": {"steps": 9}}')
    return Workdir("runs/x", tmp_path)


def page(workdir: Workdir) -> str:
    return (workdir.files / "report.html").read_text()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.DataError("a.jsonl:3: is empty"), errors.BAD_DATA),
        (errors.DivergedError("a.jsonl:3: is empty"), errors.DIVERGED),
        (RuntimeError("a.jsonl:3: is empty"), errors.INTERNAL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_leaves_its_error_and_a_report_of_it(workdir, capsys, error, code):
    endings.write_ending(workdir, error)
    saved = json.loads((workdir.files / "error.json").read_text())
    assert saved["exit_code"] == code and saved["message"] == "a.jsonl:3: is empty"
    assert "failed after step 4 of 9" in page(workdir) and "a.jsonl:3: is empty" in page(workdir)
    assert "report.html shows the run up to here" in capsys.readouterr().err


def test_a_failure_before_there_is_anything_has_a_report(tmp_path):
    endings.write_ending(Workdir("w", tmp_path), errors.DataError("a.jsonl:3: is empty"))
    text = (tmp_path / "report.html").read_text()
    assert "failed before its first step" in text and "a.jsonl:3: is empty" in text


@pytest.mark.parametrize("stop", [errors.Stopped("stopped by SIGTERM"), KeyboardInterrupt()])
def test_a_stop_is_no_error_and_has_its_report(workdir, stop):
    endings.write_ending(workdir, stop)
    assert "stopped after step 4 of 9" in page(workdir)
    assert "ended early: stopped by SIG" in page(workdir)
    assert not (workdir.files / "error.json").exists()


def test_one_process_reports(workdir):
    workdir.reports = False
    endings.write_ending(workdir, ValueError("mine"))
    assert {path.name for path in workdir.files.iterdir()} == {
        *("metrics.jsonl", "data_report.json", "error.json")
    }


def test_a_report_that_fails_is_one_line(workdir, monkeypatch, capsys):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(endings, "write_report", fails)
    endings.write_ending(workdir, errors.DataError("why"))
    said = capsys.readouterr().err
    assert said == "note: report.html: OSError: [Errno 28] No space left on device\n"
    endings.report_leftover(workdir)
    assert capsys.readouterr().err == said


def test_a_signal_during_the_report_ends_the_report_alone(workdir, monkeypatch, capsys):
    monkeypatch.setattr(
        endings, "write_report", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or workdir.files
    )
    endings.write_ending(workdir, errors.Stopped("stopped by SIGINT"))
    assert "note: report.html: Stopped: stopped by SIGTERM" in capsys.readouterr().err


def test_what_a_killed_run_left_gets_its_report_at_the_next_start(workdir):
    endings.report_leftover(workdir)
    assert "stopped after step 4 of 9" in page(workdir) and "it was killed" in page(workdir)
    before = (workdir.files / "report.html").stat().st_mtime_ns
    endings.report_leftover(workdir)  # it has one
    assert (workdir.files / "report.html").stat().st_mtime_ns == before
    later = before + 10**9
    os.utime(workdir.files / "metrics.jsonl", ns=(later, later))  # went on, and was killed again
    endings.report_leftover(workdir)
    assert (workdir.files / "report.html").stat().st_mtime_ns > before


def test_a_finished_run_whose_files_were_copied_was_not_killed(workdir):
    (workdir.files / "summary.json").write_text('{"steps": 4}')  # newer than its page
    endings.report_leftover(workdir)
    assert "finished" in page(workdir) and "killed" not in page(workdir)


def test_an_empty_place_gets_no_report(tmp_path):
    endings.report_leftover(Workdir("w", tmp_path))
    assert not list(tmp_path.iterdir())
