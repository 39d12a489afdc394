"""Logits equal transformers' in float32; sharding, packing and file layout change no bit."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import jaxsft
from jaxsft import config
from jaxsft.convert import pretrained
from jaxsft.convert.families import llama, tensor_table
from jaxsft.convert.tensors import huggingface
from jaxsft.devices import mesh
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
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
# Rows of 192 tokens go past llama3's 64 original positions.
VARIANTS = {
    "as many key-value heads": {"num_key_value_heads": 4},
    "tied, wide heads": {"head_dim": 16, "tie_word_embeddings": True},
    "one key-value head, linear": {"num_key_value_heads": 1, "rope_parameters": LINEAR},
    "llama3": {"rope_parameters": LLAMA3},
    "narrow heads": {"head_dim": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 50}},
    "tied, odd counts": {
        **{"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 36},
        **{"tie_word_embeddings": True, "rms_norm_eps": 1e-2, "num_hidden_layers": 3},
    },
    "tied, wide heads, llama3": {
        **{"head_dim": 12, "tie_word_embeddings": True, "rope_parameters": LLAMA3}
    },
}


def run(model, *arrays) -> np.ndarray:
    return np.asarray(nnx.jit(lambda model, *arrays: model(*arrays))(model, *arrays))


def tokens(shape, vocab=96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab, shape).astype(np.int32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant, save_llama, torch_logits):
    directory, reference = save_llama(**VARIANTS[variant])
    ids = tokens((2, 192))
    logits = run(jaxsft.load_model(directory), ids)
    np.testing.assert_allclose(logits, torch_logits(reference, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ["llama3", "tied, wide heads"])
def test_packed_conversations_equal_each_one_alone(variant, save_llama, torch_logits):
    directory, reference = save_llama(**VARIANTS[variant])
    lengths, row = (100, 7, 70), 192
    parts = [tokens((length,))[::-1] for length in lengths]
    pad = row - sum(lengths)
    ids = np.concatenate([*parts, np.zeros(pad)]).astype(np.int32)
    segments = np.repeat([1, 2, 3, 0], [*lengths, pad]).astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in (*lengths, pad)]).astype(np.int32)
    logits = run(jaxsft.load_model(directory), ids[None], segments[None], positions[None])[0]
    start = 0
    for part in parts:
        alone = torch_logits(reference, part[None])[0]
        np.testing.assert_allclose(logits[start : start + len(part)], alone, rtol=0, atol=1e-4)
        start += len(part)


def test_old_spelling_of_rope_gives_the_same_logits(save_llama, edit_config, torch_logits):
    directory, reference = save_llama(rope_parameters=LLAMA3)
    old = {("type" if k == "rope_type" else k): v for k, v in LLAMA3.items() if k != "rope_theta"}
    edit_config(directory, rope_parameters=..., rope_scaling=old, rope_theta=1000.0)
    ids = tokens((2, 192))
    logits = run(jaxsft.load_model(directory), ids)
    np.testing.assert_allclose(logits, torch_logits(reference, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 4, "tensor": 2}])
def test_a_mesh_changes_no_bit(sizes, save_llama):
    directory, _ = save_llama(max_shard_size="20KB")
    base = pretrained.open_pretrained(directory)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    one, many = (
        pretrained.read_params(base, state.shardings(shapes, axes, m))
        for m in (mesh.single_device_mesh(), mesh.make_mesh(config.Mesh(**sizes)))
    )
    assert len(many["layers"]["attention"]["q_DNH"].sharding.device_set) == 8
    for path in tensor_table.paths(one):
        a, b = tensor_table.leaf(one, path), tensor_table.leaf(many, path)
        assert a.dtype == b.dtype == np.float32
        assert np.array_equal(a, b), path
        assert b.sharding.spec == mesh.spec(*tensor_table.leaf(axes, path))


def test_stories260k_reproduces_its_goldens(assets):
    golden = json.loads((assets / "goldens" / "model_goldens.json").read_text())["stories260k"]
    model = jaxsft.load_model(assets / "models" / "stories260k")
    ids = np.array([golden["ids"]], np.int32)
    logits = run(model, ids)[0]
    assert logits[:16].argmax(-1).tolist() == golden["logits_first16_argmax"]
    np.testing.assert_allclose(logits[15, :8], golden["logits_pos15_first8"], rtol=0, atol=1e-4)
    nll = -jax.nn.log_softmax(logits[:-1])[np.arange(len(ids[0]) - 1), ids[0, 1:]]
    assert float(nll.mean()) == pytest.approx(golden["nll_mean_of_ids"], abs=1e-5)


def test_stories260k_equals_transformers(assets, torch_logits):
    from transformers import AutoModelForCausalLM

    directory = assets / "models" / "stories260k"
    ids = tokens((2, 256), vocab=512)
    reference = torch_logits(AutoModelForCausalLM.from_pretrained(directory), ids)
    logits = run(jaxsft.load_model(directory), ids)
    np.testing.assert_allclose(logits, reference, rtol=0, atol=1e-4)


def test_a_value_too_large_for_the_parameters_is_refused(save_llama):
    directory, _ = save_llama()
    rewrite(directory, put(NORM, np.full(32, np.finfo(np.float32).max)))
    base = pretrained.open_pretrained(directory)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    pretrained.read_params(base, placement)
    with pytest.raises(ConversionError, match=rf"{NORM} holds .* or too large for bfloat16"):
        rounded = state.abstract(base.settings, "float32", "none", "bfloat16")[1]
        pretrained.read_params(base, placement, rounded)


def test_stacked_parameters_hold_each_tensor_once(save_llama):
    """q_proj [N * H, D] of layer n becomes q_DNH[n], [D, N, H]."""
    directory, reference = save_llama()
    params = nnx.to_pure_dict(nnx.state(jaxsft.load_model(directory), nnx.Param))
    tensors = tensor_table.tensors(params, llama.TABLE)
    assert [tensor.name for tensor in tensors] == list(reference.state_dict())
    q = reference.state_dict()["model.layers.1.self_attn.q_proj.weight"].numpy()
    ours = params["layers"]["attention"]["q_DNH"][1]
    for d, n, h in [(0, 0, 0), (5, 3, 2), (31, 1, 7)]:
        assert ours[d, n, h] == q[n * 8 + h, d]


def rewrite(directory, change) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


NORM = "model.norm.weight"
NAN = np.where(np.arange(32) == 7, np.nan, np.ones(32)).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(NORM), "lack model.norm.weight"),
        (put("model.layers.0.bias", NAN), "unexpected model.layers.0.bias"),
        (put(NORM, np.ones(31, np.float32)), r"model.norm.weight has shape \(31,\).*\(32,\)"),
        (put(NORM, NAN), "model.norm.weight holds NaN"),
        (put(NORM, np.full(32, -np.inf, np.float32)), "model.norm.weight holds NaN or infinite"),
        (put(NORM, np.ones(32, np.int32)), "model.norm.weight has dtype I32"),
        (
            lambda t: [t.pop(n) for n in list(t) if "layers.1." in n],
            r"num_hidden_layers=2 but the weights hold 1 layers \(0-0\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, save_llama):
    directory, _ = save_llama()
    rewrite(directory, change)
    with pytest.raises(ConversionError, match=message):
        jaxsft.load_model(directory)


def test_a_copy_of_the_tied_embedding_is_accepted_and_told(save_llama):
    directory, _ = save_llama(tie_word_embeddings=True)
    embedding = load_file(directory / "model.safetensors")[tensor_table.EMBEDDING]
    rewrite(directory, put(tensor_table.HEAD, embedding))
    assert "lm_head.weight is a copy" in pretrained.open_pretrained(directory).notes[0]
    with pytest.warns(UserWarning, match="lm_head.weight is a copy"):
        jaxsft.load_model(directory)
    embedding[3, 4] = np.nextafter(embedding[3, 4], 9)
    rewrite(directory, put(tensor_table.HEAD, embedding))
    with pytest.raises(
        ConversionError, match="tie_word_embeddings=true but lm_head.weight differs"
    ):
        jaxsft.load_model(directory)


def test_unused_config_fields_are_told_not_swallowed(save_llama, edit_config):
    directory, _ = save_llama()
    edit_config(directory, flux_capacitor=88)
    with pytest.warns(UserWarning, match="unknown field flux_capacitor=88"):
        jaxsft.load_model(directory)


def test_random_weights_need_config_json_only(save_llama, tmp_path):
    directory, _ = save_llama()
    (tmp_path / "bare").mkdir()
    shutil.copy(directory / "config.json", tmp_path / "bare")
    base = pretrained.open_pretrained(tmp_path / "bare", weights=False)
    assert base.settings == pretrained.open_pretrained(directory).settings
    with pytest.raises(ConversionError, match="opened without weights"):
        pretrained.read_params(base, {})


def test_values_that_do_not_fit_the_dtype_are_refused(save_llama, tmp_path):
    directory, _ = save_llama()
    params = nnx.to_pure_dict(nnx.state(jaxsft.load_model(directory), nnx.Param))
    names = [tensor.name for tensor in tensor_table.tensors(params, llama.TABLE)]
    params["final_norm"]["scale_D"] = params["final_norm"]["scale_D"].at[3].set(1e5)
    with pytest.raises(ConversionError, match="model.norm.weight: 100000 does not fit in float16"):
        huggingface.write_params(
            params, llama.TABLE, tmp_path, {n: np.dtype(np.float16) for n in names}
        )
    params["final_norm"]["scale_D"] = params["final_norm"]["scale_D"].at[3].set(np.nan)
    with pytest.raises(ConversionError, match="model.norm.weight: holds NaN"):
        huggingface.write_params(
            params, llama.TABLE, tmp_path, {n: np.dtype(np.float32) for n in names}
        )


class Held:
    """Tensors in memory."""

    def __init__(self, arrays):
        self.arrays = arrays

    def names(self):
        return list(self.arrays)

    def shape(self, name):
        return self.arrays[name].shape

    def dtype(self, name):
        return self.arrays[name].dtype

    def read(self, name):
        return self.arrays[name]


ONE_EACH = tensor_table.TensorRow(
    "model.layers.{}.mlp.experts.{}.up_proj.weight",
    ("layers", "mlp", "up_EDF"),
    tensor_table.Layout.TRANSPOSED,
)
STACKED = tensor_table.TensorRow(
    "model.layers.{}.mlp.experts.up_proj",
    ("layers", "mlp", "up_EDF"),
    tensor_table.Layout.TRANSPOSED,
)


@pytest.mark.parametrize("row", [ONE_EACH, STACKED])
def test_experts_are_a_tensor_each_or_stacked_in_one(row):
    """up_EDF [2 layers, 3 experts, 4, 5] from tensors of [5, 4] or of [3, 5, 4], and back."""
    theirs = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    indices = [i for i in np.ndindex(*theirs.shape[: row.num_indices])]
    held = Held({row.theirs.format(*i): theirs[i] for i in indices})
    shapes = {"layers": {"mlp": {"up_EDF": jax.ShapeDtypeStruct((2, 3, 4, 5), np.float32)}}}
    over = mesh.make_mesh(config.Mesh(data=1, fsdp=2, tensor=4))
    placement = {"layers": {"mlp": {"up_EDF": mesh.sharding(over, None, None, "embed", None)}}}
    params = huggingface.read_params(held, (row,), shapes, placement, "made up")
    ours = params["layers"]["mlp"]["up_EDF"]
    np.testing.assert_array_equal(ours, theirs.swapaxes(2, 3))
    for tensor in tensor_table.tensors(params, (row,)):
        back, _ = huggingface.to_theirs(params, tensor, np.dtype(np.float32))
        np.testing.assert_array_equal(back, held.read(tensor.name), strict=True)
