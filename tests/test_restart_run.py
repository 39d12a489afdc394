"""A run that goes on takes its weights from the checkpoint, not again from the base."""

import pytest

from jaxsft.convert.tensors import huggingface
from jaxsft.errors import ConfigError
from tests import adapted
from tests.programs import train

SHORT = (
    *("--config.eval.prompts=0", "--config.eval.every_steps=None", "--config.data.eval=[]"),
    *("--config.model.weights=pretrained", "--config.checkpoint.export=false"),
)


@pytest.mark.slow  # two runs
def test_a_restart_reads_no_weights_of_the_base(tmp_path, monkeypatch):
    base = f"--config.model.source={adapted.debug_base(tmp_path / 'base')}"
    train(tmp_path / "run", *SHORT, base, "--config.train.steps=2")
    read, real = [], huggingface.read_params

    def counted(*arguments):
        read.append("base")
        return real(*arguments)

    monkeypatch.setattr(huggingface, "read_params", counted)
    loop = "jaxsft.run.train"

    def stopped(*arguments):
        read.append("steps begin")
        raise ConfigError("far enough")

    monkeypatch.setattr(loop, stopped)
    train(tmp_path / "run", *SHORT, base, "--config.train.steps=3", check=False)
    train(tmp_path / "new", *SHORT, base, "--config.train.steps=3", check=False)
    assert read == ["steps begin", "base", "steps begin"]
