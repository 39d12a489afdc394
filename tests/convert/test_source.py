"""What model.source may name, and what is said about everything else."""

import json

import pytest

from jaxsft.convert import source, untrusted
from jaxsft.errors import ConversionError


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "llama-tiny"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer.json").write_text("{}")
    return directory


def test_a_directory_names_itself(model):
    assert source.resolve(str(model)) == model
    assert source.tokenizer_directory(model) == model


def test_a_run_directory_stands_for_its_export(tmp_path, model):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"model": {"source": "x"}, "data": {}}))
    with pytest.raises(ConversionError, match="run: is a run directory without export/"):
        source.resolve(run)
    model.rename(run / "export")
    assert source.resolve(run) == run / "export"


def test_a_near_name_is_proposed(tmp_path, model):
    with pytest.raises(ConversionError, match="llama-tyni: no such file.*mean .*llama-tiny"):
        source.resolve(tmp_path / "llama-tyni")


def test_a_hub_id_that_can_not_be_had_says_so():
    with pytest.raises(ConversionError, match="model.source=some/model: .*can't be reached"):
        source.resolve("some/model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "model.source=''"),
        ("gs://bucket/model", "model.source=gs://bucket/model: remote paths"),
        ("nowhere/else/model", "model.source=nowhere/else/model: no such file"),
        ("org/model.gguf", "model.source=org/model.gguf: no such file"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ConversionError, match=message):
        source.resolve(name)


def test_a_directory_without_config_names_the_gguf_in_it(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConversionError, match="has no config.json.*m.gguf"):
        source.resolve(tmp_path)


def test_a_weights_file_alone_is_refused(model):
    (model / "model.safetensors").write_bytes(b"1")
    with pytest.raises(ConversionError, match="model.safetensors: is a file that is not .gguf"):
        source.resolve(model / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json: is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><p>404", "config.json: is an HTML page"),
        (b'{"model_type": ', "config.json: is not valid JSON"),
        (b'{"a": 1, "a": 2}', "config.json: is not valid JSON: 'a' is given twice"),
        (b"[1]", "config.json: holds a list"),
        (b'{"a":' * 100_000, "config.json: is nested too deeply"),
        (b'{"a": "\xff"}', "config.json: is not valid JSON"),
    ],
)
def test_a_broken_config_is_explained(content, message, model):
    (model / "config.json").write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        source.resolve(model)


def test_a_huge_json_is_not_read(model, monkeypatch):
    monkeypatch.setattr(untrusted, "MAX_JSON_BYTES", 10)
    with pytest.raises(ConversionError, match="config.json: is 23 bytes, expected at most 10"):
        source.resolve(model)


def test_a_model_without_tokenizer_is_told(model):
    (model / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConversionError, match="tokenizer.json: is a Git LFS pointer"):
        source.tokenizer_directory(model)
    (model / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match="llama-tiny: has no tokenizer"):
        source.tokenizer_directory(model)
