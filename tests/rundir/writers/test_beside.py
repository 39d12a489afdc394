"""A place that fails, hangs or falls behind costs the run nothing, and is told of once."""

import threading

import pytest

from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.writers import beside
from jaxsft.rundir.writers.beside import Beside
from jaxsft.rundir.writers.history import History
from jaxsft.rundir.writers.writer import Writers
from tests.faults import fault


class Remembering:
    name, remedy = "place", "mend it"

    def __init__(self):
        self.calls: list[tuple] = []

    def begin(self, step, there):
        self.calls.append(("begin", step, [line["step"] for line in there]))
        return "somewhere"

    def append(self, line, samples):
        self.calls.append((line, [one["answer"] for one in samples]))

    def close(self):
        self.calls.append(("close",))

    def abandon(self):
        self.calls.append(("abandon",))


class Failing(Remembering):
    """Raises at the second line."""

    def append(self, line, samples):
        super().append(line, samples)
        if len(self.calls) > 2:
            raise OSError(28, "No space left on device")


class Hanging(Remembering):
    """As a network that never answers."""

    def __init__(self):
        super().__init__()
        self.over = threading.Event()

    def append(self, line, samples):
        self.over.wait()


@pytest.fixture
def writers(tmp_path):
    """Those of a run with one place, and what it says."""
    said: list[str] = []

    def make(place) -> Writers:
        history = History(tmp_path / "metrics.jsonl")
        samples = JsonLines(tmp_path / "samples.jsonl")
        one = Beside(place, history, samples, lambda topic, text: said.append(f"{topic}: {text}"))
        return Writers(history, (one,))

    return make, said


def test_a_place_has_the_lines_in_order_with_the_answers_of_an_evaluation(writers, tmp_path):
    make, said = writers
    answers = JsonLines(tmp_path / "samples.jsonl")
    for step in (0, 2):
        answers.append({"step": step, "answer": f"of step {step}"})
    place = Remembering()
    all_ = make(place)
    lines = [{"step": 0, "eval/a/loss": 3.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    all_.resume(None)
    all_.append(lines[0])
    all_.resume(0)  # the loop begins where the run does: nothing to forget
    for line in lines[1:]:
        all_.append(line)
    all_.append_last({"step": 2, "eval/a/loss": 1.5})
    all_.close()
    assert place.calls == [
        ("begin", None, []),
        (lines[0], ["of step 0"]),
        (lines[1], []),
        (lines[2], []),
        ({"step": 2, "eval/a/loss": 1.5}, ["of step 2"]),
        ("close",),
    ]
    assert said == ["place: somewhere"]
    later = Remembering()
    again = make(later)
    again.resume(2)
    again.close()
    assert later.calls == [("begin", 2, [2, 2]), ("close",)]


@fault(
    "checkpoints",
    "a writer of `config.log.writers` raises, as on a full disk",
    "one warning, with what to do; it is off from then on, and `metrics.jsonl` has every line",
    lost="nothing of the run; the figures after it, in that place",
    code="none: the run goes on",
)
def test_one_that_fails_is_told_of_once_and_left_alone(writers):
    make, said = writers
    place = Failing()
    all_ = make(place)
    all_.resume(None)
    for step in range(50):
        all_.append({"step": step, "loss": 1.0})
    all_.close()
    assert len(all_.history.read()) == 50
    assert len(place.calls) == 4 and place.calls[-1] == ("abandon",)  # begin, two lines, and that
    warnings = [one for one in said if "warning" in one]
    assert len(warnings) == 1 and "No space left on device; mend it" in warnings[0]


@fault(
    "checkpoints",
    "the network behind a writer hangs",
    "no step waits for it; at the end the run waits half a minute, warns, and ends",
    lost="nothing of the run; the figures that were not sent",
    code="none: the run goes on",
)
def test_one_that_hangs_holds_nobody_up_but_for_a_moment_at_the_end(writers, monkeypatch):
    make, said = writers
    monkeypatch.setattr(beside, "CLOSE_SECONDS", 0.2)
    place = Hanging()
    all_ = make(place)
    all_.resume(None)
    for step in range(50):  # would never come back
        all_.append({"step": step, "loss": 1.0})
    all_.close()
    place.over.set()
    assert [one for one in said if "warning" in one] == [
        "place: warning: place is off from here on, the run goes on and metrics.jsonl has all:"
        " does not come to its end; mend it"
    ]


def test_one_that_falls_behind_is_off_before_memory_is_full(writers, monkeypatch):
    make, said = writers
    monkeypatch.setattr(beside, "_MOST_BEHIND", 5)
    place = Hanging()
    all_ = make(place)
    all_.resume(None)
    for step in range(20):
        all_.append({"step": step, "loss": 1.0})
    all_.close()
    place.over.set()
    assert len([one for one in said if "is 5 lines behind" in one]) == 1
    assert len(all_.history.read()) == 20
