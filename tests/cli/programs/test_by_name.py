"""`jaxsft NAME`: the programs listed, found by name and refused by name."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jaxsft import errors
from jaxsft.cli.programs import by_name

ROOT = Path(__file__).resolve().parents[3]
SHIMS = {"train": "jaxsft/train.py", "prepare": "tools/prepare_data.py"} | {
    **{"inspect": "tools/inspect_data.py", "export": "tools/export_hf.py"},
    **{"plan": "tools/plan.py", "selfcheck": "tools/selfcheck.py"},
    **{"compare_models": "tools/compare_models.py", "chat": "tools/chat.py"},
    **{"compare_runs": "tools/compare_runs.py", "eval": "tools/evaluate.py"},
    **{"answer": "tools/answer.py"},
}


def answered(*words):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == errors.DONE, done.stderr
    return done.stdout


def asked(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/jaxsft", *words])
    by_name.start()


def test_every_program_is_listed_before_anything_is_imported():
    heavy = "{'jax', 'numpy', 'absl', 'transformers', 'rich'} & set(sys.modules)"
    start = f"import jaxsft.__main__ as m; m.by_name.start(); import sys; print({heavy})"
    *lines, imported = answered("-c", start).splitlines()
    assert imported == "set()"
    told = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    files = (ROOT / "jaxsft/cli/programs").glob("*.py")
    assert set(told) == {file.stem for file in files} - {"__init__", "by_name"}
    assert told["train"].startswith("Fine-tunes a pretrained model")
    assert told["inspect"].endswith("or as JSON lines.")  # the sentence goes on in another line


@pytest.mark.parametrize(
    ("name", "hint"),
    [("exprot", "did you mean 'export'"), ("zzz", "there are train, prepare")],
)
def test_an_unknown_name_is_one_message(monkeypatch, capsys, name, hint):
    with pytest.raises(SystemExit) as ended:
        asked(monkeypatch, name, "--config=x")
    assert ended.value.code == errors.BAD_CONFIG
    said = capsys.readouterr().err
    assert said.startswith(f"error: jaxsft '{name}': no such program; {hint}")
    assert said.count("\n") == 1


def test_a_program_by_name_is_the_one_in_tools():
    in_tools = answered("tools/export_hf.py", "--help")
    assert "--gguf_dtype" in in_tools and in_tools.startswith("Writes a checkpoint of a run")
    assert answered("-m", "jaxsft", "export", "--help") == in_tools
    assert answered("-m", "jaxsft", "help", "export") == in_tools


@pytest.mark.parametrize("name", by_name.NAMES)
def test_each_program_has_its_file_that_starts_it(name):
    lines = (ROOT / SHIMS[name]).read_text().splitlines()
    assert len(lines) < 10
    assert 'if __name__ == "__main__":' in lines and lines[-1] == f"    {name}.start()"
    assert f"from jaxsft.cli.programs import {name}" in [line.strip() for line in lines]


def test_the_console_script_starts_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"jaxsft": f"{by_name.__name__}:{by_name.start.__name__}"}
