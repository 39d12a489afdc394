"""A file's name that is not UTF-8 is refused wherever it is given, in words that can be printed."""

import dataclasses
import os

import pytest

from configs import debug
from jaxsft.config import Source, validate
from jaxsft.data.read.sources import read_source
from jaxsft.errors import ConfigError
from jaxsft.files import caches, places
from jaxsft.terminal.printable import printable
from tests import programs
from tests.faults import fault

NAME = os.fsdecode(b"caf\xe9")  # Latin-1
SHOWN = r"caf\\udce9"


@pytest.fixture
def folder(tmp_path):
    made = os.path.join(str(tmp_path), NAME)
    os.mkdir(made)
    return made


@fault(
    "models and security",
    "a name of a file or directory that is not UTF-8",
    "refused at the start, with the name",
    lost="nothing",
    code=64,
)
@pytest.mark.parametrize(
    "flag",
    [
        "--workdir",
        "--config.model.source",
        "--config.data.train[0].path",
        "--config.data.cache_dir",
        "--config.data.tokenizer",
    ],
)
def test_a_given_name_that_is_not_utf_8_is_refused(flag, folder, tmp_path):
    given = [f"--config={programs.ROOT}/configs/debug.py", f"{flag}={folder}"]
    given += [f"--workdir={tmp_path}/run"] * (flag != "--workdir")
    done = programs.run("jaxsft.train", *given)
    assert done.returncode == 64
    assert done.stderr.startswith(f"error: {flag}={tmp_path}/caf\\udce9: is not UTF-8")
    assert not os.listdir(folder) and not (tmp_path / "run").exists()


def test_other_programs_refuse_it_too(folder):
    done = programs.tool("export_hf", f"--workdir={folder}", "--output=x")
    assert done.returncode == 64 and "udce9: is not UTF-8" in done.stderr


def test_what_is_not_given_as_a_flag_is_refused(folder, tmp_path, monkeypatch):
    config = debug.get_config()
    data = dataclasses.replace(config.data, template_options={NAME: "x"})
    with pytest.raises(ConfigError, match=rf"template_options=.*{SHOWN}.*: is not UTF-8"):
        validate(dataclasses.replace(config, data=data))
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    with pytest.raises(ConfigError, match=f"XDG_CACHE_HOME=.*{SHOWN}: is not UTF-8"):
        caches.cache_root(None)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="--workdir=run: is not UTF-8"):
        places.make_writable(programs.Path("run"), "--workdir=run")
    (tmp_path / f"{NAME}.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match=rf"{SHOWN}\.jsonl: is not UTF-8"):
        next(read_source(Source(path=f"{tmp_path}/*.jsonl")))


def test_such_bytes_are_shown_as_what_they_are():
    assert printable(f"{NAME} is") == "caf<U+DCE9> is"
