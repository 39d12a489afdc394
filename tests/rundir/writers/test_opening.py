"""What config.log.writers may name, and what is refused before a run begins."""

import dataclasses
import importlib.util

import pytest

from jaxsft.cli.flags import override
from jaxsft.config import Log, validate
from jaxsft.errors import ConfigError
from jaxsft.rundir.writers import opening
from tests.training.test_mesh_fit import config


def test_the_command_line_names_writers():
    assert override(config(), "log.writers", '["wandb", "tensorboard"]').log.writers == (
        "wandb",
        "tensorboard",
    )
    with pytest.raises(ConfigError, match=r'writers=\["tensorbord"\]: expected .* \'tensorboard\''):
        override(config(), "log.writers", '["tensorbord"]')
    twice = dataclasses.replace(config(), log=Log(writers=("wandb", "wandb")))
    with pytest.raises(ConfigError, match=r"writers=\('wandb', 'wandb'\): expected each of them"):
        validate(twice)


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_package_that_is_not_there_is_named_with_what_installs_it(monkeypatch, name, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked: None if asked == package else found(asked)
    )
    with pytest.raises(
        ConfigError, match=rf"{name} needs {package}; pip install 'jaxsft\[{name}\]'"
    ):
        opening.check([name])
