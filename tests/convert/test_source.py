"""What model.source may name, and what is said about everything else."""

import json
from pathlib import Path

import huggingface_hub
import pytest

from jaxsft.convert import source
from jaxsft.errors import ConversionError
from jaxsft.files import untrusted


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


CUT = '{"version": "1.0", "model": {"vocab": {"a"'


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"]
)
def test_a_cut_file_of_the_tokenizer_is_named(name, chosen, model):
    (model / name).write_text(CUT)
    with pytest.raises(ConversionError, match=rf"{name}: is no whole JSON file \(42 bytes\)"):
        source.tokenizer_directory("org/other" if chosen else model, model if chosen else None)
    (model / name).write_text("{}" + " " * 40)  # mended: of the same size
    assert source.tokenizer_directory(model) == model


# Two pieces, "a" of type 1 with a score and "b" of none, and a field that is no piece.
PIECES = b"\x0a\x0a\x0a\x01a\x15\0\0\x80\xbf\x18\x01" + b"\x0a\x03\x0a\x01b" + b"\x12\x02\x18\x07"


@pytest.mark.parametrize(
    "content", [PIECES[:-1], PIECES[:9], b"\0" * 9, b"[1]", b"\x12\x02\x18\x07", b"\xff" * 20]
)
def test_a_cut_tokenizer_model_is_named_as_what_it_is(content, model):
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(content)
    with pytest.raises(ConversionError, match="tokenizer.model: is no whole sentencepiece model"):
        source.tokenizer_directory(model)
    for whole in (PIECES, b"IQ== 0\nIg== 1\n"):
        (model / "tokenizer.model").write_bytes(whole)
        assert source.tokenizer_directory(model) == model


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A model on the hub, by its files; what was fetched is listed."""
    fetched = []

    def make(**files):
        def snapshot(hub_id, allow_patterns, ignore_patterns=None):
            for name, text in files.items():
                if any(Path(name).match(pattern) for pattern in allow_patterns):
                    fetched.append(name)
                    (tmp_path / name).write_text(text)
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return fetched

    return make


WEIGHTS, GPTQ = "model.safetensors", {"quant_method": "gptq", "bits": 4}


@pytest.mark.parametrize(
    ("config", "beside", "message"),
    [
        ({"model_type": "mamba"}, None, "org/name/config.json: model_type='mamba' is not"),
        ({"model_type": "gemma3", "text_config": {"model_type": "x"}}, None, "model_type='x'"),
        ({"model_type": "llama", "quantization_config": GPTQ}, None, "quantised .gptq, 4 bits."),
        ({"model_type": "llama"}, {"w_bit": 4}, "quantize_config.json: .*quantised .4 bits."),
    ],
)
def test_nothing_is_downloaded_of_a_model_that_can_not_be_read(config, beside, message, hub):
    files = {"config.json": json.dumps(config), WEIGHTS: "", "tokenizer.json": "{}"}
    if beside is not None:
        files["quantize_config.json"] = json.dumps(beside)
    fetched = hub(**files)
    with pytest.raises(ConversionError, match=message):
        source.resolve("org/name")
    assert not {WEIGHTS, "tokenizer.json"} & set(fetched)


def test_a_tokenizer_may_be_of_any_family_and_its_weights_are_not_downloaded(hub):
    fetched = hub(**{"config.json": '{"model_type": "mamba"}', WEIGHTS: "", "tokenizer.json": "{}"})
    source.tokenizer_directory("org/base", "org/name")
    assert sorted(fetched) == ["config.json", "tokenizer.json"]


def test_a_model_that_can_be_read_is_downloaded(hub):
    fetched = hub(**{"config.json": '{"model_type": "llama"}', WEIGHTS: ""})
    source.resolve("org/name")
    assert fetched[0] == "config.json" and fetched[-1] == WEIGHTS
