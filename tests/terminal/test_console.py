"""What is said of the steps: each line's own step and values, and how long the rest takes."""

import io
import re
import types

import pytest
import rich.console

from jaxsft.terminal import console, eta
from jaxsft.terminal.console import Console


class Clock:
    """Time that moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in (console, eta):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def line(step: int, step_seconds: float, **changed) -> types.SimpleNamespace:
    values = {"loss": 1.5 + step, "token_accuracy": 0.25, "learning_rate": 1e-5, "grad_norm": 2.0}
    rest = {"tokens_per_second": 12345.6, "skipped_steps": 0, "mfu": None, "memory_bytes": None}
    own = {"step": step, "step_seconds": step_seconds}
    return types.SimpleNamespace(**values | rest | own | changed)


def lines_of(capsys) -> list[str]:
    return [one for one in capsys.readouterr().out.splitlines() if one.startswith("step ")]


def test_a_line_carries_the_values_of_its_own_step(clock, capsys):
    """The log is read one step late: while step 3 is dispatched, the line is that of step 2."""
    say = Console()
    with say.steps(0, 3):
        for step in (1, 2, 3):
            clock.now += 10
            say.step(3, line(step, 10.0))
    said = lines_of(capsys)
    assert [one.split()[1:4] for one in said] == [
        ["1/3", "loss", "2.5000"],
        ["2/3", "loss", "3.5000"],
        ["3/3", "loss", "4.5000"],
    ]
    assert "20 s left" in said[0] and "10 s left" in said[1] and "left" not in said[2]


def test_off_a_terminal_the_last_line_is_said_wherever_the_steps_end(clock, capsys):
    say = Console()
    with pytest.raises(KeyError, match="stop"), say.steps(0, 100):
        for step in range(1, 8):
            clock.now += 1
            say.step(100, line(step, 1.0))
        raise KeyError("stop")
    assert [one.split()[1] for one in lines_of(capsys)] == ["1/100", "7/100"]


@pytest.mark.parametrize("step_seconds", [0.01, 3.0, 45.0, 900.0])
def test_steps_of_any_length_have_their_time_left(clock, step_seconds):
    remaining = eta.Remaining(10, 100)
    for step in range(11, 21):
        clock.now += step_seconds
        assert remaining.seconds(step, step_seconds) == pytest.approx((100 - step) * step_seconds)


def test_the_time_left_counts_evaluations_and_saves_and_forgets_a_slow_start(clock):
    remaining = eta.Remaining(0, 1000)
    clock.now += 300
    remaining.seconds(1, 300.0)
    for step in range(2, 201):
        clock.now += 2
        if step % 50 == 0:
            clock.now += 100  # an evaluation, which is no part of a step's seconds
        left = remaining.seconds(step, 2.0)
    assert left == pytest.approx(800 * 2 + 800 / 50 * 100)


def test_the_time_left_counts_what_is_scheduled_by_what_each_took(clock):
    """Evaluations of 100 s after each 50th step, saves of 7 s after each 20th, both at the end."""
    names = {50: "evaluation", 20: "save"}
    schedule = eta.Schedule(
        lambda step: [name for every, name in names.items() if step % every == 0],
        lambda step: {name: 999 // every - step // every for every, name in names.items()},
        ("last", "save", "save"),
        {"evaluation": 60.0, "last": 40.0},
    )
    remaining = eta.Remaining(0, 1000, schedule)
    for step in range(1, 205):
        clock.now += 2
        left = remaining.seconds(step, 2.0)
        if step == 10:  # none was seen yet
            assert left == pytest.approx(990 * 2 + 19 * 60 + 40)
        for every, seconds in ((50, 100), (20, 7)):
            clock.now += seconds * (step % every == 0)
    # After the 100th and the 200th step both come, which share their time as they do elsewhere.
    assert left == pytest.approx(796 * 2 + 15 * 100 + 39 * 7 + 40 + 2 * 7, rel=0.01)


def test_lines_that_come_at_once_are_no_time_beside_the_steps(clock):
    remaining = eta.Remaining(0, 100)
    for step in range(2, 21, 2):
        clock.now += 6
        remaining.seconds(step - 1, 3.0)
        left = remaining.seconds(step, 3.0)
    assert left == pytest.approx(80 * 3)


def shown_on_terminal(
    clock, width: int, total: int, *lines: types.SimpleNamespace, held_out: float | None = None
) -> str:
    """The bar, and the line of figures below it."""
    say, file = Console(), io.StringIO()
    say._rich = rich.console.Console(
        file=file, force_terminal=True, width=width, highlight=False, color_system=None
    )
    say._live = True
    with say.steps(0, total):
        say.evaluated(held_out)
        for values in lines:
            clock.now += values.step_seconds
            say.step(total, values)
    plain = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    bar, figures = [one for one in plain.splitlines() if one.strip()][-2:]
    assert max(len(bar), len(figures)) <= width
    return f"{bar}\n{figures}"


def test_a_terminal_of_80_columns_has_what_matters_most(clock):
    gpu = {"mfu": 0.4123, "memory_bytes": 61 * 2**30}
    lines = (line(119, 45.0), line(120, 45.0, **gpu))
    shown = shown_on_terminal(clock, 80, 1000, *lines, held_out=1.25)
    assert "step 120/1000" in shown and "11 h 0 min left" in shown
    assert "loss 121.5000  held-out 1.2500  12,346 tokens/s  MFU 41.2%  61.0 GiB" in shown
    assert "accuracy" not in shown and "…" not in shown
    wide = shown_on_terminal(clock, 200, 1000, line(120, 45.0, **gpu), held_out=1.25)
    assert "61.0 GiB  accuracy 0.250  lr 1.00e-05  grad norm 2.00" in wide
    plain = shown_on_terminal(clock, 200, 1000, line(120, 45.0))
    assert "held-out" not in plain and "MFU" not in plain and "GiB" not in plain
    skipped = shown_on_terminal(clock, 70, 1000, line(120, 45.0, skipped_steps=2, loss=None))
    assert "loss none  skipped 2" in skipped


def test_a_terminal_that_moves_no_cursor_has_lines(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # it is one, though this test's output is not
    monkeypatch.setenv("TERM", "dumb")
    say = Console()
    with say.steps(0, 2):
        for step in (1, 2):
            clock.now += 10
            say.step(2, line(step, 10.0))
    assert [one.split()[1] for one in lines_of(capsys)] == ["1/2", "2/2"]


def test_the_end_on_a_terminal_is_the_last_step(clock):
    shown = shown_on_terminal(clock, 100, 3, line(2, 1.0), line(3, 1.0))
    assert "step 3/3" in shown and "loss 4.5000" in shown and "left" not in shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59, "59 s"), (100, "2 min"), (5400, "90 min"), (12000, "3 h 20 min")]
    + [(180 * 3600.0, "7 d 12 h")],
)
def test_times_are_said_in_two_figures_or_so(seconds, said):
    assert eta.said(seconds) == said
