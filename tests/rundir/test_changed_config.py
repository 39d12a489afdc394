"""A run goes on as it began: which fields may differ at a later start, and what of others."""

import dataclasses

import pytest

from jaxsft.config import Distil, Lora, Loss
from jaxsft.errors import CheckpointError
from jaxsft.rundir import resume
from tests.training.test_mesh_fit import config


def test_changes_are_named_and_a_longer_run_is_none():
    before = {"config.train.epochs": 2, "config.train.steps": None, "config.optim.peak_lr": 1e-3}
    resume.refuse_changes(before, before | {"config.train.epochs": 3})
    with pytest.raises(
        CheckpointError, match=r"epochs was 2 .* is 1 now\nepochs and steps may gro"
    ):
        resume.refuse_changes(before, before | {"config.train.epochs": 1})
    with pytest.raises(CheckpointError, match="batch_size was 8 when .* is 16 now"):
        sizes = ({"config.train.batch_size": size} for size in (8, 16))
        resume.refuse_changes(*(before | size for size in sizes))
    with pytest.raises(CheckpointError, match="peak_lr was 0.001 when .* is 0.002 now"):
        resume.refuse_changes(before, before | {"config.optim.peak_lr": 2e-3})


OLD = {"config.model.source": "m", "config.optim.peak_lr": 1e-3}


def test_a_field_that_a_checkpoint_does_not_know_had_its_default():
    added = {"config.model.new_tokens": [], "config.model.pad_vocab_to": 1}
    resume.refuse_changes(OLD, OLD | added)
    with pytest.raises(CheckpointError, match="pad_vocab_to was 1 when this run began and is 64"):
        resume.refuse_changes(OLD, OLD | added | {"config.model.pad_vocab_to": 64})
    with pytest.raises(CheckpointError, match=r"new_tokens was \[\] when .* is \['<\|a\|>'\]"):
        resume.refuse_changes(OLD, OLD | {"config.model.new_tokens": ["<|a|>"]})


def test_a_teacher_counts():
    """A checkpoint from before there were any was made without."""
    plain = resume.identity(config())
    taught = resume.identity(dataclasses.replace(config(), distil=Distil(teacher="t", alpha=0.1)))
    old = {name: value for name, value in plain.items() if ".distil" not in name}
    assert len(old) == len(plain) - 1
    resume.refuse_changes(old, plain)
    with pytest.raises(CheckpointError, match=r"config.distil was None when .* is 'set' now"):
        resume.refuse_changes(old, taught)
    with pytest.raises(CheckpointError, match="distil was 'set' when this run began and is None"):
        resume.refuse_changes(taught, plain)
    values = {"teacher": "t", "alpha": 0.1, "temperature": 1.0, "top_k": None, "dtype": "source"}
    for name, value in values.items():
        other = taught | {f"config.distil.{name}": "other"}
        with pytest.raises(CheckpointError, match=f"{name} was {value!r} when .* is 'other'"):
            resume.refuse_changes(taught, other)
        assert taught[f"config.distil.{name}"] == value


def test_what_is_minimised_counts():
    """A checkpoint from before there was a choice has the plain loss."""
    plain = resume.identity(config())
    other = dataclasses.replace(config(), loss=Loss(source_weights={"a": 2.0}, z_loss=0.1))
    old = {name: value for name, value in plain.items() if ".loss." not in name}
    assert len(old) == len(plain) - len(dataclasses.fields(Loss))
    resume.refuse_changes(old, plain)
    with pytest.raises(
        CheckpointError, match=r"source_weights was \{\} when .* is \{'a': 2.0\} now"
    ):
        resume.refuse_changes(old, resume.identity(other))
    with pytest.raises(CheckpointError, match="z_loss was 0.1 when this run began and is 0.0 now"):
        resume.refuse_changes(resume.identity(other), plain)


def test_adapters_of_a_checkpoint_without_a_field_had_its_default():
    now = resume.identity(dataclasses.replace(config(), lora=Lora(dropout=0.1)))
    old = {name: value for name, value in now.items() if name != "config.lora.dropout"}
    with pytest.raises(
        CheckpointError, match="lora.dropout was 0.0 when this run began and is 0.1"
    ):
        resume.refuse_changes(old, now)
    resume.refuse_changes(old, now | {"config.lora.dropout": 0.0})


def test_what_a_checkpoint_knows_counts():
    with pytest.raises(CheckpointError, match="pad_vocab_to was 64 when this run began and is 1"):
        resume.refuse_changes(
            OLD | {"config.model.pad_vocab_to": 64}, OLD | {"config.model.pad_vocab_to": 1}
        )


def test_a_checkpoint_keeps_no_secret_and_a_new_one_is_no_change():
    def of(token):
        one = config(batch_size=8)
        source = f"https://me:{token}@host/model"
        model = dataclasses.replace(one.model, source=source)
        return resume.identity(dataclasses.replace(one, model=model))

    before, now = of("hf_aaaaaaaaaaaaaaaaaaaaaaaa"), of("hf_bbbbbbbbbbbbbbbbbbbbbbbb")
    assert before["config.model.source"] == "https://***@host/model"
    resume.refuse_changes(before, now)
