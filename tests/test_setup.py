"""What a run that goes on must find as it was."""

import pytest

from jaxsft import setup
from jaxsft.errors import CheckpointError

OLD = {"config.model.source": "m", "config.optim.peak_lr": 1e-3}


def test_a_field_that_a_checkpoint_does_not_know_had_its_default():
    added = {"config.model.new_tokens": [], "config.model.pad_vocab_to": 1}
    setup.refuse_changes(OLD, OLD | added)
    with pytest.raises(CheckpointError, match="pad_vocab_to was 1 when this run began and is 64"):
        setup.refuse_changes(OLD, OLD | added | {"config.model.pad_vocab_to": 64})
    with pytest.raises(CheckpointError, match=r"new_tokens was \[\] when .* is \['<\|a\|>'\]"):
        setup.refuse_changes(OLD, OLD | {"config.model.new_tokens": ["<|a|>"]})


def test_what_a_checkpoint_knows_counts():
    with pytest.raises(CheckpointError, match="pad_vocab_to was 64 when this run began and is 1"):
        setup.refuse_changes(
            OLD | {"config.model.pad_vocab_to": 64}, OLD | {"config.model.pad_vocab_to": 1}
        )
