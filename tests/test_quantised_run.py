"""Adapters on a base in 4 bits, through the whole program."""

import json
import shutil
import warnings

import adapted
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxsft
from tests.programs import tool, train


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


@pytest.mark.slow
def test_it_goes_on_to_the_same_bits_and_exports_them(ran, flags, base, tmp_path):
    workdir, _ = ran
    again = base.parent / "again"
    train(again, *flags(steps=3))
    shutil.rmtree(again / "export")
    train(again, *flags())
    done = tool("export_hf", f"--workdir={workdir}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    file = "adapter_model.safetensors"
    expected = load_file(workdir / "export" / file)
    for found in (load_file(again / "export" / file), load_file(tmp_path / "out" / file)):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def test_another_kind_is_another_run(ran, flags):
    workdir, _ = ran
    done = train(workdir, *flags(kind="int8"), check=False)
    assert done.returncode == 66
    assert "frozen_dtype was 'nf4' when this run began and is 'int8' now" in done.stderr
