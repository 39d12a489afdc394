"""The command line: every mistake that a user can make on it gets one message and exit code 64."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from jaxsft import errors
from jaxsft.cli import flags
from jaxsft.config import (
    Checkpoint,
    Config,
    Data,
    Distil,
    Eval,
    Group,
    Lora,
    Loss,
    Mesh,
    Model,
    Optim,
    Source,
    Train,
    scorers,
    validate,
)
from jaxsft.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = '''
"""A program of the tests."""

from absl import flags

from jaxsft import errors
from jaxsft.cli.flags import define_config, run_program
from jaxsft.terminal import streams

define_config()
LIMIT = flags.DEFINE_integer("limit", None, "How many.")
flags.DEFINE_bool("fast", False, "Hurry.")


def main(config):
    outcomes = {
        0: None,
        65: errors.DataError("train.jsonl:3: bad row"),
        66: errors.CheckpointError("step 5: bad digest"),
        70: RuntimeError("our own mistake"),
        75: errors.Stopped("saved at step 7"),
        130: KeyboardInterrupt(),
        2: SystemExit(0),
        3: streams.NobodyReads(0),
        28: OSError(28, "No space left on device", "/full/x"),
    }
    if outcomes[LIMIT.value or 0]:
        raise outcomes[LIMIT.value or 0]
    print(f"peak_lr={config.optim.peak_lr}")


if __name__ == "__main__":
    run_program(main)
'''


def make_data(*train: Source, **fields) -> Data:
    return Data(**{"train": train or (Source(path="a.jsonl"),), "sequence_length": 8, **fields})


def make_config(**sections) -> Config:
    defaults = {
        "model": Model(source="somewhere"),
        "data": Data(train=(Source(path="a.jsonl"), Source(path="b.jsonl")), sequence_length=8),
        "optim": Optim(peak_lr=1e-3),
        "train": Train(batch_size=2, steps=3),
    }
    return Config(**(defaults | sections))


@pytest.fixture
def program(tmp_path):
    """Runs the program above with these arguments in a folder that holds config.py."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "config.py").write_text(tiny.CONFIG_FILE)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "program.py", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    return run


def test_override_changes_one_field():
    config = flags.override(make_config(), "optim.peak_lr", "2e-5")
    assert config == make_config(optim=Optim(peak_lr=2e-5))


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("optim.max_grad_norm", "None", None),
        ("optim.max_grad_norm", "0.5", 0.5),
        ("data.cache_dir", "None", None),
        ("data.template", "chat.jinja", "chat.jinja"),
        ("model.remat", "full", "full"),
        ("eval.match", "json", "json"),
        ("eval.match", "None", None),
        (
            "eval.scorers",
            '["exact", {"kind": "regex", "pattern": "a", "sets": ["b"]}]',
            ("exact", scorers.Regex(pattern="a", sets=("b",))),
        ),
        ("checkpoint.export", "false", False),
        ("train.steps", "12", 12),
        ("model.source", "a=b", "a=b"),
        ("data.train_parts", '["content"]', ("content",)),
        ("model.new_tokens", '["<|im_start|>","<|im_end|>"]', ("<|im_start|>", "<|im_end|>")),
        ("data.template_options", '{"enable_thinking": false}', {"enable_thinking": False}),
        ("data.eval", '[{"path": "a.jsonl", "count": 3}]', (Source(path="a.jsonl", count=3),)),
        (
            "optim.groups",
            '[{"pattern": "m*", "frozen": true}]',
            (Group(pattern="m*", frozen=True),),
        ),
    ],
)
def test_override_reads_the_type_of_the_field(path, text, value):
    section, field = path.split(".")
    config = flags.override(make_config(), path, text)
    assert vars(vars(config)[section])[field] == value


def test_one_field_of_a_section_that_is_off_switches_it_on():
    config = flags.override(make_config(), "lora.rank", "8")
    assert config.lora == Lora(rank=8)
    assert flags.override(config, "lora.alpha", "16").lora == Lora(rank=8, alpha=16.0)
    assert flags.override(config, "lora", "None").lora is None
    with pytest.raises(ConfigError, match="Lora has no field 'rnak'; did you mean 'rank'?"):
        flags.override(make_config(), "lora.rnak", "8")
    assert flags.override(make_config(), "distil.alpha", "0.1").distil == Distil(alpha=0.1)


