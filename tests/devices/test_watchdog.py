"""What is judged of what processes say: who is lost, who hangs, and what only takes long."""

import math
import threading
import time

import pytest

from jaxsft.devices import heartbeats, progress, stacks, watchdog
from jaxsft.devices.heartbeats import Beat, Silences


def beat(step: int, still: float, limit: float = 300, **others) -> Beat:
    return Beat(7, "b", "training", step, still, limit, **others)


@pytest.fixture(autouse=True)
def fresh():
    progress.restart()
    yield
    progress.restart()


def test_the_process_behind_all_others_is_named():
    said = watchdog.hang(
        {0: beat(6, 310), 1: beat(5, 305, place="x.py:3 in sleep"), 2: beat(6, 311)}
    )
    assert said is not None
    first, *others = said.splitlines()
    assert first.startswith(
        "process 1 (host b) is stuck for 305 s, training, after step 5, at x.py:3"
    )
    assert [line.split()[:2] for line in others] == [["process", "2"], ["process", "0"]]


def test_of_those_at_the_same_step_it_is_the_one_that_waits_for_nobody():
    waits = beat(4, 310, place="jaxsft/devices/distributed.py:9 in __init__", waits=True)
    assert watchdog.hang({0: waits, 1: beat(4, 305, place="x.py:3 in f")}).startswith("process 1")
    many = beat(4, 310, place="jaxsft/devices/distributed.py:9 in __init__")
    assert watchdog.hang({0: many, 1: many, 2: beat(4, 305, place="x.py:3")}).startswith(
        "process 2"
    )


@pytest.mark.parametrize(
    "beats",
    [
        {0: beat(6, 310), 1: beat(5, 2)},  # one gets on, if late
        {0: beat(6, 310), 1: beat(5, 310, limit=3600)},  # one compiles
        {0: beat(6, 310), 1: Beat()},  # one has not said anything yet
        {0: beat(6, 1e9, limit=math.inf)},
    ],
)
def test_who_waits_for_one_that_may_still_get_on_does_not_hang(beats):
    assert watchdog.hang(beats) is None


def test_a_silent_process_is_lost_sooner_where_a_connection_broke():
    beats = {0: beat(6, 0), 1: beat(5, 0)}
    assert not watchdog.lost(beats, {1: 19.0}, 20)
    assert (
        "process 1 (host b) is lost: no sign of life for 21 s"
        in watchdog.lost(beats, {1: 21.0}, 20)[1]
    )
    broken = beats | {0: beat(6, 0, broken=True)}
    assert watchdog.lost(broken, {1: 6.0}, 20).keys() == {1}


def test_time_in_which_this_process_did_not_run_makes_nobody_silent(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: now[0])
    silences = Silences([1, 2])
    for count in range(4):
        now[0] += 0.5
        silences.beats[1] = beat(1, 0)
        silences.beats[2] = Beat(count)
        found = silences.look()
    assert found == {1: 1.5, 2: 0.0}
    now[0] += 1000  # stopped, or asleep
    assert silences.look()[1] == 2.5


def test_the_limit_follows_the_steps_and_not_what_is_sent_ahead(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    progress.mark(7)
    with progress.during(progress.TRAINING):
        assert progress.now().step == 7 and progress.limit(300) == 1200
        for step, seconds in enumerate([0.0, 0.0, 60.0, 60.0, 60.0, 500.0], 8):
            now[0] += seconds
            progress.mark(step)
        assert progress.limit(300) == 600 and progress.now().step == 13
        with progress.during("saving"):
            assert progress.limit(300) == 3600
            assert str(progress.now()) == "saving, after step 13"
        assert progress.limit(300) == 600
    with progress.during(progress.OPENING):
        assert progress.limit(300) == math.inf


def test_what_grows_gets_on_and_what_stands_still_does_not(monkeypatch):
    """A checkpoint is read by C code that sets no mark; a piece of it may take twelve times
    --hang_seconds, however many came before."""
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.01)
    read = [0]
    with progress.during("reading a checkpoint"), progress.while_growing(lambda: read[0]):
        begun = progress.now()
        time.sleep(0.2)
        assert progress.now() == begun
        for _ in range(6):
            before = progress.now()
            until = time.monotonic() + 20
            while progress.now() == before and time.monotonic() < until:
                read[0] += 1
                time.sleep(0.05)
            assert progress.now().since > before.since
        assert progress.now().phase == "reading a checkpoint" and progress.limit(300) == 3600


def test_an_error_is_told_with_the_phase_that_it_came_from():
    with pytest.raises(RuntimeError) as raised, progress.during("saving"):
        progress.mark(3)
        try:
            with progress.during("evaluating"):
                raise KeyError("x")
        except KeyError as error:
            raise RuntimeError("y") from error
    assert str(progress.now()) == "starting, after step 3"
    assert str(progress.at(raised.value)) == "saving, after step 3"
    assert str(progress.at(ValueError())) == "starting, after step 3"


def test_the_place_of_the_main_thread_is_found_from_another():
    found = []

    def look():
        time.sleep(0.2)
        found.append(stacks.main_place())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert "threading.py:" in found[0] and " in " in found[0]


def test_where_the_package_was_called_from_is_told_too(monkeypatch):
    frames = [("/usr/lib/x.py", "1", "read"), (progress.__file__, "9", "mark"), ("/a.py", "2", "f")]
    monkeypatch.setattr(stacks, "_frames", lambda thread: frames)
    assert stacks.main_place() == "x.py:1 in read, from jaxsft/devices/progress.py:9 in mark"
