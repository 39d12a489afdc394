"""The measurements for one GPU, dry on a CPU: each part runs, and leaves its lines."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench.gpu import attention_work, results, timing, whole_runs

from jaxsft.files import run_names
from jaxsft.kernels.experts.triton_tiling import Tilings
from tests import quick_compiling

ROOT = Path(__file__).resolve().parents[2]


def measured(out, *parts):
    """What the program said, and its lines by part."""
    environment = {"TINY": "1", "OUT": str(out), "SCRATCH": str(out / "scratch"), "LIMIT": "1000"}
    environment |= {"PY": sys.executable, "TORCH": "mask,causal", "DET": "bf16det"}
    environment["XLA_FLAGS"] = quick_compiling.XLA_FLAGS
    done = subprocess.run(
        [ROOT / "tools/bench/gpu/run.sh", *parts],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    failed = [line for line in lines if "error" in line or line.get("rc")]
    assert not failed, (failed, (out / "log.txt").read_text()[-3000:])
    found = {}
    for line in lines:
        found.setdefault(line["part"], []).append(line)
    return done.stdout, found


def test_cheap_parts_leave_lines_and_a_table(tmp_path):
    said, found = measured(tmp_path, "facts", "experts")
    assert set(found) == {"facts", "matmul", "copy", "experts", "expert_tile", "expert_tiles"}
    assert found["facts"][0]["versions"]["jax"]
    assert [one["name"] for one in found["experts"]][:2] == ["dense", "triton"]
    measured_ones = [one for one in found["experts"] if "left_out" not in one]
    assert len(measured_ones) >= 4
    assert all(one["differs_from_dense"] < 2e-2 for one in measured_ones)
    assert [one["kernel"] for one in found["expert_tile"]] == list(Tilings._fields)
    assert found["experts"][1]["bitwise_repeatable"] is True
    table = said[said.index("= TABLE =") :]
    assert "experts name=tiled ms=" in table and "versions" not in table


@pytest.mark.slow
def test_parts_that_a_cpu_can_take(tmp_path):
    """Those beside them take minutes: TINY=1 tools/bench/gpu/run.sh llama1b qwen4b e2e peer."""
    parts = "cpu attention tiles torch torch_attention qwen06b pytest det"
    said, found = measured(tmp_path, *parts.split())
    for part in parts.split():
        assert part == "cpu" or f"-- {part} " in said
    assert all(one["ok"] for one in found["selftest"])
    assert {one["name"] for one in found["attn"]} == {"blocked", "xla", "torch_sdpa_causal"}
    shapes = [one["name"].split()[0] for one in found["step"]]
    assert shapes == ["qwen3_0_6b"]
    assert all(one["plan_tflop"] > 0 and one["plan_GB_moved"] > 0 for one in found["step"])
    assert {one["mode"] for one in found["torch"]} == {"mask", "causal"}


def test_work_of_attention_by_hand():
    """3 pairs, 2 heads of 5: seven products of 2 x 3 x 2 x 5 FLOPs."""
    assert attention_work.training_flops(3, 2, 5) == 420


def test_sizes_of_attention_can_be_chosen(monkeypatch):
    monkeypatch.setenv("TINY", "0")
    assert attention_work.sizes() == [(1, 4096), (4, 4096), (1, 8192)]
    monkeypatch.setenv("ATTENTION_SIZES", "2x512,1x64")
    assert attention_work.sizes() == [(2, 512), (1, 64)]
    ids_T = attention_work.segment_ids(8, 3)
    assert ids_T.tolist() == [1, 1, 1, 2, 2, 2, 3, 3]
    # 6 + 6 + 3 pairs in each of 2 rows, 32 heads of 128, seven products
    assert attention_work.tflops(2, ids_T, 1e-9) == 30 * 32 * 128 * 14


def test_a_run_that_differs_from_itself_is_told_from_a_fault_of_resuming(tmp_path, monkeypatch):
    """The third run, from scratch again, logs another loss at step 11; the resumed one doesn't."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    taken = []

    def train(workdir, name, begun=False):
        taken.append(workdir.name)
        (workdir / run_names.EXPORT).mkdir(parents=True, exist_ok=True)
        (workdir / run_names.CHECKPOINTS / "20").mkdir(parents=True, exist_ok=True)
        losses = {10: 3.0, 11: 2.5 if len(taken) == 3 else 2.0, 20: 1.0}
        lines = [json.dumps({"step": step, "loss": loss}) for step, loss in losses.items()]
        (workdir / run_names.METRICS).write_text("\n".join(lines))
        (workdir / run_names.EXPORT / "a.safetensors").write_text(str(losses))
        return whole_runs.Ended(0, 1.0, [], "")

    monkeypatch.setattr(whole_runs, "_train", train)
    whole_runs.measure("bf16+twice")
    assert taken == ["bf16", "bf16_resumed", "bf16_again"]
    lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    kept = ("run", "bitwise", "losses_equal", "first_different")
    assert [tuple(line.get(name) for name in kept) for line in lines] == [
        ("bf16", None, None, None),
        ("bf16 resumed at 10", True, True, None),
        ("bf16 again", False, False, 11),
    ]


def test_milliseconds_are_of_one_call(monkeypatch):
    clock = iter([0.0, 0.8, 1.0, 1.4, 2.0, 2.6])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    assert math.isclose(timing.milliseconds(lambda: calls.append(0), 4), 100.0)  # the 0.4 s
    assert len(calls) == 1 + 3 * 4
    assert timing.relative(np.array([3.0, 4.0]), np.array([3.0, 3.0])) == 0.2


def test_the_table_leaves_out_what_is_long(tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    results.put("selftest", shape=(1, 2), ok=True, seconds=1.23456, error=None)
    results.put("step", choices={"attention": "cudnn"}, name="x" * 500)
    one, two = results.table().splitlines()[1:]
    assert one == "selftest (1, 2) ok=True seconds=1.235"
    assert two == f"step name={'x' * 150} cudnn"
    assert results.said(ValueError("a\n\n b")) == "ValueError: a | b"
