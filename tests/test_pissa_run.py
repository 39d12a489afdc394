"""A run with init=pissa through the whole program: exported, gone on with."""

import json

import adapted
import numpy as np
import pytest
from adapted import logits

from tests.programs import tool, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return adapted.debug_base(tmp_path_factory.mktemp("pissa") / "base")


def flags_of(base, **more):
    given = {
        "model.source": base,
        "model.weights": "pretrained",
        "lora.rank": 4,
        "lora.init": "pissa",
        "optim.peak_lr": 1e-2,
        "optim.schedule": "constant",
        "eval.prompts": 0,
        "mesh.fsdp": 4,
        "mesh.tensor": 2,
    }
    return [f"--config.{name}={value}" for name, value in (given | more).items()]


def test_it_learns_is_exported_and_continued(base, tmp_path):
    flags = flags_of(base)
    plain = tmp_path / "plain"
    done = train(plain, *flags)
    assert "init=pissa: adapters begin" in done.stdout
    lines = [json.loads(line) for line in (plain / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval/heldout/loss"] for line in lines if "eval/heldout/loss" in line]
    assert losses[-1] < losses[0] - 0.1
    written = json.loads((plain / "export" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["init_lora_weights"]) == (8, 64, True)
    # From the checkpoint on one device, whatever its files were made on.
    output = tmp_path / "tool"
    done = tool("export_hf", f"--workdir={plain}", f"--output={output}")
    assert done.returncode == 0, done.stderr + done.stdout
    np.testing.assert_allclose(logits(output), logits(plain / "export"), rtol=1e-6, atol=1e-6)
    further = tmp_path / "further"
    done = train(further, *flags, f"--config.model.continue_from={plain}", "--config.train.steps=2")
    begun = json.loads((further / "metrics.jsonl").read_text().splitlines()[0])
    assert begun["eval/heldout/loss"] == pytest.approx(losses[-1], abs=1e-6)


def test_the_mean_of_a_run_is_read_beside_what_adapters_began_with(base, tmp_path):
    """From the last step by the tool; and from an earlier one by the run, whose best it was."""
    best = {"checkpoint.best": "eval/heldout/loss", "checkpoint.best_mode": "max"}  # not the last
    more = {"optim.ema_decay": 0.5, "eval.every_steps": 2, "train.steps": 6}
    flags = flags_of(base, **more, **best)
    workdir, output = tmp_path / "run", tmp_path / "tool"
    train(workdir, *flags)
    summary = json.loads((workdir / "summary.json").read_text())
    step = summary["exported_step"]
    done = tool("export_hf", f"--workdir={workdir}", f"--output={output}", f"--step={step}")
    assert done.returncode == 0, done.stderr + done.stdout
    np.testing.assert_allclose(logits(output), logits(workdir / "export"), rtol=1e-5, atol=1e-5)
    assert step < 6
