"""Export: bitwise the weights that were read and all that the base had beside them, or nothing."""

import json
import os
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.convert.export import card
from jaxsft.convert.export import directory as export_module
from jaxsft.convert.export.directory import MARKER, export
from jaxsft.convert.families import tensor_table
from jaxsft.convert.tensors import safetensors_write
from jaxsft.devices import mesh, progress
from jaxsft.errors import ConversionError
from jaxsft.model import state

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def read_all(directory):
    tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def load(directory):
    """The opened base and its parameters on one device."""
    base = pretrained.open_pretrained(directory)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    return base, pretrained.read_params(base, placement)


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("tied", [False, True])
def test_export_of_import_is_the_same_model_bit_for_bit(
    dtype, max_shard_size, tied, save_llama, tmp_path
):
    directory, _ = save_llama(
        dtype=dtype, max_shard_size=max_shard_size, tie_word_embeddings=tied, head_dim=12
    )
    base, params = load(directory)
    num_bytes = {"5GB": 5 * 10**9, "20KB": 20_000}[max_shard_size]
    result = export(params, base, tmp_path / "export", max_shard_bytes=num_bytes)
    assert_same_bits(read_all(result.directory), read_all(directory))
    sharded = "model.safetensors.index.json" in result.files
    assert sharded == (max_shard_size == "20KB")
    again = pretrained.open_pretrained(result.directory)
    assert (again.settings, again.notes) == (base.settings, ())


def test_each_tensor_that_is_read_or_written_is_a_mark(save_llama, tmp_path, monkeypatch):
    """So a large model takes as long as it takes, and one that hangs is found soon."""
    marks = Counter[str]()
    monkeypatch.setattr(progress, "mark", lambda: marks.update([progress.now().phase]))
    directory, _ = save_llama(max_shard_size="20KB")
    base, params = load(directory)
    names = read_all(directory)
    assert marks == {"reading tensors": len(names)}
    export(params, base, tmp_path / "export")
    assert marks == {"reading tensors": 2 * len(names), "writing tensors": len(names)}


def test_a_bfloat16_file_kept_in_bfloat16_comes_back_bit_for_bit(save_llama, tmp_path):
    directory, _ = save_llama(dtype="bfloat16", max_shard_size="20KB")
    model = jaxsft.load_model(directory, parameter_dtype="bfloat16")
    kept = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert {str(leaf.dtype) for leaf in kept} == {"bfloat16"}
    jaxsft.save_model(model, tmp_path / "export")
    assert_same_bits(read_all(tmp_path / "export"), read_all(directory))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_file_rounded_to_bfloat16_is_said_to_be(dtype, save_llama):
    directory, reference = save_llama(dtype=dtype)
    said = rf"model: 21 of 21 tensors are rounded from {dtype} to bfloat16 parameters"
    with pytest.warns(UserWarning, match=said):
        model = jaxsft.load_model(directory, parameter_dtype="bfloat16")
    norm = reference.model.norm.weight.bfloat16().float().detach().numpy()
    np.testing.assert_array_equal(model.final_norm.scale_D[...].astype(np.float32), norm)


def test_dtypes_that_differ_within_a_model_are_kept(save_llama, tmp_path):
    directory, _ = save_llama(dtype="bfloat16")
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float32)
    planned = [safetensors_write.Planned(n, a.dtype, a.shape) for n, a in tensors.items()]
    safetensors_write.write(directory, planned, tensors.__getitem__)
    base, params = load(directory)
    export(params, base, tmp_path / "export")
    assert_same_bits(read_all(tmp_path / "export"), tensors)


def test_special_floats_survive(save_llama, tmp_path):
    directory, _ = save_llama()
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"][:3] = [-0.0, 1e-45, np.finfo(np.float32).max]
    planned = [safetensors_write.Planned(n, a.dtype, a.shape) for n, a in tensors.items()]
    safetensors_write.write(directory, planned, tensors.__getitem__)
    base, params = load(directory)
    export(params, base, tmp_path / "export")
    assert_same_bits(read_all(tmp_path / "export"), tensors)


