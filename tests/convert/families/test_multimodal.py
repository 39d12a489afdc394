"""The text part of a multimodal checkpoint is trained, and the rest of it passes through."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import jaxsft
from jaxsft.convert import new_tokens, pretrained
from jaxsft.convert.export import gguf_file
from jaxsft.convert.export.directory import end_ids, export
from jaxsft.convert.families import multimodal
from jaxsft.convert.families.config_json import settings_from_config
from jaxsft.convert.families.registry import FAMILIES
from jaxsft.devices.mesh import single_device_mesh
from jaxsft.errors import ConversionError
from jaxsft.model import state
from tests.convert.families import multimodal_cases
from tests.convert.families.multimodal_cases import IDS, KINDS, their_logits

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(the text part is read|has no effect|a head of their own)"
)


@pytest.fixture
def save(tmp_path):
    """Saves a random model of a kind; gives its directory and torch's model."""

    def save(kind, dtype="float32", max_shard_size="5GB", **changes):
        model = multimodal_cases.save(kind, tmp_path / kind, dtype, max_shard_size, **changes)
        return tmp_path / kind, model

    return save


def as_modules_are_called(directory):
    """Renames the tensors of a file from the published layout to that of transformers' modules."""
    path = directory / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        name = name.replace("language_model.model.", "language_model.")
        tensors[name.removeprefix("language_model.") if "lm_head" in name else f"model.{name}"] = (
            tensor
        )
    save_file(tensors, path, {"format": "pt"})


def edit_config(directory, change):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def params_of(base):
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    return pretrained.read_params(base, state.shardings(shapes, axes, single_device_mesh()))


def tensors_of(directory):
    return {n: t for file in directory.glob("*.safetensors") for n, t in load_file(file).items()}


def test_every_kind_is_tested():
    assert set(KINDS) == set(multimodal.WRAPPERS)


@pytest.mark.parametrize("layout", ["published", "modules"])
@pytest.mark.parametrize("kind", ["gemma3", "mistral3"])
def test_logits_are_those_of_the_whole_model_on_text(kind, layout, save):
    directory, model = save(kind, tie_word_embeddings=kind == "gemma3")
    if layout == "modules":
        as_modules_are_called(directory)
    ours = np.asarray(jaxsft.load_model(directory)(IDS))
    expected = their_logits(model)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_other_tensor_and_file_comes_out_bit_for_bit(kind, save, tmp_path):
    """In shards; the text part in another dtype, the others as they were."""
    directory, _ = save(kind, "bfloat16", max_shard_size="30KB")
    (directory / "preprocessor_config.json").write_text('{"size": 28}')
    base = pretrained.open_pretrained(directory)
    assert base.tensors is not None and base.others is not None
    assert base.naming is not None
    text = {base.naming.in_file(name) for name in base.tensors.names()}
    assert text and {*text, *base.others.names()} == set(tensors_of(directory))
    assert sum("the text part is read and trained; the" in note for note in base.notes) == 1
    out = export(
        params_of(base), base, tmp_path / "out", dtype="float32", max_shard_bytes=30_000
    ).directory
    before, after = tensors_of(directory), tensors_of(out)
    assert set(before) == set(after)
    for name, tensor in before.items():
        wide = torch.float32 if name in text else torch.bfloat16
        assert after[name].dtype == wide and torch.equal(after[name], tensor.to(wide)), name
    assert (out / "preprocessor_config.json").read_text() == '{"size": 28}'
    assert pretrained.open_pretrained(out).settings == base.settings


def test_others_are_read_when_they_are_written_one_at_a_time(save, tmp_path, monkeypatch):
    directory, _ = save("gemma3")
    path = directory / "model.safetensors"
    extra = {"vision_tower.position_ids": torch.arange(4)}  # of a dtype that no weight has
    extra["vision_tower.norm.num_batches_tracked"] = torch.tensor(7)  # a shape that none has
    save_file(load_file(path) | extra, path, {"format": "pt"})
    base = pretrained.open_pretrained(directory)
    read = []
    others, original = base.others, base.others.read
    monkeypatch.setattr(others, "read", lambda name: read.append(name) or original(name))
    params = params_of(base)
    assert read == []
    out = export(params, base, tmp_path / "out").directory
    assert sorted(read) == sorted(others.names())
    written = tensors_of(out)
    for name, tensor in extra.items():
        assert torch.equal(written[name], tensor) and written[name].shape == tensor.shape


