"""Compiler flags are tried in another process: an unknown one would end this one."""

import os
import subprocess
import sys

import pytest

from jaxsft.devices import xla_flags
from jaxsft.devices.xla_flags import PLATFORMS, Flag, Platform

GOOD = Flag("--xla_cpu_enable_fast_math=false", "a flag that every version knows")
BAD = Flag("--xla_no_such_flag=1", "planted")
CPU = Platform(
    variable="XLA_FLAGS",
    trial=PLATFORMS["gpu"].trial,
    trial_environment={"JAX_PLATFORMS": "cpu"},
    flags=(GOOD, BAD),
)


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setitem(PLATFORMS, "cpu", CPU)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")


def test_an_unknown_flag_is_named_and_left_out(planted):
    set_flag, left_out = xla_flags.apply("cpu")
    assert set_flag == f"{GOOD.text} ({GOOD.reason})"
    assert left_out.startswith(f"{BAD.text} left out")
    assert os.environ["XLA_FLAGS"] == f"--xla_force_host_platform_device_count=3 {GOOD.text}"
    count = "import jax; print(len(jax.devices()))"
    assert subprocess.check_output([sys.executable, "-c", count], text=True) == "3\n"


def test_what_the_environment_says_stays(planted, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    (left_out,) = xla_flags.apply("cpu")
    assert BAD.name in left_out
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"


def test_a_platform_without_flags_is_left_alone(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert xla_flags.apply("metal") == [] and os.environ["XLA_FLAGS"] == ""


def test_the_flags_for_gpus_are_known():
    assert xla_flags._passes(PLATFORMS["gpu"], PLATFORMS["gpu"].flags)


@pytest.mark.parametrize(
    ("asked", "platform"), [("cuda", "gpu"), ("tpu,cpu", "tpu"), ("cpu", "cpu")]
)
def test_what_the_user_asks_of_jax_is_the_platform(asked, platform, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    assert xla_flags.platform_here() == platform