@pytest.mark.parametrize(
    "variant",
    [
        {"head_dim": 16, "tie_word_embeddings": True, "num_key_value_heads": 4},
        {"num_key_value_heads": 1, "rope_parameters": LLAMA3},
    ],
)
def test_transformers_loads_the_trained_model_and_its_tokenizer(
    variant, save_llama, save_tokenizer, torch_logits, tmp_path
):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    directory, _ = save_llama(vocab_size=320, **variant)
    tokenizer = save_tokenizer(directory)
    model = jaxsft.load_model(directory)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    trained = jax.tree.map(lambda leaf: leaf * 1.01 + 1e-3, params)  # as if trained
    base = pretrained.open_pretrained(directory)
    template = "{% for m in messages %}{{ m.content }}\né{% endfor %}\n"
    result = export(trained, base, tmp_path / "export", template=template, end_of_turn_ids=[7, 2])
    reference = AutoModelForCausalLM.from_pretrained(result.directory)
    ids = np.random.default_rng(1).integers(0, 320, (2, 160)).astype(np.int32)
    ours = nnx.jit(lambda model, ids: model(ids))(nnx.merge(nnx.split(model)[0], trained), ids)
    np.testing.assert_allclose(ours, torch_logits(reference, ids), rtol=0, atol=1e-4)
    theirs = AutoTokenizer.from_pretrained(result.directory)
    assert (result.directory / "chat_template.jinja").read_bytes() == template.encode()
    assert theirs.chat_template == template
    assert theirs("2+2 is 4").input_ids == tokenizer("2+2 is 4").input_ids
    assert GenerationConfig.from_pretrained(result.directory).eos_token_id == [7, 2]
    assert reference.config.eos_token_id == [7, 2]


def test_nothing_of_the_base_is_lost_in_silence(save_llama, save_tokenizer, edit_config, tmp_path):
    directory, _ = save_llama()
    save_tokenizer(directory)
    extra = {
        "LICENSE": "Apache\n",
        "README.md": "---\nlicense: apache-2.0\n---\nThe base.",
        "special_tokens_map.json": "{ }",
        "modeling_evil.py": "raise SystemExit",
        "training_args.bin": "pickle",
        "chat_template.jinja": "{{ messages }}",
    }
    for name, text in extra.items():
        (directory / name).write_text(text)
    (directory / "onnx").mkdir()
    with pytest.warns(UserWarning, match="unknown field quirk=1"):
        edit_config(directory, quirk=1)
        result = jaxsft.save_model(jaxsft.load_model(directory), tmp_path / "export")
    assert result.left_out == ("modeling_evil.py", "onnx", "training_args.bin")
    assert "modeling_evil.py, onnx, training_args.bin" in result.notes[0]
    before = {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}
    after = {p.name: p.read_bytes() for p in result.directory.iterdir()}
    assert after["README.base.md"] == before["README.md"]
    changed = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
    copied = set(before) - changed - set(result.left_out)
    assert {"LICENSE", "tokenizer.json", "chat_template.jinja"} <= copied
    for name in copied:
        assert after[name] == before[name], name
    assert set(after) == copied | changed | {"README.base.md", MARKER}
    config, old = json.loads(after["config.json"]), json.loads(before["config.json"])
    assert config == old | {"eos_token_id": [2]}
    assert "license: apache-2.0" in after["README.md"].decode()


def test_licences_beside_a_gguf_file_are_copied_if_they_lie_there(
    save_llama, save_gguf, save_tokenizer, tmp_path
):
    directory, model = save_llama(tie_word_embeddings=False)
    save_tokenizer(directory)
    base, params = load(save_gguf(model))
    (tmp_path / "LICENSE").write_text("Apache")
    (tmp_path.parent / "private.txt").write_text("nobody's business")
    (tmp_path / "NOTICE").symlink_to(tmp_path.parent / "private.txt")
    result = export(params, base, tmp_path / "export", tokenizer=directory)
    assert result.left_out == ("NOTICE",) and "LICENSE" in result.files
    assert "NOTICE" not in result.files


