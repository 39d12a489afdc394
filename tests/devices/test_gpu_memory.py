"""A GPU's memory is shared out as is said, and what the user has set stays."""

import os
import types

import jax
import pytest

from jaxsft.devices import distributed, gpu_memory
from jaxsft.errors import ConfigError

SHARE, NEWER = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
PREALLOCATE, ALLOCATOR = "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in (SHARE, NEWER, PREALLOCATE, ALLOCATOR):
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)


def test_the_share_is_set_and_said():
    said = gpu_memory.set_share()
    assert said == f"uses up to 92% of each GPU: {SHARE} sets another share"
    assert float(os.environ[SHARE]) == gpu_memory.share() == 0.92


@pytest.mark.parametrize(
    ("name", "value", "share"),
    [
        (SHARE, ".5", 0.5),
        (NEWER, ".5", 0.5),
        (PREALLOCATE, "false", 0.75),
        (PREALLOCATE, "true", 0.75),
        (ALLOCATOR, "bfc", 0.75),
        (ALLOCATOR, "platform", 1.0),
    ],
)
def test_what_the_user_has_set_stays(monkeypatch, name, value, share):
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert gpu_memory.set_share() is None and dict(os.environ) == before
    assert gpu_memory.share() == share


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan"])
def test_what_is_no_share_is_refused(monkeypatch, text):
    monkeypatch.setenv(NEWER, text)
    with pytest.raises(ConfigError, match=f"{NEWER}={text}: expected a share"):
        gpu_memory.share()


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_jax_reads_the_share_when_it_opens_the_devices(monkeypatch, platform):
    read = []

    def devices():
        read.append(os.environ.get(SHARE))
        return [types.SimpleNamespace(platform=platform)]

    monkeypatch.setattr(jax, "devices", devices)
    said = distributed.open_devices()
    assert read == ["0.92"]
    assert (said is not None) == (platform == "gpu")