@pytest.mark.parametrize(("tied", "said"), [(True, False), (False, False), (False, True)])
def test_a_head_of_its_own_is_not_tied(tied, said, save, tmp_path):
    """Mistral Small 3.1 says nothing, transformers' default is to tie, which it writes when it
    saves; and it doesn't tie where the heads differ.
    """
    directory, model = save("mistral3", tie_word_embeddings=False)
    edit_config(directory, lambda config: config.pop("tie_word_embeddings"))
    if said:
        edit_config(directory, lambda config: config.update(tie_word_embeddings=True))
    head, embedding = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    if tied:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        tensors[head] = tensors[embedding].clone()
        save_file(tensors, path, {"format": "pt"})
    base = pretrained.open_pretrained(directory)
    assert base.settings.tied_embeddings == tied
    assert base.config.get("tie_word_embeddings") is (None if tied else False)
    assert sum("hold a head of their own" in note for note in base.notes) == (not tied)
    out = export(params_of(base), base, tmp_path / "out").directory
    assert (head in tensors_of(out)) != tied
    if not tied:
        auto = transformers.AutoModelForImageTextToText
        again = auto.from_pretrained(out, attn_implementation="eager").eval()
        np.testing.assert_array_equal(their_logits(again), their_logits(model))


def test_a_head_may_be_called_as_its_module_is(save, tmp_path):
    directory, model = save("mistral3", tie_word_embeddings=False)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors.pop("language_model.lm_head.weight")
    save_file(tensors, path, {"format": "pt"})
    base = pretrained.open_pretrained(directory)
    assert "lm_head.weight" in tensors_of(export(params_of(base), base, tmp_path / "out").directory)


def test_generation_ends_where_the_text_part_alone_says_so(save):
    directory, _ = save("mistral3")
    (directory / "generation_config.json").unlink()
    edit_config(directory, lambda config: config["text_config"].update(eos_token_id=5))
    edit_config(directory, lambda config: config.pop("eos_token_id", None))
    base = pretrained.open_pretrained(directory)
    assert end_ids(base, []) == [5] and end_ids(base, [7]) == [7, 5]


def test_a_text_part_under_two_names_is_refused(save):
    directory, _ = save("gemma3")
    path, name = directory / "model.safetensors", "model.language_model.layers.0.mlp.up_proj.weight"
    save_file(load_file(path) | {name: torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(ConversionError, match=f"unexpected {name}: the text part is called"):
        pretrained.open_pretrained(directory)


def test_a_weight_of_the_text_part_has_a_dtype_that_weights_have(save):
    directory, _ = save("mistral3")
    path, name = directory / "model.safetensors", "language_model.model.norm.weight"
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name].double()}, path, {"format": "pt"})
    with pytest.raises(ConversionError, match="norm.weight has dtype float64; float32, bfloat16"):
        pretrained.open_pretrained(directory)