def test_a_template_inside_tokenizer_config_does_not_outlive_training(
    save_llama, save_tokenizer, tmp_path
):
    directory, _ = save_llama()
    save_tokenizer(directory)
    (directory / "chat_template.jinja").unlink()
    path = directory / "tokenizer_config.json"
    base, params = load(directory)

    def exported(embedded):
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": embedded}
        path.write_text(json.dumps(config))
        export(params, base, tmp_path / "export", template="new")
        return (tmp_path / "export" / "tokenizer_config.json").read_text()

    assert "chat_template" not in json.loads(exported("old"))
    assert exported("new") == path.read_text()
    named = [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "tools"}]
    assert json.loads(exported(named))["chat_template"] == [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "new"},
    ]
    assert (tmp_path / "export" / "chat_template.jinja").read_text() == "new"


def test_another_tokenizer_replaces_the_one_of_the_base(save_llama, save_tokenizer, tmp_path):
    directory, _ = save_llama()
    save_tokenizer(tmp_path / "other")
    (directory / "tokenizer.model").write_text("old")
    (directory / "NOTICE").write_text("kept")
    base, params = load(directory)
    result = export(params, base, tmp_path / "export", tokenizer=tmp_path / "other")
    assert "tokenizer.model" not in result.files
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        copied = (result.directory / name).read_bytes()
        assert copied == (tmp_path / "other" / name).read_bytes()
    assert (result.directory / "NOTICE").read_text() == "kept"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_asked_for_is_in_the_file_and_the_config(dtype, save_llama, tmp_path):
    directory, _ = save_llama(dtype="bfloat16" if dtype == "float16" else "float16")
    base, params = load(directory)
    export(params, base, tmp_path / "export", dtype=dtype)
    written = read_all(tmp_path / "export")
    assert {str(array.dtype) for array in written.values()} == {dtype}
    assert json.loads((tmp_path / "export" / "config.json").read_text())["dtype"] == dtype
    norm = params["final_norm"]["scale_D"].astype(dtype)
    assert written["model.norm.weight"].tobytes() == np.asarray(norm).tobytes()


@pytest.mark.parametrize(("dtype", "num_zeroed"), [("float16", 2), ("bfloat16", 0), ("float32", 0)])
def test_values_that_become_0_are_counted(dtype, num_zeroed, save_llama, tmp_path):
    """2**-25 is half of float16's least number, and rounds to 0; twice that stays."""
    directory, _ = save_llama()
    base, params = load(directory)
    small = jnp.array([2.0**-25, -(2.0**-25), 2.0**-24, 0.0])
    scale_D = params["final_norm"]["scale_D"].at[:4].set(small)
    params = params | {"final_norm": {"scale_D": scale_D}}
    result = export(params, base, tmp_path / "export", dtype=dtype)
    assert result.num_zeroed == num_zeroed
    written = read_all(tmp_path / "export")["model.norm.weight"][:4]
    assert 3 - np.count_nonzero(written) == num_zeroed
    said = "2 values are too small for the dtype of the export and became 0"
    assert any(note.startswith(said) for note in result.notes) == (num_zeroed > 0)


