"""Each schedule rises, stays and falls where the config says, beside transformers' own."""

import dataclasses

import numpy as np
import pytest

from jaxsft import config
from jaxsft.errors import ConfigError
from jaxsft.training.schedule import make_schedule, num_warmup_steps, shortest_run
from tests.training.test_mesh_fit import config as config_of_a_run


def rates(num_steps, **fields):
    schedule = make_schedule(config.Optim(peak_lr=1.0, **fields), num_steps)
    return np.array([schedule(step) for step in range(num_steps)])


def test_cosine_rises_to_the_peak_and_ends_at_the_final_fraction():
    values = rates(20, warmup_steps=4, final_lr_fraction=0.1)
    np.testing.assert_allclose(values[:4], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(values[-1], 0.1, rtol=1e-6)
    assert np.all(np.diff(values[3:]) < 0)


def test_the_first_step_already_learns():
    assert rates(10, warmup_steps=0)[0] > 0.9
    assert rates(10, warmup_steps=5)[0] == pytest.approx(0.2)


def test_linear_and_constant():
    np.testing.assert_allclose(
        rates(4, schedule="linear", final_lr_fraction=0.0, warmup_steps=0),
        [0.75, 0.5, 0.25, 0],
        atol=1e-7,
    )
    np.testing.assert_allclose(rates(3, schedule="constant"), [1, 1, 1])


@pytest.mark.parametrize(
    ("shape", "falling"),
    [("linear", [0.8, 0.6, 0.4, 0.2]), ("1-sqrt", 1 - 0.8 * np.sqrt([0.25, 0.5, 0.75, 1.0]))],
)
def test_warmup_stable_decay_falls_over_the_last_share_of_the_run(shape, falling):
    fields = {"schedule": "warmup_stable_decay", "decay_share": 0.4, "decay_shape": shape}
    values = rates(10, warmup_steps=2, final_lr_fraction=0.2, **fields)
    np.testing.assert_allclose(values, [0.5, 1, 1, 1, 1, 1, *falling], rtol=1e-6)


def test_by_default_the_last_tenth_falls():
    values = rates(50, schedule="warmup_stable_decay", warmup_steps=0, final_lr_fraction=0.0)
    assert np.all(values[:45] == 1)
    np.testing.assert_allclose(values[45:], [0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)


def test_inverse_sqrt_is_transformers():
    optimization = pytest.importorskip("transformers.optimization")
    torch = pytest.importorskip("torch")
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = optimization.get_inverse_sqrt_schedule(sgd, num_warmup_steps=4)
    expected = []
    for _ in range(20):
        sgd.step()
        theirs.step()  # their first step has the rate 0, so their second is our first
        expected.append(sgd.param_groups[0]["lr"])
    np.testing.assert_allclose(rates(20, schedule="inverse_sqrt", warmup_steps=4), expected, 1e-6)


@pytest.mark.parametrize(
    ("fields", "num_steps", "expected"),
    [
        ({}, 1000, 30),
        ({}, 34, 2),  # 1.02, rounded up
        ({}, 3, 1),
        ({}, 1, 0),  # it must be shorter than the run
        ({"warmup_share": 0.1}, 50, 5),
        ({"warmup_share": 0.0}, 50, 0),
        ({"warmup_steps": 0}, 50, 0),
        ({"warmup_steps": 7}, 50, 7),
    ],
)
def test_the_warmup_is_in_steps_or_a_share_of_the_run(fields, num_steps, expected):
    one = config.Optim(peak_lr=1.0, **fields)
    assert num_warmup_steps(one, num_steps) == expected
    values = rates(num_steps, **fields)
    assert int(np.argmax(values)) == max(expected - 1, 0)  # the last one of the warm-up


def test_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="warmup_steps=10: the run has 10 steps"):
        rates(10, warmup_steps=10)


def test_a_decay_that_the_warmup_leaves_no_room_for_is_refused():
    with pytest.raises(ConfigError, match=r"decay_share=0\.5: is 5 of 10 steps, .* leaves 4"):
        rates(10, schedule="warmup_stable_decay", warmup_steps=6, decay_share=0.5)


@pytest.mark.parametrize(
    ("schedule", "field", "value"),
    [
        ("constant", "final_lr_fraction", 0.5),
        ("inverse_sqrt", "final_lr_fraction", 0.5),
        ("cosine", "decay_share", 0.2),
        ("linear", "decay_shape", "1-sqrt"),
    ],
)
def test_what_only_another_schedule_reads_is_refused(schedule, field, value):
    with pytest.raises(ConfigError, match=f"{field}={value}: the schedule {schedule} does not"):
        rates(10, schedule=schedule, **{field: value})


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"warmup_steps": 5, "warmup_share": 0.1}, r"warmup_steps=5 and warmup_share=0\.1; set"),
        ({"warmup_share": 1.0}, r"warmup_share=1\.0: must lie in \[0, 1\)"),
        ({"decay_share": 1.0}, r"decay_share=1\.0: must lie in \(0, 1\)"),
        ({"schedule": "inverse_sqrt", "warmup_steps": 0}, "warmup_steps=0: inverse_sqrt falls"),
        ({"schedule": "inverse_sqrt", "warmup_share": 0.0}, "warmup_share=0: inverse_sqrt falls"),
    ],
)
def test_a_schedule_that_no_run_could_have_is_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        optim = config.Optim(peak_lr=1.0, **fields)
        config.validate(dataclasses.replace(config_of_a_run(), optim=optim))


@pytest.mark.parametrize("warmup_steps", [None, 0, 7])
@pytest.mark.parametrize("decay_share", [0.1, 0.5, 0.9])
def test_a_run_whose_length_is_not_known_is_given_one_that_fits(warmup_steps, decay_share):
    one = config.Optim(
        peak_lr=1.0,
        schedule="warmup_stable_decay",
        warmup_steps=warmup_steps,
        decay_share=decay_share,
    )
    make_schedule(one, shortest_run(one))
