"""Adapters on a base in 4 bits, through the whole program."""

import json
import warnings

import adapted
import pytest

import jaxsft
from tests.programs import train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return adapted.debug_base(tmp_path_factory.mktemp("quantised") / "base")


@pytest.fixture(scope="module")
def flags(base):
    """A function: the flags of a run of so many steps, its base kept in some kind."""
    fixed = {
        "model.source": base,
        "model.weights": "pretrained",
        "lora.rank": 4,
        "optim.peak_lr": 1e-2,
        "optim.schedule": "constant",
        "checkpoint.merge": True,
        "eval.prompts": 0,
        "mesh.fsdp": 4,
        "mesh.tensor": 2,
    }

    def made(steps=6, kind="nf4"):
        given = fixed | {"train.steps": steps, "model.frozen_dtype": kind}
        return [f"--config.{name}={value}" for name, value in given.items()]

    return made


@pytest.fixture(scope="module")
def ran(flags, base):
    workdir = base.parent / "run"
    return workdir, train(workdir, *flags())


def test_it_says_what_four_bits_changed(ran):
    workdir, done = ran
    summary = json.loads((workdir / "summary.json").read_text())
    kept, on_files, merged = summary["kept_base"]
    assert "the base as it was kept" in kept["what"] and kept["what"] in done.stdout
    # Of other weights than those trained with; the merged model's are rounded to bfloat16.
    assert on_files["largest"] > 3 * merged["largest"] > 0
    assert kept["nats"] > 0 and on_files["nats"] > 10 * merged["nats"]
    assert "What the bits of the frozen weights changed" in (workdir / "report.html").read_text()
    assert "trained on its base in nf4" in done.stdout


def test_whoever_opens_the_adapter_is_told(ran):
    workdir, _ = ran
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        jaxsft.load_model(workdir / "export")
    assert any("was trained on its base in nf4" in str(one.message) for one in told)


def test_another_kind_is_another_run(ran, flags):
    workdir, _ = ran
    done = train(workdir, *flags(kind="int8"), check=False)
    assert done.returncode == 66
    assert "frozen_dtype was 'nf4' when this run began and is 'int8' now" in done.stderr
