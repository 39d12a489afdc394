"""A trace of the steps that were asked for, and of no others."""

import types

import jax
import jax.numpy as jnp
import pytest

from jaxsft.cli.flags import override
from jaxsft.config import validate
from jaxsft.errors import ConfigError
from jaxsft.rundir import profile
from tests.training.test_mesh_fit import config


@pytest.fixture
def out(tmp_path):
    """As Outputs, and what it says."""
    said: list[str] = []
    say = lambda topic, text: said.append(f"{topic}: {text}")  # noqa: E731
    workdir = types.SimpleNamespace(files=tmp_path, shown=lambda name: f"RUN/{name}")
    console = types.SimpleNamespace(say=say)
    return types.SimpleNamespace(workdir=workdir, console=console), said


def run(steps, out, first: int, total: int) -> list[int]:
    """The steps whose end was the trace's."""
    ends = []
    with profile.traced(steps, out, first, total) as trace:
        for number in range(first + 1, total + 1):
            with trace.step(number):
                result = jnp.ones(3) * number
            if trace.ends(number, result):
                ends.append(number)
    return ends


def traces(directory) -> list[set[int]]:
    """The steps in each trace."""
    found = []
    for file in sorted(directory.rglob("*.xplane.pb")):
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        events = [one for plane in planes for line in plane.lines for one in line.events]
        stats = [dict(one.stats) for one in events if one.name == "step"]
        found.append({stat["step_num"] for stat in stats if "step_num" in stat})
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of types that jaxlib makes
def test_the_trace_has_the_steps_from_the_first_to_the_last(out, tmp_path):
    outputs, said = out
    assert run((3, 5), outputs, 0, 8) == [5]
    assert traces(tmp_path) == [{3, 4, 5}]
    assert len(said) == 1 and said[0].startswith("profile: steps 3 to 5: RUN/profile; to look at")


@pytest.mark.parametrize(
    ("first", "total", "why"),
    [(3, 8, "this start goes on after step 3"), (6, 8, "goes on after step 6"), (0, 2, "has 2 st")],
)
def test_steps_that_are_not_to_come_are_said_and_not_traced(out, tmp_path, first, total, why):
    outputs, said = out
    assert run((3, 5), outputs, first, total) == []
    assert not list(tmp_path.rglob("*.pb"))
    assert len(said) == 1 and "warning: no trace of steps 3 to 5" in said[0] and why in said[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_ends_within_leaves_what_there_is(out, tmp_path):
    outputs, said = out
    assert run((3, 5), outputs, 2, 4) == []
    assert traces(tmp_path) == [{3, 4}]
    assert "steps 3 to 4: RUN/profile" in said[0]


def test_a_profiler_that_fails_leaves_the_run_alone(out, tmp_path, monkeypatch):
    outputs, said = out
    with jax.profiler.trace(str(tmp_path / "own")):  # there may be one at a time
        assert run((3, 5), outputs, 0, 8) == []
    assert len(said) == 1 and "warning: no trace, the run goes on: " in said[0]
    stop = jax.profiler.stop_trace

    def fail():
        stop()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    assert run((3, 5), outputs, 0, 8) == [5]
    assert len(said) == 2 and "warning: no trace, the run goes on: [Errno 28]" in said[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("13,10", r"profile_steps=\(13, 10\): expected the first and the last"),
        ("0,3", r"profile_steps=\(0, 3\)"),
        ("3,3", r"profile_steps=\(3, 3\)"),
        ("3,4,5", r"profile_steps=\(3, 4, 5\)"),
        ("3", "profile_steps=3: expected a tuple of int or None, as a JSON list"),
        ("3,x", "profile_steps=3,x: expected a tuple of int"),
    ],
)
def test_other_steps_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        validate(override(config(), "log.profile_steps", text))


def test_a_list_of_whole_numbers_needs_no_brackets():
    for text in ("10,13", "[10, 13]"):
        assert override(config(), "log.profile_steps", text).log.profile_steps == (10, 13)
