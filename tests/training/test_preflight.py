"""What is refused without a device, as train refuses it with one."""

import dataclasses

import numpy as np
import pytest
import tiny

from jaxsft.config import Eval, Mesh
from jaxsft.data.pack.epochs import Epochs
from jaxsft.errors import ConfigError
from jaxsft.training import mesh_fit, mesh_program, preflight
from tests.training.test_mesh_fit import config

EIGHT = Mesh(data=1, fsdp=8)


def planned(num_examples: int, batch_size: int) -> Epochs:
    """Each example fills a row."""
    lengths, sources = np.full(num_examples, 32), np.zeros(num_examples, int)
    return Epochs(
        lengths, sources, (num_examples,), sequence_length=32, batch_size=batch_size, seed=0
    )


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (config(Mesh(expert=2)), "expert=2: the model has no experts"),
        (config(Mesh(tensor=8)), "tensor=8: does not divide the 4"),
        (config(EIGHT, batch_size=12), "train.batch_size=12: 1 micro-batches over 8 devices"),
        (config(EIGHT, microbatches=2), "train.batch_size=8: 2 micro-batches over 8 devices"),
        (
            dataclasses.replace(config(EIGHT), eval=Eval(batch_size=4)),
            "config.eval.batch_size=4: 1 micro-batches over 8 devices",
        ),
    ],
)
def test_what_no_number_of_devices_mends_is_refused(changed, match):
    with pytest.raises(ConfigError, match=match):
        preflight.check_config(changed, tiny.SETTINGS)
    with pytest.raises(ConfigError, match=match):
        mesh_program.checked_mesh(changed, tiny.SETTINGS)


def test_open_axes_are_left_to_the_devices():
    for sizes in (Mesh(), Mesh(data=2), Mesh(tensor=2)):
        preflight.check_config(config(sizes), tiny.SETTINGS)
    assert mesh_fit.given_sizes(Mesh(tensor=2))["fsdp"] == 1


def test_the_warm_up_must_be_shorter_than_the_steps_that_the_data_make():
    def asked(**train):
        one = config(**train)
        return dataclasses.replace(one, optim=dataclasses.replace(one.optim, warmup_steps=6))

    by_epochs = asked(batch_size=4, epochs=2, steps=None)
    assert preflight.steps_of_run(by_epochs, planned(13, 4)) == 8
    with pytest.raises(ConfigError, match="warmup_steps=6: the run has 6 steps"):
        preflight.steps_of_run(by_epochs, planned(12, 4))
    preflight.check_config(by_epochs, tiny.SETTINGS)  # their number is not known yet
    with pytest.raises(ConfigError, match="warmup_steps=6: the run has 5 steps"):
        preflight.check_config(asked(steps=5), tiny.SETTINGS)
