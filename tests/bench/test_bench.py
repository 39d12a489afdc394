"""The real step measured: what is counted, what is said, what the page shows."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from bench import measured_steps, measurement, page, step_batches, terminal_summary
from bench.ours import Ours, Step

from jaxsft.cli.config_file import load
from jaxsft.config import Lora
from jaxsft.convert.pretrained import open_pretrained
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.errors import ConfigError
from jaxsft.plan import memory
from jaxsft.training import mesh_program
from jaxsft.training.flops import recomputed_flops, training_flops
from jaxsft.training.too_large import TooLarge

ROOT = Path(__file__).resolve().parents[2]
DEBUG = ROOT / "configs" / "debug.py"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What tools/bench.py says of the debug run."""
    saved = tmp_path_factory.mktemp("bench") / "debug.json"
    command = [sys.executable, "tools/bench.py", f"--config={DEBUG}", "--steps=4", "--warmup=1"]
    found = subprocess.run(
        [*command, f"--save={saved}", "--json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == saved.read_text()
    made = measurement.read(found.stdout, "stdout")
    assert measurement.text(made) + "\n" == found.stdout
    return made


def test_rates_are_work_over_time(measured):
    total = measured.step_seconds.max * 4
    slots = measured.model.batch_size * measured.model.sequence_length
    assert measured.tokens_per_second * total > measured.packing_efficiency * slots * 4 * 0.99
    assert 0 < measured.supervised_tokens_per_second < measured.tokens_per_second
    assert 0 <= measured.loader_share < 1
    assert measured.mfu is None  # nobody knows a CPU's peak
    assert measured.memory.host_peak_bytes > 1e8
    assert 6 < measured.losses[0] < 6.6  # about ln 512: the real step, on real rows
    assert set(measured.choices) >= {"attention", "loss"}
    assert measured.choices["remat"] == "save_projections (auto: the fastest that fits)"
    assert measured.model.remat == "save_projections"


def test_the_page_keeps_its_words_and_shows_the_figures(measured):
    text = f"before\n\n{page.BEGIN}\n\nold figures\n\n{page.END}\n\nafter\n"
    once = page.updated(text, [measured])
    assert once.startswith("before\n") and once.endswith("after\n") and "old figures" not in once
    assert f"{measured.tokens_per_second:,.0f}" in once
    assert "python tools/bench.py" in once
    assert page.updated(once, [measured]) == once
    with pytest.raises(ConfigError, match="end of measured"):
        page.updated("no marks", [measured])


def test_the_page_in_the_docs_is_what_the_program_makes():
    saved = sorted((ROOT / "docs/measurements").glob("*.json"))
    found = [measurement.read(file.read_text(), file.name) for file in saved]
    assert [measurement.text(one) + "\n" for one in found] == [file.read_text() for file in saved]
    text = (ROOT / "docs/performance.md").read_text()
    assert found and page.updated(text, found) == text


def test_random_rows_are_what_their_counts_say():
    config, s = load(str(DEBUG)), open_pretrained(ROOT / "configs/debug_model", weights=False)
    batch, counts = step_batches.random_batch(config, s.settings, 3)
    assert batch["tokens_BT"].shape == (8, 128) and batch["segments_BT"].max() == 3
    same = batch["segments_BT"][:, :, None] == batch["segments_BT"][:, None, :]
    causal = np.tri(128, dtype=bool)
    assert counts.attention_pairs == {None: int((same & causal).sum())}
    assert counts.tokens == counts.slots == 8 * 128 == (batch["segments_BT"] > 0).sum()


def test_rates_by_hand():
    """100 tokens in 1 s and 300 in 3 s; 40 and 20 are supervised; 1 s waited for the loader."""
    s = open_pretrained(ROOT / "configs/debug_model", weights=False).settings

    def step(tokens, seconds, waited, supervised):
        counts = BatchCounts.of_segments(np.array([tokens]), 400, {None})
        return Step(seconds, waited, counts, supervised, 0.0)

    steps = [step(100, 1.0, 0.25, 40), step(300, 3.0, 0.75, 20)]
    found = measured_steps.rates(s, "full", steps, peak=1e9)
    assert found.tokens_per_second == 400 / 4
    assert found.supervised_tokens_per_second == 60 / 4
    assert found.packing_efficiency == 400 / 800
    assert found.loader_share == 1 / 4
    work = sum(training_flops(s, one.counts, one.supervised_tokens) for one in steps)
    assert found.flops_per_second == pytest.approx(work / 4)
    assert found.mfu == pytest.approx(work / 4e9)
    again = sum(recomputed_flops(s, one.counts, "full") for one in steps)
    assert again > 0 and found.hfu == pytest.approx((work + again) / 4e9)
    unknown = measured_steps.rates(s, "full", steps, peak=None)
    assert (unknown.mfu, unknown.hfu, unknown.flops_per_second) == (
        *(None, None),
        found.flops_per_second,
    )


def test_a_file_of_other_fields_is_refused():
    with pytest.raises(ConfigError, match="old.json: not a measurement .* 'speed'"):
        measurement.read('{"cold_start": {"speed": 3}, "warm_start": {}}', "old.json")


def test_what_is_said_is_what_was_measured(measured):
    said = terminal_summary.summary(measured)
    assert f"tokens/s  {measured.tokens_per_second:,.0f}, supervised" in said
    assert "no MFU: this device's peak is not known" in said and "attention" in said
    known = dataclasses.replace(measured, mfu=0.5, hfu=0.625, peak_flops=1e15)
    assert "MFU 50.0%, HFU 62.5% of 1,000 T" in terminal_summary.summary(known)


def test_a_step_that_the_device_can_not_hold_is_refused_in_the_plans_words(monkeypatch):
    config = load(str(DEBUG))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat="full"))
    base = open_pretrained(ROOT / "configs/debug_model", weights=False)
    monkeypatch.setattr(memory, "limit_here", lambda: 2**20)
    with pytest.raises(TooLarge, match=r"step needs .* it may use 0\.0\. tools/plan.py --search"):
        Ours(config, base, num_segments=2)


@pytest.mark.parametrize(
    ("name", "gigaflops"),
    [("qwen3_0_6b", 4.99), ("llama3_2_1b", 8.22), ("qwen3_4b", 27.76), ("llama3_1_8b", 48.25)],
)
def test_shapes_to_measure_cost_what_was_published(name, gigaflops):
    """Of a token in full rows of 4,096, from the models' cards."""
    s = open_pretrained(ROOT / "configs/bench_models" / name, weights=False).settings
    counts = BatchCounts.of_segments(np.array([4096]), 4096, {None})
    assert training_flops(s, counts, 4096) / 4096e9 == pytest.approx(gigaflops, abs=0.01)


def test_weights_beside_adapters_are_kept_as_their_files_have_them(tmp_path):
    model = json.loads((ROOT / "configs/debug_model/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(model | {"dtype": "bfloat16"}))
    config = load(str(DEBUG))
    source = dataclasses.replace(config.model, source=str(tmp_path), remat="full")
    config = dataclasses.replace(config, model=source, lora=Lora())
    ours = Ours(config, open_pretrained(tmp_path, weights=False), 2)
    frozen = jax.tree.leaves(mesh_program.abstract_state(ours.program).frozen)
    assert {str(leaf.dtype) for leaf in frozen if leaf.ndim > 1} == {"bfloat16"}