def test_override_reaches_into_a_tuple():
    config = flags.override(make_config(), "data.train[1].path", "x.jsonl")
    assert [source.path for source in config.data.train] == ["a.jsonl", "x.jsonl"]


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("optim.peaklr", "1", "Optim has no field 'peaklr'; did you mean 'peak_lr'?"),
        ("optin.peak_lr", "1", "Config has no field 'optin'; did you mean 'optim'?"),
        ("eval.zzz", "1", "Eval has no field 'zzz'; it has every_steps, "),
        ("train.steps", "ten", "config.train.steps=ten: expected int or None"),
        ("train.batch_size", "1.5", "config.train.batch_size=1.5: expected int"),
        ("train.batch_size", "None", "config.train.batch_size=None: expected int"),
        ("model.remat", "ful", "'full', 'offload'; did you mean 'full'?"),
        ("checkpoint.export", "yes", "config.checkpoint.export=yes: expected bool"),
        ("optim", "1", "config.optim=1: a whole section can't be set"),
        ("data.train", "x.jsonl", "config.data.train=x.jsonl: expected a tuple of Source, as a JS"),
        ("data.train", '[{"pth": "x"}]', "config.data.train[0].pth: Source has no such field"),
        ("data.train", "[3]", "config.data.train[0]=3: expected the fields of Source"),
        (
            "optim.groups",
            '[{"frozen": true}]',
            "missing 1 required keyword-only argument",
        ),
        ("data.train_parts", "content", "'end_of_turn', as a JSON list"),
        ("data.train_parts", '["contents"]', "expected a tuple of one of 'content'"),
        ("data.template_options", '{"a": []}', "or str, as a JSON object"),
        ("data.train[2].path", "x", "config.data.train[2]: config.data.train has 2 items"),
        ("data.train[x].path", "x", "config.data.train[x]: expected a field name, or name[index]"),
        ("model.source[0]", "x", "config.model.source is one value, not a list"),
        ("optim[0].peak_lr", "1", "config.optim is one value, not a list"),
        ("train.steps.more", "1", "config.train.steps=3: is a value, it has no fields"),
    ],
)
def test_override_refuses(path, text, message):
    with pytest.raises(ConfigError) as caught:
        flags.override(make_config(), path, text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": Train(batch_size=2)}, "epochs=None and steps=None; set exactly one"),
        ({"train": Train(batch_size=2, epochs=1, steps=9)}, "epochs=1 and steps=9; set exactly"),
        ({"train": Train(batch_size=6, steps=1, microbatches=4)}, "train.microbatches=4: does not"),
        ({"train": Train(batch_size=0, steps=1)}, "train.batch_size=0: must be finite and greater"),
        ({"model": Model(source="x", unroll_layers=0)}, "model.unroll_layers=0: must be finite"),
        ({"train": Train(batch_size="8", steps=1)}, "train.batch_size='8': expected int, got str"),
        ({"train": Train(batch_size=True, steps=1)}, "train.batch_size=True: expected int"),
        ({"optim": Optim(peak_lr=float("nan"))}, "optim.peak_lr=nan: must be finite"),
        ({"optim": Optim(peak_lr=1e39)}, "config.optim.peak_lr=1e+39: is infinite in float32"),
        ({"optim": Optim(peak_lr=1, eps=1e-40)}, "config.optim.eps=1e-40: is 0 in float32, in wh"),
        ({"optim": Optim(peak_lr=1, warmup_steps=-1)}, "optim.warmup_steps=-1: must be 0 or more"),
        ({"optim": Optim(peak_lr=1, weight_decay=-0.1)}, "weight_decay=-0.1: must be 0 or more"),
        ({"optim": Optim(peak_lr=1, final_lr_fraction=2)}, "final_lr_fraction=2: must lie in"),
        ({"optim": Optim(peak_lr=1, b2=1.0)}, "optim.b2=1.0: must lie in [0, 1)"),
        ({"loss": Loss(z_loss=-0.1)}, "config.loss.z_loss=-0.1: must be finite, and 0 or more"),
        ({"loss": Loss(router_z=float("inf"))}, "config.loss.router_z=inf: must be finite"),
        ({"loss": Loss(router_balance=-1.0)}, "config.loss.router_balance=-1.0: must be finite"),
        ({"loss": Loss(neftune_alpha=0.0)}, "config.loss.neftune_alpha=0.0: must be finite and gr"),
        ({"loss": Loss(label_smoothing=1.0)}, "config.loss.label_smoothing=1.0: is a share; must"),
        ({"loss": Loss(kind="dft", label_smoothing=0.1)}, "label_smoothing=0.1: kind='dft' has a"),
        ({"loss": Loss(kind="eaft")}, "config.loss.kind='eaft': expected one of 'cross_entropy', "),
        ({"loss": Loss(source_weights={"a": 0.0})}, "source_weights={'a': 0.0}: must be finite a"),
        ({"distil": Distil()}, "config.distil.teacher=None: name the model to learn from"),
        ({"distil": Distil(teacher=" ")}, "config.distil.teacher=' ': name the model to learn"),
        ({"distil": Distil(top_k=4, temperature=2.0)}, "config.distil.temperature=2.0: the log-pr"),
        ({"distil": Distil(top_k=4, dtype="float32")}, "config.distil.dtype=float32: is of a te"),
        ({"distil": Distil(teacher="t", alpha=1.0)}, "config.distil.alpha=1.0: is the share of"),
        ({"distil": Distil(teacher="t", alpha=-0.5)}, "config.distil.alpha=-0.5: is the share of"),
        (
            {"distil": Distil(teacher="t", temperature=0.0)},
            "config.distil.temperature=0.0: must be",
        ),
        ({"distil": Distil(teacher="t", top_k=0)}, "config.distil.top_k=0: must be 1 or more"),
        ({"distil": Distil(teacher="t", dtype="int4")}, "config.distil.dtype='int4': expected one"),
        ({"lora": Lora(rank=0)}, "config.lora.rank=0: must be 1 or more"),
        ({"lora": Lora(ranks={"mlp": 0})}, "config.lora.ranks['mlp']=0: must be 1 or more"),
        ({"lora": Lora(alpha=0.0)}, "config.lora.alpha=0.0: must be finite and greater than 0"),
        (
            {"lora": Lora(dropout=1.0)},
            "config.lora.dropout=1.0: is a share of numbers; must lie in",
        ),
        ({"lora": Lora(init="pissa", dora=True)}, "config.lora.init=pissa: not with dora=True"),
        ({"lora": Lora(init="pissa", dropout=0.1)}, "lora.init=pissa: not with dropout=0.1"),
        (
            {"model": Model(source="x", adapter="a/b", weights="random")},
            "weights=random: config.model.adapter=a/b was trained on",
        ),
        ({"lora": Lora(lr_ratio=-1.0)}, "config.lora.lr_ratio=-1.0: must be finite"),
        ({"lora": Lora(targets=())}, "config.lora.targets=(): nothing would get an adapter"),
        ({"checkpoint": Checkpoint(merge=True)}, "merge=True: there is no adapter to merge"),
        (
            {"lora": Lora(), "model": Model(source="m", adapter="a")},
            "config.model.adapter=a: brings its own rank",
        ),
        ({"data": make_data(train=())}, "config.data.train=(): at least one Source"),
        ({"data": make_data(Source(path="a", weight=-1.0))}, "train[0].weight=-1.0: must be"),
        ({"data": make_data(Source(path="a", count=0))}, "config.data.train[0].count=0: must be"),
        ({"data": make_data(Source(path="a", weight=1, count=1))}, "weight=1 and count=1; set one"),
        ({"data": make_data(eval=(Source(path="a", count=1),))}, "data.eval[0]: weight and count"),
        ({"data": make_data(template_date="22.11.2026")}, "template_date=22.11.2026: expected YY"),
        (
            {"data": make_data(cache_dir="gs://b/c")},
            "config.data.cache_dir=gs://b/c: is mapped into",
        ),
        ({"data": make_data(train_parts=())}, "train_parts=(): must name at least one part"),
        ({"data": make_data(train_parts=("content",) * 2)}, "'content'): must name at least"),
        ({"data": make_data(workers=0)}, "config.data.workers=0: must be"),
        ({"model": Model(source="m", new_tokens=("<|a|>",) * 2)}, "'<|a|>'): each must be there"),
        ({"model": Model(source="m", new_tokens=(" ",))}, "new_tokens=(' ',): each must be"),
        (
            {"model": Model(source="m", continue_from=" ")},
            "continue_from=' ': expected the directory",
        ),
        ({"model": Model(source="m", pad_vocab_to=0)}, "model.pad_vocab_to=0: must be finite"),
        ({"mesh": Mesh(tensor=0)}, "mesh.tensor=0: must be finite and greater than 0"),
        ({"eval": Eval(prompts=4)}, "eval.prompts=4: data.eval is empty"),
        ({"eval": Eval(prompts=-4)}, "eval.prompts=-4: must be 0 or more"),
        ({"eval": Eval(match="jsn")}, "eval.match='jsn': expected one of 'exact', 'json' or None"),
        ({"data": Data(train=(), sequence_length=8)}, "data.train=(): at least one Source"),
        (
            {"data": Data(train=(Source(path="a"),), sequence_length=1)},
            "data.sequence_length=1: a target needs a token before it",
        ),
        (
            {"data": Data(train=(Source(path="a"), Source(path=3)), sequence_length=8)},
            "config.data.train[1].path=3: expected str, got int",
        ),
    ],
)
def test_validate_refuses(sections, message):
    with pytest.raises(ConfigError) as caught:
        validate(make_config(**sections))
    assert message in str(caught.value)


