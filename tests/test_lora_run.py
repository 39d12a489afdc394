"""Adapters through the whole program: trained, stopped, gone on with, exported, merged, loaded."""

import json

import adapted
import numpy as np
import pytest
from adapted import logits
from safetensors.numpy import load_file, save_file

from jaxsft.report.page import again
from jaxsft.report.run_read import read_run
from tests.programs import ROOT, tool, train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return adapted.debug_base(tmp_path_factory.mktemp("lora") / "base")


@pytest.fixture(scope="module")
def flags(base):
    given = {
        "model.source": base,
        "model.weights": "pretrained",
        "lora.rank": 4,
        "lora.dropout": 0.1,
        "lora.train_whole": '["norms"]',
        "optim.peak_lr": 1e-2,
        "checkpoint.merge": True,
        "eval.prompts": 0,
        "mesh.fsdp": 4,
        "mesh.tensor": 2,
    }
    return [f"--config.{name}={value}" for name, value in given.items()]


@pytest.fixture(scope="module")
def ran(flags, base):
    workdir = base.parent / "run"
    return workdir, train(workdir, *flags)


def test_it_says_what_it_trained_and_learns(ran):
    workdir, done = ran
    assert "adapter" in done.stdout and "PEFT" in done.stdout
    assert "dropout=0.1: of what an adapter is given" in done.stdout
    assert "read back, its logits are within" in done.stdout
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval/heldout/loss"] for line in lines if "eval/heldout/loss" in line]
    assert losses[-1] < losses[0] - 0.1
    asked = json.loads((workdir / "command.json").read_text())
    assert asked["config"]["lora"] is None and "--config.lora.rank=4" in asked["command"]
    changed = {field: before for field, _, before, _ in again.from_base(read_run(workdir))}
    assert changed["optim.peak_lr"] == "0.003" and changed["lora.rank"] == "not set"


def test_every_adapter_acts_and_the_embedding_stayed(ran):
    workdir, _ = ran
    page = (workdir / "report.html").read_text()
    summary = json.loads((workdir / "summary.json").read_text())
    assert all(min(one["shares"]) > 0 and one["rank"] == 4 for one in summary["adapters"])
    count = sum(len(one["shares"]) for one in summary["adapters"])
    assert f"All {count} adapters add something to their weights." in page and count >= 14
    assert "None of 512 rows moved" in page


def test_adapter_run_and_merged_model_are_the_same(ran, base):
    workdir, _ = ran
    assert not (workdir / "export" / "model.safetensors").exists()
    adapted, of_run, merged = map(logits, (workdir / "export", workdir, workdir / "export_merged"))
    np.testing.assert_array_equal(adapted, of_run)
    assert np.abs(adapted - logits(base)).max() > 0.1
    # The merged model's weights are rounded to the base's bfloat16.
    np.testing.assert_allclose(merged, adapted, atol=0.05)


