"""The whole program as a user runs it: configs/debug.py, stopped, started again, exported."""

import hashlib
import html
import json
import re
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from safetensors import safe_open

import jaxsft.run
from jaxsft.devices import distributed
from jaxsft.rundir.step_log import StepLog
from jaxsft.training import mesh_program, parameters
from tests.faults import fault
from tests.programs import ROOT, tool, train

# What may differ between two equal runs.
CLOCK = {"tokens_per_second", "supervised_tokens_per_second", "step_seconds", "data_wait_seconds"}
CLOCK |= {"memory_bytes"}  # nor is this the same in two processes


SECRET = "hf_canary1234567890"


def command(workdir, *flags):
    """What starts a run in a process of its own, for what only that can show."""
    config = f"--config={ROOT / 'configs' / 'debug.py'}"
    return [sys.executable, "-m", "jaxsft.train", config, f"--workdir={workdir}", *flags]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_clock(lines):
    return [{name: v for name, v in line.items() if name not in CLOCK} for line in lines]


def weights(workdir):
    return weights_in(workdir / "export")


def weights_in(directory):
    with safe_open(directory / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def assert_same_result(actual, expected):
    """Parameters to the last bit, and every figure of every step."""
    ours, theirs = weights(actual), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name, strict=True)
    lines = [without_clock(read_lines(path / "metrics.jsonl")) for path in (actual, expected)]
    assert lines[0] == lines[1]


