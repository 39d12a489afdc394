"""What is wrong with an export is found by reading it as others do."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsft.convert import check_export
from jaxsft.convert.vocabulary import check_tokenizer
from jaxsft.errors import ConversionError


def test_logits_equal_those_of_transformers(save_llama, save_tokenizer):
    directory, _ = save_llama(vocab_size=320)
    save_tokenizer(directory)
    assert 0 < check_export.compare_logits(directory) < 1e-4


def test_a_model_that_differs_for_others_is_found(save_llama, save_tokenizer, monkeypatch):
    """Read with another norm than transformers': as a table with a wrong row would have it."""
    directory, _ = save_llama(vocab_size=320)
    save_tokenizer(directory)
    real = check_export._their_logits
    other = directory.with_name("other")

    def of_another(_, tokens_BT):
        other.mkdir()
        for path in directory.iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        tensors = load_file(directory / "model.safetensors")
        tensors["model.layers.1.input_layernorm.weight"] *= np.float32(1.001)
        save_file(tensors, other / "model.safetensors", {"format": "pt"})
        return real(other, tokens_BT)

    monkeypatch.setattr(check_export, "_their_logits", of_another)
    with pytest.raises(ConversionError, match="model: logits differ by .* more than 0.000"):
        check_export.compare_logits(directory)


def test_a_model_too_large_to_hold_twice_is_refused(save_llama):
    """Tensors of any dtype count: a vision tower may keep positions as integers."""
    directory, _ = save_llama()
    file = directory / "model.safetensors"
    save_file(load_file(file) | {"tower.position_ids": np.arange(4)}, file, {"format": "pt"})
    with pytest.raises(ConversionError, match="parameters are more than max_parameters=1000;"):
        check_export.compare_logits(directory, max_parameters=1000)


def test_what_cannot_be_compared_is_said_without_reading_the_model(monkeypatch):
    check_export.refuse_if_not_possible("check_export=True", 7)
    with pytest.raises(ConversionError, match="check_export=True: 7 parameters are more than max"):
        check_export.refuse_if_not_possible("check_export=True", 7, max_parameters=6)
    monkeypatch.setattr(check_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConversionError, match="check_export=True: comparing logits needs torch"):
        check_export.refuse_if_not_possible("check_export=True", 7)


def test_a_tokenizer_that_lost_a_rule_is_found(save_llama, save_tokenizer, tmp_path):
    directory, _ = save_llama(vocab_size=320)
    save_tokenizer(directory)
    save_tokenizer(tmp_path / "exported")
    check_tokenizer.check_token_ids(directory, tmp_path / "exported")
    file = tmp_path / "exported" / "tokenizer.json"
    rules = json.loads(file.read_text())
    del rules["pre_tokenizer"]["pretokenizers"][0]  # digits are no longer taken one by one
    file.write_text(json.dumps(rules))
    with pytest.raises(ConversionError, match="exported: its tokenizer makes .* of .What is 2"):
        check_tokenizer.check_token_ids(directory, tmp_path / "exported")


def test_a_tokenizer_that_can_not_be_opened_is_named(save_tokenizer, tmp_path):
    save_tokenizer(tmp_path / "base")
    save_tokenizer(tmp_path / "exported")
    (tmp_path / "exported" / "tokenizer.json").write_text('{"model": 5}')
    with pytest.raises(ConversionError, match="exported: transformers can't open its tokenizer"):
        check_tokenizer.check_token_ids(tmp_path / "base", tmp_path / "exported")
