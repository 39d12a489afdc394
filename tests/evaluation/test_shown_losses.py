"""The losses of the report's examples: kept over restarts, by the data that they are of."""

import types
from typing import Any

import numpy as np
import pytest

from jaxsft.evaluation import shown_losses
from jaxsft.evaluation.shown_losses import LossesOfExamples


def cache(fingerprint="a", total=4) -> Any:
    return types.SimpleNamespace(
        fingerprint=fingerprint,
        report=types.SimpleNamespace(examples=total),
        examples=lambda wanted: [(np.arange(3 + one), np.ones(3 + one)) for one in wanted],
    )


class FakeLosses:
    """What the parameters are is each token's loss."""

    def __init__(self, *_):
        pass

    def of(self, params, examples):
        return [np.array([np.nan, *[params] * (len(ids) - 1)]) for ids in examples]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A start of the run in the directory."""
    monkeypatch.setattr(shown_losses, "TokenLosses", FakeLosses)
    said: list[str] = []
    console = types.SimpleNamespace(say=lambda topic, line: said.append(line))
    out: Any = types.SimpleNamespace(
        workdir=types.SimpleNamespace(files=tmp_path), console=console, said=said
    )

    def begin(train) -> tuple[LossesOfExamples, list[str]]:
        data: Any = types.SimpleNamespace(train=train)
        nothing: Any = None
        return LossesOfExamples(nothing, nothing, data, out), said

    return begin


def test_what_was_before_stays_over_restarts_and_the_end_is_the_newest(start, tmp_path):
    train = cache()
    start(train)[0].measure(2.0, "before", 0)
    for later in (1.0, 0.5):
        start(train)[0].measure(later, "after", 20)
    found = shown_losses.read(tmp_path, train)
    assert sorted(found) == [(phase, n) for phase in ("after", "before") for n in range(4)]
    assert found["before", 1] == [None, 2.0, 2.0, 2.0] and found["after", 0] == [None, 0.5, 0.5]


def test_another_run_in_the_same_place_and_other_data_begin_anew(start, tmp_path):
    start(cache())[0].measure(2.0, "before", 0)
    start(cache("b"))[0].measure(1.0, "after", 20)
    assert {phase for phase, _ in shown_losses.read(tmp_path, cache("b"))} == {"after"}
    start(cache())[0].measure(3.0, "before", 0)
    assert {phase for phase, _ in shown_losses.read(tmp_path, cache())} == {"before"}
    assert len((tmp_path / "token_losses.jsonl").read_text().splitlines()) == 4


def test_no_room_for_them_is_a_note(start, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeLosses, "of", lambda *_: 1 / 0)
    losses, said = start(cache())
    losses.measure(2.0, "before", 0)
    assert said == ["note: the losses of the report's examples are not known: division by zero"]
    assert shown_losses.read(tmp_path, cache()) == {}


def test_of_many_examples_some_from_all_over_are_shown():
    assert shown_losses.shown(cache(total=600)) == [0, 100, 200, 300, 400, 500]
    assert shown_losses.shown(cache(total=2)) == [0, 1]
