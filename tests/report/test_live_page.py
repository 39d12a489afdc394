"""The page of a run that lasts is written beside the steps, and never after the last one."""

import threading
import time

import pytest

from jaxsft.report import endings, live_page
from jaxsft.report.page.write import write_report
from jaxsft.rundir.workdir import Workdir

STEP = '{"step": 4, "loss": 2.0}\n'


@pytest.fixture
def written(monkeypatch):
    """When the page was written; the first takes its time."""
    moments: list[float] = []

    def write(directory, lasts):
        assert lasts
        moments.append(time.monotonic())
        write_report(directory, lasts=True)

    monkeypatch.setattr(live_page, "write_report", write)
    return moments


def wait_for(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_steps_and_evaluations_come_onto_a_page_that_says_it_lasts(tmp_path, written):
    (tmp_path / "metrics.jsonl").write_text(STEP + '{"step": 5, "lo')
    page = live_page.LivePage(tmp_path, seconds=0.0)
    page.append({"step": 4, "loss": 2.0})
    wait_for(lambda: written and (tmp_path / "report.html").exists())
    page.close()
    text = (tmp_path / "report.html").read_text()
    assert "running, after step 4" in text and "<main data-lasts" in text
    assert "can&#39;t be read" not in text  # a line that is being written


def test_there_is_a_pause_between_two_pages(tmp_path, written):
    page = live_page.LivePage(tmp_path, seconds=3600.0)
    for step in range(200):
        page.append({"step": step, "loss": 2.0, "eval/held/loss": 1.0})
    wait_for(lambda: written)
    page.append({"step": 201, "eval/held/loss": 1.0})
    page.close()  # and does not wait for the hour
    assert len(written) == 1


def test_after_the_last_page_none_comes(tmp_path, monkeypatch):
    """One that is being written when the run ends is waited for."""
    begun, goes_on, done = threading.Event(), threading.Event(), threading.Event()

    def write(directory, lasts):
        begun.set()
        assert goes_on.wait(30)
        write_report(directory, lasts=lasts)
        done.set()

    monkeypatch.setattr(live_page, "write_report", write)
    (tmp_path / "metrics.jsonl").write_text(STEP)
    page = live_page.LivePage(tmp_path, seconds=0.0)
    page.append({"step": 4, "loss": 2.0})
    assert begun.wait(30)
    threading.Timer(0.2, goes_on.set).start()
    page.close()
    write_report(tmp_path, "stopped by SIGTERM")
    page.append({"step": 5, "loss": 2.0})
    assert done.wait(30)
    assert "stopped after step 4" in (tmp_path / "report.html").read_text()


def test_a_page_that_fails_stops_nothing(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").mkdir()
    page = live_page.LivePage(tmp_path / "nowhere", seconds=0.0)
    page.append({"step": 1, "loss": 2.0})
    wait_for(lambda: "the page of the run so far" in capsys.readouterr().err)
    page.close()


def test_the_next_start_mends_the_page_of_a_run_that_was_killed(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(STEP)
    write_report(tmp_path, lasts=True)
    endings.report_leftover(Workdir("runs/x", tmp_path))
    text = (tmp_path / "report.html").read_text()
    assert "stopped after step 4" in text and "it was killed" in text
    assert "<main data-lasts" not in text
