"""What XLA_FLAGS ask for, as XLA reads them."""

import pytest

from jaxsft.devices import xla_flags


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ("", False),
        ("--xla_gpu_deterministic_ops=true", True),
        ("--xla_gpu_autotune_level=0 --xla_gpu_deterministic_ops", True),
        ("--xla_gpu_exclude_nondeterministic_ops=1 --xla_dump_to=x", True),
        ("--xla_gpu_deterministic_ops=false", False),
        ("--xla_gpu_deterministic_ops_more=true", False),
    ],
)
def test_deterministic_operations_are_asked_for_by_name(flags, asked, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert xla_flags.deterministic() == asked