def test_the_tool_merges_without_rounding(ran, tmp_path):
    workdir, _ = ran
    output = tmp_path / "merged"
    done = tool(
        "export_hf", "--merge", f"--workdir={workdir}", f"--output={output}", "--dtype=float32"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    np.testing.assert_allclose(logits(output), logits(workdir), rtol=1e-5, atol=1e-5)


def figures(*flags):
    done = tool("evaluate", *flags, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


@pytest.mark.slow
def test_it_is_evaluated_by_itself(ran, base, tmp_path):
    """Export, any checkpoint and the base: what the run itself said of them."""
    workdir, _ = ran
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = {one["step"]: one["eval/heldout/loss"] for one in lines if "eval/heldout/loss" in one}
    evaluated = {
        20: figures(f"--model={workdir}"),
        10: figures(f"--model={workdir}", "--step=10"),
        0: figures(f"--model={base}", f"--config={ROOT}/configs/debug.py"),
    }
    for step, found in evaluated.items():
        assert found["eval/heldout/loss"] == pytest.approx(told[step], abs=1e-5), step
    samples = tmp_path / "samples.jsonl"
    asks = ("--config.eval.prompts=2", "--config.eval.match=exact", f"--samples={samples}")
    assert figures(f"--model={workdir}", *asks)["eval_count/heldout/match"] == 2
    assert len(samples.read_text().splitlines()) == 2
    cut = ("--config.eval.prompts=1", "--config.eval.max_new_tokens=1020")
    done = tool("evaluate", f"--model={workdir}", *cut)
    assert "warning: 1 prompts leave fewer than config.eval.max_new_tokens=1020" in done.stdout
    assert "heldout/loss" in done.stdout and "after      eval/" not in done.stdout
    done = tool("evaluate", f"--model={workdir}", *asks)
    assert done.returncode == 64 and "is there already; name another file" in done.stderr
    done = tool("evaluate", f"--model={workdir}", "--step=10", f"--config={ROOT}/configs/debug.py")
    assert done.returncode == 64 and "leave --config out" in done.stderr
    done = tool("evaluate", f"--model={base}")
    assert done.returncode == 64 and "is no run's directory" in done.stderr


def test_checkpoints_hold_adapters_alone(ran):
    workdir, _ = ran
    notes = json.loads((workdir / "checkpoints" / "20" / "_CHECKPOINT_METADATA").read_text())
    names = notes["custom_metadata"]["digests"]
    params = [name for name in names if name.startswith("params.")]
    assert params and all("_lora." in name or "norm" in name for name in params)
    assert any("embedding" in name for name in notes["custom_metadata"]["frozen"])


def test_another_base_is_refused(ran, flags, base, tmp_path):
    workdir, _ = ran
    kept = load_file(base / "model.safetensors")
    try:
        changed = dict(kept)
        changed["model.layers.1.mlp.up_proj.weight"] = kept["model.layers.1.mlp.up_proj.weight"] * 2
        save_file(changed, base / "model.safetensors", {"format": "pt"})
        done = train(workdir, *flags, "--config.train.steps=21", check=False)
        assert done.returncode == 66
        assert "layers.mlp.up_DF is not what this run was trained on (1 of" in done.stderr
        done = tool("export_hf", f"--workdir={workdir}", f"--output={tmp_path / 'x'}")
        assert done.returncode == 66 and "layers.mlp.up_DF" in done.stderr
    finally:
        save_file(kept, base / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.lora.rank=8", "config.lora.rank was 4 when this run began and is 8 now"),
        ("--config.lora=None", "config.lora was 'set' when this run began and is None now"),
    ],
)
def test_another_adapter_is_another_run(ran, flags, flag, message):
    workdir, _ = ran
    others = [one for one in flags if not one.startswith("--config.lora") and "merge" not in one]
    kept = [] if flag.endswith("None") else [one for one in flags if "train_whole" in one]
    done = train(workdir, *others, *kept, flag, check=False)
    assert done.returncode == 66 and message in done.stderr


def test_an_adapter_is_trained_further(ran, flags, base):
    """With the run's own figures before, to other ones; merged by the tool as it is."""
    workdir, _ = ran
    further = base.parent / "further"
    others = [one for one in flags if not one.startswith("--config.lora")]
    done = train(further, *others, f"--config.model.adapter={workdir}", "--config.train.steps=6")
    assert "dropout=0.1: of what an adapter is given" in done.stdout  # of adapter_config.json
    before, after = (
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (further, workdir)
    )
    assert before[0]["eval/heldout/loss"] == pytest.approx(after[-1]["eval/heldout/loss"], abs=1e-6)
    assert before[-1]["eval/heldout/loss"] != before[0]["eval/heldout/loss"]
    written = json.loads((further / "export" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_dropout"]) == (4, 0.1)
    train(further, *others, f"--config.model.adapter={workdir}", "--config.train.steps=8")


def test_a_directory_without_adapter_is_refused(flags, base, tmp_path):
    others = [one for one in flags if not one.startswith("--config.lora")]
    done = train(tmp_path / "x", *others, f"--config.model.adapter={base}", check=False)
    assert (
        done.returncode == 64
        and f"config.model.adapter={base}: has no adapter_config" in done.stderr
    )