def test_new_tokens_are_rows_of_the_text_part(save):
    base = pretrained.open_pretrained(save("gemma3")[0])
    extended = new_tokens.extended(base, new_tokens.plan(None, (), 96, 64), "mean", 0)
    assert extended.config["text_config"]["vocab_size"] == extended.settings.vocab_size == 128
    assert settings_from_config(extended.config, "config.json")[0].vocab_size == 128
    shapes = {extended.tensors.shape(name) for name in extended.tensors.names() if "embed" in name}
    assert shapes == {(128, 32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: config["text_config"].update(model_type="gemma4_text"),
            "text_config: model_type='gemma4_text' is not supported",
        ),
        (
            lambda config: config["text_config"].update(hidden_activation="xielu"),
            "config.json: text_config: hidden_activation='xielu' is not supported",
        ),
        (
            lambda config: config.update(text_config=3),
            "text_config=3: model_type='gemma3' needs an object",
        ),
        (
            lambda config: config.update(architectures=["Gemma3ForSequenceClassification"]),
            r"architectures=\['Gemma3ForSequenceClassification'\], expected",
        ),
        (
            lambda config: config["text_config"].update(quantization_config={"quant_method": "x"}),
            "the weights are quantised",
        ),
        (
            lambda config: config["text_config"].update(num_hidden_layers=3, layer_types=None),
            "num_hidden_layers=3 but the weights hold 2 layers",
        ),
    ],
)
def test_what_is_wrong_with_the_text_part_is_named(change, message, save):
    directory, _ = save("gemma3")
    edit_config(directory, change)
    with pytest.raises(ConversionError, match=message):
        pretrained.open_pretrained(directory)


@pytest.mark.parametrize("inside", [None, True, False])
@pytest.mark.parametrize("top", [None, True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_tying_is_said_where_transformers_looks_for_it(kind, top, inside):
    config = {"model_type": kind, "text_config": {"model_type": KINDS[kind][0]}}
    config |= {} if top is None else {"tie_word_embeddings": top}
    config["text_config"] |= {} if inside is None else {"tie_word_embeddings": inside}
    theirs = transformers.CONFIG_MAPPING[kind].from_dict(copy.deepcopy(config)).tie_word_embeddings
    assert multimodal.text_config(config, "config.json")["tie_word_embeddings"] == theirs


@pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name].text_sizes])
def test_sizes_that_a_text_config_leaves_out_are_those_of_transformers(family):
    theirs = transformers.AutoConfig.for_model(family)
    kind = next(kind for kind, (text, _, _) in KINDS.items() if text == family or family == "qwen3")
    text = multimodal.text_config(
        {"model_type": kind, "text_config": {"model_type": family}}, "config.json"
    )
    sizes = {name: getattr(theirs, name) for name in text if "size" in name or "num" in name}
    assert len(sizes) == 5 and sizes.items() <= text.items()


def test_gguf_is_of_the_text_part(save, save_tokenizer, tmp_path):
    text = {"vocab_size": 328}
    directory, _ = save("mistral3", text=text, tie_word_embeddings=False)
    save_tokenizer(directory)
    base = pretrained.open_pretrained(directory)
    written = gguf_file.export_gguf(params_of(base), base, tmp_path / "m.gguf", dtype="f32")
    again = pretrained.open_pretrained(written.path)
    ours, theirs = (
        (one.num_layers, one.vocab_size, one.rope) for one in (again.settings, base.settings)
    )
    assert ours == theirs
    name = "layers.1.mlp.down_proj.weight"
    np.testing.assert_array_equal(
        again.tensors.read(f"model.{name}"), base.tensors.read(f"model.language_model.{name}")
    )


def test_an_adapter_names_the_modules_whatever_the_file_calls_them(save, tmp_path):
    """As PEFT saves it: base_model.model. and the name of the module in transformers."""
    directory, _ = save("gemma3")
    module, adapter = "model.language_model.layers.1.self_attn.q_proj", tmp_path / "adapter"
    adapter.mkdir()
    a_and_b = {"lora_A": torch.ones(1, 32), "lora_B": torch.ones(32, 1)}
    tensors = {f"base_model.model.{module}.{k}.weight": t for k, t in a_and_b.items()}
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}
    config["base_model_name_or_path"] = str(directory)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    base, merged = pretrained.open_pretrained(directory), pretrained.open_pretrained(adapter)
    name = f"{module}.weight"
    np.testing.assert_allclose(merged.tensors.read(name), base.tensors.read(name) + 2, rtol=1e-6)


def test_a_field_that_the_whole_model_has_not_is_told(save):
    """Gemma 3 with a vision tower has no cap of its logits in transformers, whatever it says."""
    base = pretrained.open_pretrained(save("gemma3")[0])
    assert base.settings.logit_soft_cap is None
    assert sum("final_logit_softcapping=1.0 has no effect" in note for note in base.notes) == 1