def test_validate_accepts_what_the_defaults_say():
    validate(make_config())


def test_program_runs_the_config_with_its_overrides(program):
    done = program("--config=config.py", "--config.optim.peak_lr=0.25", "--nofast")
    assert (done.returncode, done.stdout, done.stderr) == (0, "peak_lr=0.25\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confg=config.py"], "Unknown command line flag 'confg'. Did you mean: config"),
        (["--config=config.py", "--limit=x"], "flag --limit=x: invalid literal"),
        (["--config=config.py", "--limit=1", "--limit", "2"], "--limit: given twice"),
        (["--config=config.py", "--fast", "--nofast"], "--fast: given twice"),
        (["--config=config.py", "--config=config.py"], "--config: given twice"),
        (
            ["--config=config.py", "--config.train.seed=1", "--config.train.seed=2"],
            "--config.train.seed: given twice",
        ),
        (["--config=config.py", "--config.train.seed", "2"], "--config.train.seed: expected --"),
        (["--config=config.py", "train.seed=2"], "'train.seed=2': unexpected argument"),
        (["--limit=0"], "--config is missing"),
        (["--config="], "--config is missing"),
        (["--config=confg.py"], "--config=confg.py: no such file; did you mean 'config.py'?"),
        (["--config=config.py", "--config.train.steps=-1"], "config.train.steps=-1: must be"),
    ],
)
def test_program_refuses_in_one_line_with_64(program, arguments, message):
    done = program(*arguments)
    assert done.returncode == errors.BAD_CONFIG
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errors.BAD_DATA, "error: train.jsonl:3: bad row\n"),
        (errors.BAD_MODEL, "error: step 5: bad digest\n"),
        (errors.STOPPED, "saved at step 7\n"),
    ],
)
def test_program_exit_code_says_what_went_wrong(program, code, message):
    done = program("--config=config.py", f"--limit={code}")
    assert (done.returncode, done.stderr) == (code, message)


