"""A learning rate that is far from what the method takes is named, once, with what to do."""

import dataclasses
import types
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from jaxsft.config import Lora
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack.epochs import Epochs
from jaxsft.data.report import warnings
from jaxsft.data.report.data_report import DataWarning
from jaxsft.data.report.method_hints import of_capacity, of_rate
from jaxsft.training import preflight
from tests import programs
from tests.data.report.test_gate import plan, report_of, rows, warnings_of
from tests.training.test_mesh_fit import config

# Three conversations with 90 targets.
CACHE = cast(Cache, types.SimpleNamespace(supervised=np.array([20, 30, 40])))
EPOCHS = Epochs(
    np.array([40, 50, 60]), np.zeros(3, int), [3], sequence_length=64, batch_size=1, seed=0
)


def hints(rate: float, is_lora: bool = False, is_pretrained: bool = True) -> Sequence[DataWarning]:
    return list(of_rate(rate, is_lora=is_lora, is_pretrained=is_pretrained))


@pytest.mark.parametrize(
    ("rate", "is_lora", "said"),
    [
        (5e-5, False, None),
        (6e-5, False, "config.optim.peak_lr=6e-05 is high for training all weights"),
        (5e-5, True, None),
        (4e-5, True, "config.optim.peak_lr=4e-05 is low for adapters"),
        (2e-4, True, None),
        (1e-6, False, None),
    ],
)
def test_a_rate_far_from_usual_is_hinted_at(rate, is_lora, said):
    assert [hint.text for hint in hints(rate, is_lora)] == ([] if said is None else [said])
    assert hints(rate, is_lora, is_pretrained=False) == []


def test_of_a_run_by_its_config():
    one = config()
    high = dataclasses.replace(one, optim=dataclasses.replace(one.optim, peak_lr=1e-3))
    pretrained = dataclasses.replace(one.model, weights="pretrained")
    high = dataclasses.replace(high, model=pretrained)
    found = preflight.method_hints(high, 10, EPOCHS, CACHE)
    assert len(found) == 1  # all weights are trained, however many there are
    adapted = dataclasses.replace(high, lora=Lora())
    (few,) = preflight.method_hints(adapted, 10, EPOCHS, CACHE)
    assert few.text == "10 parameters are few for 90 supervised tokens"
    random = dataclasses.replace(adapted.model, weights="random")
    assert not preflight.method_hints(dataclasses.replace(adapted, model=random), 10, EPOCHS, CACHE)


def test_adapters_too_small_for_the_data_are_hinted_at():
    assert list(of_capacity(50, 100)) == []
    (few,) = of_capacity(4_900_000, 98_000_000)
    assert few.text == "4,900,000 parameters are few for 98,000,000 supervised tokens"
    assert "adapters 10 times as large" in few.advice


def test_few_examples_and_many_epochs():
    assert warnings_of(report_of(rows(100))) == []
    (few,) = warnings_of(report_of(rows(99)), its_plan=plan(examples_per_epoch={"main": 99}))
    assert few == "there are 99 examples to train on"
    (many,) = warnings_of(its_plan=plan(epochs=5.5))
    assert many == "the run sees the data 5.5 times"


def test_the_report_has_it_once():
    found = hints(1e-3)
    report = warnings.whole_report(report_of(rows(100)), {}, {}, plan(), found)
    assert report.warnings == found and len(found) == 1


def test_it_is_said_once_by_the_program_that_prepares(tmp_path):
    flags = (f"--config={programs.ROOT}/configs/debug.py", f"--config.data.cache_dir={tmp_path}")
    output = f"--output={tmp_path / 'report.json'}"
    done = programs.tool("prepare_data", *flags, output)
    assert done.returncode == 0 and "peak_lr" not in done.stdout  # its weights are random
    assert done.stdout.count("there are 60 examples to train on") == 1