def test_a_probe_that_the_exported_tokenizer_reads_differently_stops_the_export(
    save_llama, save_tokenizer, tmp_path, monkeypatch
):
    directory, _ = save_llama()
    save_tokenizer(directory)
    base, params = load(directory)
    real = export_module._copy_files

    def forgetful(base, tokenizer, partial):
        left_out = real(base, tokenizer, partial)
        rules = json.loads((partial / "tokenizer.json").read_text())
        del rules["pre_tokenizer"]["pretokenizers"][0]
        (partial / "tokenizer.json").write_text(json.dumps(rules))
        return left_out

    monkeypatch.setattr(export_module, "_copy_files", forgetful)
    with pytest.raises(ConversionError, match="its tokenizer makes .* of .What is 2"):
        export(params, base, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_random_weights_are_exported_in_the_dtype_of_the_config(save_llama, tmp_path):
    directory, _ = save_llama(dtype="bfloat16")
    _, params = load(directory)
    (directory / "model.safetensors").unlink()
    base = pretrained.open_pretrained(directory, weights=False)
    export(params, base, tmp_path / "export")
    written = read_all(tmp_path / "export")
    assert {str(array.dtype) for array in written.values()} == {"bfloat16"}


def test_a_failed_export_leaves_the_earlier_one_untouched(save_llama, tmp_path):
    directory, _ = save_llama()
    base, params = load(directory)
    first = export(params, base, tmp_path / "export")
    before = {p.name: p.read_bytes() for p in first.directory.iterdir()}
    broken = params | {"embedding_VD": params["embedding_VD"].at[5, 6].set(jnp.nan)}
    with pytest.raises(ConversionError, match="model.embed_tokens.weight: holds NaN"):
        export(broken, base, tmp_path / "export")
    assert {p.name: p.read_bytes() for p in first.directory.iterdir()} == before
    moved = params | {"embedding_VD": params["embedding_VD"] + 1}
    export(moved, base, tmp_path / "export")
    assert not np.array_equal(
        read_all(tmp_path / "export")[tensor_table.EMBEDDING],
        load_file(directory / "model.safetensors")[tensor_table.EMBEDDING],
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export", "model"]


def test_a_disk_that_changes_a_bit_is_noticed(save_llama, tmp_path, monkeypatch):
    directory, _ = save_llama()
    base, params = load(directory)
    real = os.fsync

    def rot(descriptor):
        real(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if "safetensors" in path:
            with open(path, "r+b") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last[0] ^ 1]))

    monkeypatch.setattr(os, "fsync", rot)
    with pytest.raises(ConversionError, match=r"lm_head.weight reads back differently"):
        export(params, base, tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directory": "gs://bucket/export"}, "gs:/bucket/export: export to a local directory"),
        ({"directory": "mine"}, "mine: exists and was not written by an export"),
        ({"end_of_turn_ids": [2, 96]}, r"end_of_turn_ids=\[2, 96\]: 96 is not in \[0, 96\)"),
    ],
)
def test_what_can_not_be_done_is_refused_before_writing(change, message, save_llama, tmp_path):
    directory, _ = save_llama()
    base, params = load(directory)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    target = change.pop("directory", "export")
    target = target if "://" in target else tmp_path / target
    with pytest.raises(ConversionError, match=message):
        export(params, base, target, **change)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_the_card_says_how_the_model_was_made_and_holds_no_secret(save_llama, tmp_path):
    directory, _ = save_llama()
    base, params = load(directory)
    about = card.Card(
        command="HF_TOKEN=hf_abcdefghijklmnopqrstuv python -m jaxsft.train https://me:pw@host/x",
        data_fingerprint="f00d",
        mask_policy="all assistant turns",
        metrics=(card.Metric(name="eval/gsm8k/loss", before=2.34567, after=1.2),),
        versions={"jaxsft": jaxsft.__version__},
    )
    export(params, base, tmp_path / "export", template="T", about=about)
    text = (tmp_path / "export" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    for expected in (
        'base_model: "model"',
        "- jaxsft\n- sft\n",
        "f00d",
        "all assistant turns",
        card.template_sha256("T"),
        "| eval/gsm8k/loss | 2.346 | 1.2 |",
        f"jaxsft {jaxsft.__version__}",
    ):
        assert expected in text
    assert "abcdefghijkl" not in text and "me:pw" not in text
    assert str(tmp_path) not in text


def test_save_model_refuses_a_model_without_source(save_llama, tmp_path):
    directory, _ = save_llama()
    model = jaxsft.load_model(directory)
    graphdef, params = nnx.split(model)
    merged = nnx.merge(graphdef, params)
    assert jaxsft.save_model(merged, tmp_path / "export").directory.is_dir()
    bare = nnx.eval_shape(lambda: type(model)(model.settings, rngs=nnx.Rngs(0)))
    with pytest.raises(ConversionError, match="this Decoder was not made by jaxsft.load_model"):
        jaxsft.save_model(bare, tmp_path / "other")