def test_an_interrupt_is_one_line_and_the_code_of_a_stop(program):
    done = program("--config=config.py", "--limit=130")
    assert done.returncode == errors.STOPPED
    assert done.stderr == "stopped by SIGINT; start the same command again\n"


def test_a_place_that_fails_anywhere_is_one_line(program):
    done = program("--config=config.py", "--limit=28")
    assert done.returncode == errors.BAD_CONFIG
    assert done.stderr.startswith("error: /full/x: No space left on device; the disk is full: free")


def test_nothing_below_main_can_end_the_program_as_if_it_were_done(program):
    done = program("--config=config.py", "--limit=2")
    assert done.returncode == errors.INTERNAL and "defect of jaxsft" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_defect(program):
    """`jaxsft inspect | head`."""
    done = program("--config=config.py", "--limit=3")
    assert (done.returncode, done.stderr) == (errors.DONE, "")


def test_program_shows_the_traceback_of_its_own_mistakes_only(program):
    done = program("--config=config.py", f"--limit={errors.INTERNAL}")
    assert done.returncode == errors.INTERNAL
    assert "RuntimeError: our own mistake" in done.stderr and "Traceback" in done.stderr


def test_program_help_lists_flags_and_fields(program):
    done = program("--help")
    assert done.returncode == errors.DONE
    assert "A program of the tests." in done.stdout
    assert "--limit: How many. (default: None)" in done.stdout
    assert "--config.optim.b2: float (default: 0.999): decay of" in done.stdout
    assert "--config.data.train[0].path: str: .jsonl," in done.stdout
    assert "absl" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--help"], errors.DONE, "--workdir"),
        (["--config=configs/debug.py", "--wrkdir=x"], errors.BAD_CONFIG, "workdir"),
        (["--config=configs/debgu.py", "--workdir=x"], errors.BAD_CONFIG, "debug.py"),
    ],
)
def test_train_answers_before_jax_is_imported(arguments, code, message):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jaxsft.train", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - start
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert seconds < 9  # promised: 3, on a machine that does nothing else
