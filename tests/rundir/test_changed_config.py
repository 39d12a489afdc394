"""A run goes on as it began: which fields may differ at a later start, and what of others."""

import dataclasses

import pytest

from jaxsft.config import Distil, Lora, Loss
from jaxsft.errors import CheckpointError, ConfigError
from jaxsft.rundir import identity
from tests.training.test_mesh_fit import config


def test_changes_are_named_and_a_longer_run_is_none():
    before = {"config.train.epochs": 2, "config.train.steps": None, "config.optim.peak_lr": 1e-3}
    identity.refuse_changes(before, before | {"config.train.epochs": 3})
    with pytest.raises(
        CheckpointError, match=r"epochs was 2 .* is 1 now\nepochs and steps may gro"
    ):
        identity.refuse_changes(before, before | {"config.train.epochs": 1})
    with pytest.raises(CheckpointError, match="batch_size was 8 when .* is 16 now"):
        sizes = ({"config.train.batch_size": size} for size in (8, 16))
        identity.refuse_changes(*(before | size for size in sizes))
    with pytest.raises(CheckpointError, match="peak_lr was 0.001 when .* is 0.002 now"):
        identity.refuse_changes(before, before | {"config.optim.peak_lr": 2e-3})


OLD = {"config.model.source": "m", "config.optim.peak_lr": 1e-3}


def test_a_field_that_a_checkpoint_does_not_know_had_its_default():
    added = {"config.model.new_tokens": [], "config.model.pad_vocab_to": 1}
    identity.refuse_changes(OLD, OLD | added)
    with pytest.raises(CheckpointError, match="pad_vocab_to was 1 when this run began and is 64"):
        identity.refuse_changes(OLD, OLD | added | {"config.model.pad_vocab_to": 64})
    with pytest.raises(CheckpointError, match=r"new_tokens was \[\] when .* is \['<\|a\|>'\]"):
        identity.refuse_changes(OLD, OLD | {"config.model.new_tokens": ["<|a|>"]})


def test_a_teacher_counts():
    """A checkpoint from before there were any was made without."""
    plain = identity.identity(config())
    taught = identity.identity(dataclasses.replace(config(), distil=Distil(teacher="t", alpha=0.1)))
    old = {name: value for name, value in plain.items() if ".distil" not in name}
    assert len(old) == len(plain) - 1
    identity.refuse_changes(old, plain)
    with pytest.raises(CheckpointError, match=r"config.distil was None when .* is 'set' now"):
        identity.refuse_changes(old, taught)
    with pytest.raises(CheckpointError, match="distil was 'set' when this run began and is None"):
        identity.refuse_changes(taught, plain)
    values = {"teacher": "t", "alpha": 0.1, "temperature": 1.0, "top_k": None, "dtype": "source"}
    for name, value in values.items():
        other = taught | {f"config.distil.{name}": "other"}
        with pytest.raises(CheckpointError, match=f"{name} was {value!r} when .* is 'other'"):
            identity.refuse_changes(taught, other)
        assert taught[f"config.distil.{name}"] == value


def test_what_is_minimised_counts():
    """A checkpoint from before there was a choice has the plain loss."""
    plain = identity.identity(config())
    other = dataclasses.replace(config(), loss=Loss(source_weights={"a": 2.0}, z_loss=0.1))
    old = {name: value for name, value in plain.items() if ".loss." not in name}
    assert len(old) == len(plain) - len(dataclasses.fields(Loss))
    identity.refuse_changes(old, plain)
    with pytest.raises(
        CheckpointError, match=r"source_weights was \{\} when .* is \{'a': 2.0\} now"
    ):
        identity.refuse_changes(old, identity.identity(other))
    with pytest.raises(CheckpointError, match="z_loss was 0.1 when this run began and is 0.0 now"):
        identity.refuse_changes(identity.identity(other), plain)


