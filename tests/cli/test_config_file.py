"""A config file that fails is one message: the file, the line in it, and what was raised."""

import contextlib
import os
import sys
from pathlib import Path

import pytest
import tiny

from jaxsft.cli import config_file
from jaxsft.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\ndef get_config():\n    return 1 / 0\n", ":3: ZeroDivisionError: division by zero"),
        ("from pathlib import Path\nPath('missing').read_text()\n", ":2: FileNotFoundError"),
        ("def get_config(:\n", ":1: SyntaxError: invalid syntax"),
        ("x = 1\n", ": it defines no get_config()"),
        ("def get_config():\n    return 3\n", ": get_config() returned int, expected Config"),
        (
            "from jaxsft.config import Train\nTrain(batchsize=8, steps=1)\n",
            ":2: TypeError: Train.__init__() got an unexpected keyword argument 'batchsize'",
        ),
        ("import sys\nsys.exit()\n", ":2: sys.exit() would end the program"),
        ("import sys\nx = 1\nsys.exit('no data')\n", ":3: sys.exit('no data') would end"),
        ("def get_config():\n    raise SystemExit(0)\n", ":2: sys.exit(0) would end the program"),
        ("class Odd(BaseException):\n    pass\nraise Odd('what')\n", ":3: Odd: what"),
        ("x = 1\nassert x > 1\n", ":2: AssertionError"),
        (
            "try:\n    open('/nowhere')\nexcept OSError as e:\n    raise ValueError('no') from e\n",
            ":4: ValueError: no (from FileNotFoundError: [Errno 2] No such file",
        ),
        ("raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])\n", "a; KeyError: 'b'"),
        (
            "from jaxsft.errors import DataError\nraise DataError('rows.jsonl:3: is empty')\n",
            ":2: rows.jsonl:3: is empty",
        ),
    ],
)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_an_error_is_named_with_its_line(tmp_path, monkeypatch, code, message, relative):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text(code)
    given = "broken.py" if relative else str(tmp_path / "broken.py")
    with pytest.raises((ConfigError, DataError)) as caught:
        config_file.load(given)
    said = str(caught.value)
    assert said.startswith(f"--config={given}:") and message in said
    assert "None" not in said and "\n" not in said
    assert isinstance(caught.value, DataError) == ("DataError" in code)


@pytest.mark.parametrize("given", ["sub/../broken.py", "./broken.py", "link.py"])
def test_the_line_is_found_however_the_path_is_spelt(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("broken.py").write_text("x = 1\n1 / 0\n")
    os.symlink("broken.py", "link.py")
    with pytest.raises(ConfigError, match=rf"^--config={given}:2: ZeroDivisionError"):
        config_file.load(given)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("y = 2\nz = 1 / 0\n", ":2: ZeroDivisionError"),
        ("y = 2\nz = (\n", ":2: SyntaxError: '(' was never closed"),
        ("import json\njson.loads('{')\n", ":2: JSONDecodeError"),  # not the line in Python's own
    ],
)
def test_an_error_in_a_module_that_the_config_imports_names_both_lines(
    tmp_path, monkeypatch, module, message
):
    name = f"broken_{abs(hash(module))}"  # imported anew each time
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(module)
    (tmp_path / "config.py").write_text(f"x = 1\n\nimport {name}\n")
    with pytest.raises(ConfigError) as caught:
        config_file.load(str(tmp_path / "config.py"))
    config = tmp_path / "config.py"
    begin = f"--config={config}:3: in {tmp_path / name}.py{message}"
    assert str(caught.value).startswith(begin)


def test_a_file_that_is_no_text_has_no_line(tmp_path):
    (tmp_path / "a.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(ConfigError) as caught:
        config_file.load(str(tmp_path / "a.py"))
    assert "None" not in str(caught.value) and "SyntaxError" in str(caught.value)


def test_an_interrupt_is_not_the_config_files_error(tmp_path):
    (tmp_path / "a.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        config_file.load(str(tmp_path / "a.py"))


def test_a_config_may_change_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text(f"import os\nos.chdir('/')\n{tiny.CONFIG_FILE}\n")
    with contextlib.chdir(tmp_path):
        assert config_file.load("a.py").train.batch_size == 2
    Path("a.py").write_text("import os\nos.chdir('/')\n1 / 0\n")
    with contextlib.chdir(tmp_path), pytest.raises(ConfigError, match="--config=a.py:3: Zero"):
        config_file.load("a.py")


def test_a_config_that_changed_within_the_same_second_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "a.py"
    for rate in ("1e-3", "2e-3"):
        file.write_text(tiny.CONFIG_FILE.replace("1e-3", rate))
        os.utime(file, (10**9, 10**9))
        assert config_file.load(str(file)).optim.peak_lr == float(rate)
    assert list(tmp_path.iterdir()) == [file]


def test_a_mistyped_field_gets_a_suggestion(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("from jaxsft.config import Train\nTrain(batchsize=8, steps=1)\n")
    with pytest.raises(ConfigError, match="(?i)did you mean 'batch_size'"):
        config_file.load(str(file))


def test_a_missing_config_file_gets_a_suggestion(tmp_path):
    (tmp_path / "debug.py").write_text(tiny.CONFIG_FILE)
    with pytest.raises(ConfigError, match=r"debgu\.py: no such file; did you mean .*debug\.py"):
        config_file.load(str(tmp_path / "debgu.py"))


def test_a_config_that_is_not_python_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: expected a Python file"):
        config_file.load(str(tmp_path / "run.yaml"))
