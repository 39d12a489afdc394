"""Nothing that a run writes or says holds a secret, however it ends; and no flag takes one."""

import json
import re
import shutil

import fsspec
import pytest

from jaxsft.cli.programs import by_name
from jaxsft.terminal import redact
from tests import programs
from tests.faults import fault

SHAPED = "hf_" + "SeCrEt" * 4  # known by its form, and in the name of a directory
PLAIN = "0123456789abcdef0123456789"  # known by the variable that holds it
PASSWORD = "pass-of-a-url"
DEBUG = programs.ROOT / "configs"
ENVIRONMENT = {"HF_TOKEN": SHAPED, "WANDB_API_KEY": PLAIN}


@pytest.fixture
def given(tmp_path):
    """Flags of a run whose model, data and directory have secrets in their names; the directory."""
    parent = tmp_path / SHAPED / PLAIN
    parent.mkdir(parents=True)
    shutil.copytree(DEBUG / "debug_model", parent / "model")
    url = f"memory://me:{PASSWORD}@host/train.jsonl"
    rows = (DEBUG / "debug_data" / "train.jsonl").read_text()
    asked = {"role": "user", "content": f"Is api_key={PASSWORD} right, or {PLAIN}?"}
    row = {"messages": [asked, {"role": "assistant", "content": "No."}]}
    with fsspec.open(url, "w") as file:
        file.write(rows + json.dumps(row) + "\n")
    held_out = parent / "heldout.jsonl"
    held_out.write_text(json.dumps(row) + "\n")
    told = [f"--config.model.source={parent / 'model'}", "--config.train.steps=2"]
    told += [f"--config.data.train[0].path={url}", f"--config.data.train[0].name={PLAIN}"]
    told += [f"--config.data.eval[0].path={held_out}", f"--config.data.eval[0].name={SHAPED}"]
    told += [f"--config.data.cache_dir={parent / 'cache'}"]
    yield parent, told
    redact.look_at_environment()


def hits(parent, done):
    """Where a secret stands: files, and what was said."""
    found = [path for path in parent.rglob("*") if path.is_file() and _holds(path.read_bytes())]
    said = (done.stdout + done.stderr).encode()
    names = [str(path.relative_to(parent)) for path in found]
    # What was given; and Orbax's marker, which names the directory that it lies in.
    known = r"model/.*|heldout\.jsonl|run/checkpoints/\d+/commit_success\.txt"
    names = [name for name in names if not re.fullmatch(known, name)]
    return names + [line for line in said.splitlines() if _holds(line)]


def _holds(content):
    return any(secret.encode() in content for secret in (SHAPED, PLAIN, PASSWORD))


@pytest.mark.slow
def test_a_run_that_ends_well_writes_none(given):
    parent, told = given
    done = programs.train(parent / "run", *told, env=ENVIRONMENT)
    assert (parent / "run" / "export" / "README.md").exists()
    assert (parent / "run" / "samples.jsonl").stat().st_size
    assert hits(parent, done) == []
    told.append("--config.optim.peak_lr=0.5")  # refused, with old and new values
    done = programs.train(parent / "run", *told, check=False, env=ENVIRONMENT)
    assert done.returncode == 66 and (parent / "run" / "error.json").exists()
    assert hits(parent, done) == []


@fault(
    "models and security",
    "secrets in the environment, in URLs, in the names of files, in rows",
    "*** in all that is said and written: streams, reports, figures, answers, error.json, exports",
    lost="nothing",
    code="its own",
)
@pytest.mark.parametrize(
    "flag, code",
    [
        (f"--config.data.train[0].path=https://me:{PASSWORD}@localhost:1/{PLAIN}.jsonl", 65),
        (f"--config.model.source=/nowhere/{PLAIN}/{SHAPED}", 66),
        (f"--config.train.steps={PLAIN}x{SHAPED}", 64),
    ],
)
def test_a_run_that_fails_writes_none(flag, code, given):
    parent, told = given
    told = [one for one in told if one.partition("=")[0] != flag.partition("=")[0]]
    done = programs.train(parent / "run", *told, flag, check=False, env=ENVIRONMENT)
    assert done.returncode == code and "***" in done.stderr
    assert hits(parent, done) == []


def test_an_error_of_ours_writes_none(given, monkeypatch):
    parent, told = given
    wrong = f"no row in https://me:{PASSWORD}@host or {PLAIN} or {SHAPED}"
    monkeypatch.setattr("jaxsft.run.set_up", lambda *_: (_ for _ in ()).throw(KeyError(wrong)))
    done = programs.train(parent / "run", *told, check=False, env=ENVIRONMENT)
    assert done.returncode == 70 and "no row in https://***@host or *** or ***" in done.stderr
    assert "Traceback" in (parent / "run" / "error.json").read_text()
    assert hits(parent, done) == []


@pytest.mark.parametrize(
    "name, value, is_hidden",
    [
        ("OTHER_API_KEY", PLAIN, True),
        ("db_password", "a horse and a battery", True),
        ("AWS_SECRET_ACCESS_KEY", "a+b/c(d)*e[f]", True),
        ("HF_TOKEN_PATH", "/home/me/.cache/token", False),
        ("num_memory_tokens", "123456789012", False),
        ("TOKENIZERS_PARALLELISM", "false-or-true", False),
        ("PASSWORD", "training", False),  # any word
    ],
)
def test_what_the_environment_calls_a_secret_is_hidden(name, value, is_hidden, monkeypatch):
    monkeypatch.setenv(name, value)
    redact.look_at_environment()
    shown = "***" if is_hidden else value
    assert redact.redacted(f"<{value}>") == f"<{shown}>"
    monkeypatch.undo()
    redact.look_at_environment()


def test_no_flag_and_no_field_takes_a_secret():
    given = set[str]()
    for name in by_name.NAMES:
        said = programs.run("jaxsft", name, "--help").stdout
        given |= set(re.findall(r"^ +--([\w.\[\]]+):", said, re.MULTILINE))
    assert {"workdir", "config.optim.peak_lr", "config.model.new_tokens"} <= given
    secret = re.compile(r"(?i).*(^|[_.])(token|key|secret|password|passwd|credentials?|auth)")
    assert not [name for name in given if secret.fullmatch(name)]