def test_adapters_of_a_checkpoint_without_a_field_had_its_default():
    now = identity.identity(dataclasses.replace(config(), lora=Lora(dropout=0.1)))
    old = {name: value for name, value in now.items() if name != "config.lora.dropout"}
    with pytest.raises(
        CheckpointError, match="lora.dropout was 0.0 when this run began and is 0.1"
    ):
        identity.refuse_changes(old, now)
    identity.refuse_changes(old, now | {"config.lora.dropout": 0.0})


def test_what_a_checkpoint_knows_counts():
    with pytest.raises(CheckpointError, match="pad_vocab_to was 64 when this run began and is 1"):
        identity.refuse_changes(
            OLD | {"config.model.pad_vocab_to": 64}, OLD | {"config.model.pad_vocab_to": 1}
        )


def test_a_checkpoint_keeps_no_secret_and_a_new_one_is_no_change():
    def of(token):
        one = config(batch_size=8)
        source = f"https://me:{token}@host/model"
        model = dataclasses.replace(one.model, source=source)
        return identity.identity(dataclasses.replace(one, model=model))

    before, now = of("hf_aaaaaaaaaaaaaaaaaaaaaaaa"), of("hf_bbbbbbbbbbbbbbbbbbbbbbbb")
    assert before["config.model.source"] == "https://***@host/model"
    identity.refuse_changes(before, now)


def fields_of(config, prefix="config"):
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}.{field.name}"
        yield from fields_of(value, name) if dataclasses.is_dataclass(value) else [name]


# The prepared data's fingerprint tells of them.
IN_THE_DATA = {
    *("train", "train_on", "train_parts", "overlong", "bad_rows", "tokenizer", "template"),
    *("template_options", "template_date", "trusted_control_tokens"),
}


def test_each_field_decides_the_result_or_is_free():
    """A field that comes new must be put in one of the lists."""
    whole = dataclasses.replace(config(), lora=Lora(), distil=Distil(teacher="t"))
    decides = {*identity.identity(whole)}
    free = {
        f"config.{section}.{name}" for section, names in identity.FREE.items() for name in names
    }
    # Beside adapters it decides how much of the base is kept.
    decides_sometimes = {"config.model.frozen_dtype"}
    assert decides & free == decides_sometimes
    sections = tuple(f"config.{section}." for section in identity.FREE_SECTIONS)
    known = decides | free | {f"config.data.{name}" for name in IN_THE_DATA}
    left = [name for name in fields_of(whole) if name not in known]
    assert [name for name in left if not name.startswith(sections)] == []


def test_what_is_allowed_may_differ_and_nothing_else():
    before = {"config.optim.peak_lr": 1e-3, "config.train.seed": 1, identity.DATA: "a"}
    now = {"config.optim.peak_lr": 2e-3, "config.train.seed": 1, identity.DATA: "b"}
    allowed = identity.allowed_fields(["optim.peak_lr", "data"], now)
    identity.refuse_changes(before, now, allowed)
    for lacks, flag in (("config.optim.peak_lr", "optim.peak_lr"), (identity.DATA, "data")):
        with pytest.raises(CheckpointError, match=rf"{lacks} was .*\n.*--allow_changed={flag}$"):
            identity.refuse_changes(before, now, allowed - {lacks})
    assert identity.allowed_fields(["config.train.seed"], now) == {"config.train.seed"}


def test_a_name_that_decides_nothing_is_refused_with_what_comes_near():
    now = identity.identity(config())
    match = "--allow_changed=optim.peak_rl: decides no result; expected some of optim.peak_lr"
    with pytest.raises(ConfigError, match=match):
        identity.allowed_fields(["optim.peak_rl"], now)
    with pytest.raises(ConfigError, match=r"--allow_changed=log.every_steps: .* expected some of"):
        identity.allowed_fields(["log.every_steps"], now)


def test_the_dtype_of_the_computation_counts_since_it_is_noted():
    now = identity.identity(config())
    without = {name: value for name, value in now.items() if name != "config.model.dtype"}
    other = now | {"config.model.dtype": "other"}
    identity.refuse_changes(without, other)
    with pytest.raises(CheckpointError, match="model.dtype was '.*' when .* and is 'other' now"):
        identity.refuse_changes(now, other)