@pytest.fixture(scope="module", autouse=True)
def only_meant_transfers():
    """The loops of these runs pass nothing to a device but what is put there by name."""
    train = jaxsft.run.train

    def guarded(*arguments):
        with jax.transfer_guard("disallow"):
            return train(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxsft.run, "train", guarded)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An uninterrupted run of configs/debug.py: 20 steps, saved after 10 and 20."""
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    return workdir, train(workdir, env={"HF_TOKEN": SECRET})


def test_a_run_leaves_what_the_design_promises(run):
    workdir, done = run
    names = {path.name for path in workdir.iterdir()}
    promised = {"config.json", "metrics.jsonl", "samples.jsonl", "report.html", "summary.json"}
    promised |= {"data_report.json"}
    assert promised | {"checkpoints", "export"} <= names and "error.json" not in names
    lines = read_lines(workdir / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert all(line["skipped_steps"] == 0 for line in steps)
    said = re.findall(r"^step +(\d+)/20  loss ([\d.]+)", done.stdout, re.MULTILINE)
    assert said and said[-1][0] == "20"
    assert all(loss == f"{steps[int(step) - 1]['loss']:.4f}" for step, loss in said)
    for line in steps:
        apart = [line[f"loss/{name}"] for name in ("train", "prompts")]
        apart = [loss for loss in apart if loss is not None]
        assert apart and min(apart) - 1e-6 <= line["loss"] <= max(apart) + 1e-6
    report = json.loads((workdir / "data_report.json").read_text())
    assert report["plan"]["steps"] == 20 and report["train"]["rows_in"] == 60
    assert "2,585 tokens rendered = 692 supervised" in done.stdout
    losses = [line["eval/heldout/loss"] for line in lines if "eval/heldout/loss" in line]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert "steps in all" in done.stdout and done.stdout.index("steps in all") < done.stdout.index(
        "step  "
    )
    phases = [sample["phase"] for sample in read_lines(workdir / "samples.jsonl")]
    assert phases == ["before", "before", "after", "after"]
    config = json.loads((workdir / "config.json").read_text())
    assert config["train"]["batch_size"] == 8 and config["model"]["remat"] == "auto"
    (start,) = read_lines(workdir / "starts.jsonl")
    assert 0 < start["predicted"]["memory_bytes"] < start["host_bytes"]
    assert "no time of a step: what a cpu can do is not known" in done.stdout
    assert "no prediction: what a cpu can do is not known" in (workdir / "report.html").read_text()
    (embedding, head) = json.loads((workdir / "summary.json").read_text())["tables"]
    assert 0 < embedding["moved"] < embedding["rows"] == head["moved"] == 512
    assert len(embedding["top"]) == 20 and all(row["text"] for row in embedding["top"])
    said = r"^remat +save_projections \(auto: the fastest that fits\)$"
    assert len(re.findall(said, done.stdout, re.MULTILINE)) == 1


def test_a_token_of_the_environment_stays_there(run):
    workdir, done = run
    files = [path for path in workdir.rglob("*") if path.is_file()]
    assert len(files) > 10 and SECRET not in done.stdout + done.stderr
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_ten_steps_and_ten_after_a_restart_equal_twenty(run, tmp_path):
    workdir = tmp_path / "workdir"
    shutil.copytree(run[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    shutil.rmtree(workdir / "export")
    done = train(workdir)
    assert "from step 10 of 20" in done.stdout
    assert_same_result(workdir, run[0])


@fault(
    "stopping",
    "SIGTERM, SIGINT or SIGHUP while it trains",
    "finishes the step, saves, ends; the same command goes on, to the bits of the undisturbed run",
    lost="nothing",
    code=75,
)
def test_a_run_stopped_by_a_signal_goes_on_where_it_was(run, tmp_path, monkeypatch):
    """Between two saves. That processes are reached by one is shown by those of several."""
    add = StepLog.add

    def stopping(log, done, *given):
        add(log, done, *given)
        if done == 13:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(StepLog, "add", stopping)
    stopped = train(tmp_path, "--config.eval.prompts=0", check=False)
    monkeypatch.undo()
    assert stopped.returncode == 75, stopped.stderr
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"10", "13"}
    page = (tmp_path / "report.html").read_text()
    assert "stopped after step 13 of 20" in page and "stopped by a signal" in page
    again = train(tmp_path, "--config.eval.prompts=0")
    assert "from step 13 of 20" in again.stdout
    assert_same_result(tmp_path, run[0])


def test_each_start_says_how_long_it_took_to_its_first_step(run, tmp_path):
    workdir = tmp_path / "workdir"
    shutil.copytree(run[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    again = train(workdir, "--config.eval.prompts=0", "--config.checkpoint.export=false")
    kinds = {1: (run[1], "evaluation"), 11: (again, "restore")}
    for step, (done, own) in kinds.items():
        said = rf"^start +step {step} ended after ([\d.]+) s: (imports .*)$"
        ((total, parts),) = re.findall(said, done.stdout, re.MULTILINE)
        names, seconds = zip(*(part.rsplit(" ", 1) for part in parts.split(", ")), strict=True)
        phases = ("imports", "devices", "data", "model", "compile", own, "first step")
        assert names == phases
        assert sum(map(float, seconds)) == pytest.approx(float(total), abs=0.5)
    summary = json.loads((workdir / "summary.json").read_text())
    assert list(summary["start_seconds"]) == ["imports", "devices", "model", "data", "compile"] + [
        *("restore", "first step"),
    ]


def test_a_finished_run_started_again_changes_nothing(run, tmp_path):
    workdir = tmp_path / "workdir"
    shutil.copytree(run[0], workdir)
    train(workdir)
    assert_same_result(workdir, run[0])
    samples = [read_lines(path / "samples.jsonl") for path in (workdir, run[0])]
    assert samples[0] == samples[1]


def test_a_finished_run_can_be_made_longer(run, tmp_path):
    """With another remat policy, too: it changes no more than rounding."""
    workdir = tmp_path / "workdir"
    shutil.copytree(run[0], workdir)
    flags = ["--config.train.steps=22", "--config.model.remat=full"]
    done = train(workdir, *flags, "--config.eval.prompts=0")
    assert re.search(r"^remat +full \(config.model.remat\)$", done.stdout, re.MULTILINE)
    assert "config.train.steps was 20 and is 22" in done.stdout
    assert "from step 20 of 22" in done.stdout
    lines = read_lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 23))
    assert without_clock(lines)[:20] == without_clock(read_lines(run[0] / "metrics.jsonl"))[:20]


def test_a_run_begins_with_the_weights_of_another(run, tmp_path):
    flags = [
        "--config.train.steps=1",
        "--config.eval.prompts=0",
        "--config.checkpoint.export=false",
    ]
    done = train(tmp_path, f"--continue_from={run[0]}:10", *flags)
    assert f"weights of {run[0]} after its step 10; fresh optimizer, step 0" in done.stdout
    before, other = read_lines(tmp_path / "metrics.jsonl"), read_lines(run[0] / "metrics.jsonl")
    name = "eval/heldout/loss"
    (at_ten,) = (line[name] for line in other if line["step"] == 10 and name in line)
    assert before[0][name] == at_ten and before[0]["step"] == 0
    refused = train(tmp_path / "w", f"--continue_from={run[0]}:11", *flags, check=False)
    assert refused.returncode == 66
    assert f"--continue_from={run[0]}:11: step=11: " in refused.stderr
    assert not re.search("^(data|plan|step) ", refused.stdout, re.MULTILINE)  # nothing took time


@fault(
    "numbers",
    "loss or gradients that are not finite, `optim.max_skipped_steps` steps in a row",
    "skips each of them and says which rows it had, then ends with the last good checkpoint and"
    " exports nothing",
    lost="the steps since that checkpoint, which would diverge again",
    code=71,
)
def test_a_run_that_diverges_ends_with_its_last_good_checkpoint(tmp_path):
    flags = ["--config.optim.peak_lr=1e30", "--config.checkpoint.save_every_steps=1"]
    done = train(tmp_path, *flags, "--config.eval.prompts=0", check=False)
    assert done.returncode == 71 and "training diverged: steps 2 to 5 were skipped" in done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert "error.json" in names and "export" not in names
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["skipped_steps"] == 4
    odd = read_lines(tmp_path / "odd_steps.jsonl")
    assert [(line["step"], line["why"]) for line in odd] == [(n, "skipped") for n in range(2, 6)]
    assert all(line["examples"] for line in odd)
    assert "step 5 was skipped: loss or gradients were not finite; not finite for" in done.stdout


@fault(
    "numbers",
    "the devices' memory runs out in a step",
    "ends with what needs less: fewer rows in a part, another remat",
    lost="the steps since the last checkpoint",
    code=64,
)
def test_memory_that_runs_out_ends_a_run_with_what_needs_less(tmp_path, monkeypatch):
    """Which the policy is not that it has taken by itself; on a GPU, by what is said first."""

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory, 9.50GiB.\nmore")

    monkeypatch.setattr(jaxsft.run, "train", exhausted)
    monkeypatch.setattr(mesh_program, "ways", lambda *_: [parameters.Way("full", 1)])
    monkeypatch.setattr(distributed, "open_devices", lambda: "uses up to 92% of each GPU")
    done = train(tmp_path, "--config.eval.prompts=0", check=False)
    assert done.returncode == 64 and "memory, 9.50GiB.; less is needed with" in done.stderr
    assert "remat" not in done.stderr and "\nmemory     uses up to 92% of each" in done.stdout


def test_the_export_loads_in_transformers_with_equal_logits(run):
    import torch
    import transformers

    directory = run[0] / "export"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_dict=False
    )
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    actual = jaxsft.load_model(directory)(np.array([ids], np.int32))
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)
    eos = theirs.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in eos
    base = ROOT / "configs" / "debug_model"
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (directory / name).read_bytes() == (base / name).read_bytes()


def test_the_card_says_how_the_model_was_made(run):
    workdir, done = run
    card = (workdir / "export" / "README.md").read_text()
    data = json.loads((workdir / "summary.json").read_text())
    template = (ROOT / "configs" / "debug_model" / "chat_template.jinja").read_bytes()
    for said in (
        "- Base model: debug_model",
        "- Training data (fingerprint): ",
        f"- Chat template (SHA-256): {hashlib.sha256(template).hexdigest()}",
        "- Tokens that carried loss: assistant messages (all_turns), ",
        "of these: content, reasoning, tool_calls, end_of_turn",
        f"| eval/heldout/loss | {data['before']['eval/heldout/loss']:.4g} |",
        "--config=",
        f"jax {data['versions']['jax']}",
    ):
        assert said in card, said


def test_any_checkpoint_can_be_exported(run, tmp_path):
    def export(*flags):
        return tool("export_hf", f"--workdir={run[0]}", *flags)

    done = export(f"--output={tmp_path / 'last'}")
    assert done.returncode == 0, done.stderr
    done = export(f"--output={tmp_path / 'tenth'}", "--step=10", "--dtype=float16", "--check")
    assert done.returncode == 0, done.stderr
    assert "of transformers' on the same tokens" in done.stdout
    assert weights_in(tmp_path / "tenth")["model.norm.weight"].dtype == np.float16
    name = "model.safetensors"
    last = (tmp_path / "last" / name).read_bytes()
    assert last == (run[0] / "export" / name).read_bytes()
    assert last != (tmp_path / "tenth" / name).read_bytes()
    refused = export(f"--output={tmp_path / 'none'}", "--step=11")
    assert refused.returncode == 66
    assert "--step=11" in refused.stderr and "[10, 20]" in refused.stderr
    assert_exports_gguf(export, tmp_path)


def assert_exports_gguf(export, tmp_path):
    """Step 10 of 20 as a .gguf file has the values of its float16 safetensors; norms are wider."""
    from jaxsft.convert import pretrained

    output = tmp_path / "tenth.gguf"
    done = export(f"--output={output}", "--format=gguf", "--gguf_dtype=f16", "--step=10")
    assert done.returncode == 0, done.stderr
    written, tenth = (pretrained.open_pretrained(path) for path in (output, tmp_path / "tenth"))
    assert set(written.tensors.names()) == set(tenth.tensors.names())
    for name in tenth.tensors.names():
        wanted, found = (base.tensors.read(name) for base in (tenth, written))
        assert found.dtype == ("float16" if wanted.ndim > 1 else "float32"), name
        np.testing.assert_array_equal(found.astype("float16"), wanted, strict=True, err_msg=name)
    ends = [set(base.generation_config["eos_token_id"]) for base in (written, tenth)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--config.optim.peak_lr=1e-3"], 66, "config.optim.peak_lr was 0.003 when this run began"),
        (["--config.model.source=/nowhere/model"], 66, "/nowhere/model"),
        (["--config.eval.batch_size=12"], 64, "config.eval.batch_size=12"),
    ],
)
def test_what_a_user_can_mend_is_one_message(run, tmp_path, flags, code, message):
    workdir = tmp_path / "workdir"
    shutil.copytree(run[0], workdir)
    done = train(workdir, *flags, check=False)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    error = json.loads((workdir / "error.json").read_text())
    assert error["exit_code"] == code and message in error["message"]
    page = html.unescape((workdir / "report.html").read_text())
    assert "A later start of the run ended with an error" in page and message in page
    before, after = ((path / "config.json").read_bytes() for path in (run[0], workdir))
    assert before == after


@fault(
    "data",
    "rows that can't be read",
    "ends before anything is computed, with file, line and reason of each",
    lost="nothing",
    code=65,
)
def test_bad_rows_stop_the_run_with_their_line(tmp_path):
    data = tmp_path / "train.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"messages": [{"role": "user", "content": "a"}, {"role": "assitant", "content": "b"}]}
    data.write_text("".join(json.dumps(row) + "\n" for row in (good, bad, good)))
    done = train(tmp_path / "w", f"--config.data.train[0].path={data}", check=False)
    assert done.returncode == 65
    assert f"{data}:2: messages[1] has role 'assitant'" in done.stderr
