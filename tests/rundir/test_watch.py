"""The best step is that of the best value; a run ends when patience does, wherever it resumed."""

import dataclasses
import json
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsft.config import Checkpoint, Eval
from jaxsft.errors import CheckpointError, ConfigError
from jaxsft.rundir import identity, resume
from jaxsft.rundir.checkpoint.notes import Best, Notes, notes_json, parse_notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.rundir.watch import Watch, watch_of
from jaxsft.rundir.writers.history import History
from tests.rundir.test_checkpoint import make_state

LOSS = "eval/holdout/loss"
KNOWN = [LOSS, "eval/holdout/token_accuracy", "eval/x/speed"]


def watching(best=LOSS, mode=None, **evaluation) -> Watch:
    return Watch(Checkpoint(best=best, best_mode=mode), Eval(**evaluation), KNOWN)


VALUES = st.lists(st.none() | st.integers(0, 6).map(float), max_size=30)


@given(VALUES, st.sampled_from(["min", "max"]), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
def test_the_best_of_all_evaluations_and_when_they_no_longer_get_better(
    values, mode, patience, least
):
    watch = watching(mode=mode, early_stopping=patience, min_improvement=least)
    sign = 1 if mode == "max" else -1
    best = reference = None
    waited = 0
    for step, value in enumerate(values, 1):
        improved = watch.add(step, {LOSS: value})
        better = value is not None and (best is None or sign * value > sign * best[1])
        assert improved == better
        if better:
            best = step, value
        if value is not None and (reference is None or sign * (value - reference) > least):
            reference, waited = value, 0
        elif reference is not None:
            waited += 1
        assert watch.is_over == (waited >= patience)
        assert (watch.best and (watch.best.step, watch.best.value)) == best


@given(VALUES, st.integers(0, 29))
def test_notes_of_any_step_go_on_as_if_nothing_had_stopped(values, stopped):
    whole, first, second = (watching(early_stopping=3, min_improvement=0.5) for _ in range(3))
    for step, value in enumerate(values, 1):
        whole.add(step, {LOSS: value})
    for step, value in list(enumerate(values, 1))[:stopped]:
        first.add(step, {LOSS: value})
    text = json.dumps({"custom_metadata": notes_json(Notes(best=first.best))})
    second.best = parse_notes(text).best
    # The evaluation of the checkpoint's own step may be taken again, as at the end of a run.
    for step, value in list(enumerate(values, 1))[max(stopped - 1, 0) :]:
        second.add(step, {LOSS: value})
    assert second.best == whole.best and second.is_over == whole.is_over


def test_what_is_better_shows_in_the_name():
    accuracy = watching("eval/holdout/token_accuracy")
    for step, value in ((1, 0.2), (2, 0.4), (3, 0.3)):
        accuracy.add(step, {"eval/holdout/token_accuracy": value})
    assert accuracy.best is not None and accuracy.best.step == 2
    assert accuracy.said() == "eval/holdout/token_accuracy was best after step 2: 0.4000"


def test_an_unknown_figure_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match="checkpoint.best=eval/hold/loss: .* there are") as error:
        watching("eval/hold/loss")
    assert all(name in str(error.value) for name in KNOWN)
    with pytest.raises(ConfigError, match="checkpoint.best=eval/x/speed: whether less or more"):
        watching("eval/x/speed")
    assert watching("eval/x/speed", "max").best is None
    with pytest.raises(ConfigError, match=f"checkpoint.best={LOSS}: .* nothing is evaluated"):
        Watch(Checkpoint(best=LOSS), Eval(), [])
    assert watch_of(Checkpoint(), Eval(), []) is None


def test_why_a_run_is_over_is_said():
    watch = watching(early_stopping=2, min_improvement=0.01)
    for step, value in ((5, 2.0), (10, 1.5), (15, 1.495), (20, None)):
        watch.add(step, {LOSS: value})
    assert watch.said() == (
        f"{LOSS} was best after step 15: 1.4950; 2 evaluations in a row did not make it better by"
        " more than 0.01"
    )
    nothing = watching()
    nothing.add(1, {LOSS: None})
    assert nothing.said() == f"{LOSS}: no evaluation was finite" and not nothing.is_over


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=5)
    store.save(3, make_state(3), Notes(best=Best(LOSS, 3, 1.0, 1.0, 0, 3)))
    store.save(6, make_state(6), Notes(best=Best(LOSS, 3, 1.0, 1.0, 1, 6)))
    store.wait()
    return store


def go_on(store, tmp_path, metric=LOSS) -> tuple[Watch, list[str]]:
    said: list[str] = []
    out: Any = types.SimpleNamespace(
        store=store,
        metrics=types.SimpleNamespace(history=History(tmp_path / "metrics.jsonl")),
        console=types.SimpleNamespace(say=lambda topic, line: said.append(line)),
    )
    watch = watching(metric)
    resume.go_on_watching(out, 6, watch)
    resume.go_on_watching(out, 6, None)
    return watch, said


@pytest.mark.parametrize(
    ("metric", "gone", "why"),
    [
        (LOSS, False, None),
        ("eval/holdout/token_accuracy", False, f"the figure was {LOSS} and is eval/holdout/"),
        (LOSS, True, "its checkpoint 3 is gone"),
    ],
)
def test_the_best_of_an_earlier_start_counts_if_it_is_still_there(
    store, tmp_path, metric, gone, why
):
    if gone:
        store.set_aside(3)
    watch, said = go_on(store, tmp_path, metric)
    if why is None:
        assert watch.best == Best(LOSS, 3, 1.0, 1.0, 1, 6) and not said
    else:
        assert watch.best is None and why in said[0]


def test_the_evaluation_after_the_last_step_counts_for_a_run_that_is_made_longer(store, tmp_path):
    store.save(9, make_state(9), Notes(best=Best(LOSS, 3, 1.0, 1.0, 1, 6)))
    lines = History(tmp_path / "metrics.jsonl")
    for line in ({"step": 6, LOSS: 0.1}, {"step": 9, "loss": 5.0}, {"step": 9, LOSS: 0.5}):
        lines.append(line)
    store.wait()
    assert go_on(store, tmp_path)[0].best == Best(LOSS, 3, 1.0, 1.0, 1, 6)  # 6 was counted
    watch = watching()
    out: Any = types.SimpleNamespace(store=store, metrics=types.SimpleNamespace(history=lines))
    out.console = types.SimpleNamespace(say=None)
    resume.go_on_watching(out, 9, watch)
    assert watch.best == Best(LOSS, 9, 0.5, 0.5, 0, 9)


def test_other_rows_are_another_run():
    from tests.training.test_mesh_fit import config

    def of(**data):
        one = config(batch_size=8)
        return identity.identity(
            dataclasses.replace(one, data=dataclasses.replace(one.data, **data))
        )

    plain = of()
    old = {name: value for name, value in plain.items() if "hold" not in name}
    identity.refuse_changes(old, plain)  # of a version that could hold out nothing
    for change, said in (
        ({"holdout": 0.1}, "data.holdout was None when this run began and is 0.1 now"),
        ({"holdout_seed": 1}, "data.holdout_seed was 0 when this run began and is 1 now"),
        ({"duplicates": "drop_near"}, "data.duplicates was 'keep' when .* is 'drop_near' now"),
    ):
        with pytest.raises(CheckpointError, match=said):
            identity.refuse_changes(old, of(**change))
