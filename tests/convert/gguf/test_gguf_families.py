"""Each family: transformers -> jaxsft -> GGUF -> jaxsft, in every type that is written."""

import gguf
import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.convert.export import gguf_file
from jaxsft.convert.gguf.model_file import File
from tests.convert.families.family_cases import FILES

FAMILIES = [name for name, file in FILES.items() if file.gguf is not None]
# Of the logits, by the largest of them: each type's relative rounding of a weight, times about 10.
BOUNDS = {"f32": 1e-6, "f16": 5e-3, "bf16": 1e-1, "q8_0": 1e-1}


def rounded(array, dtype):
    """What a type keeps of a weight. Q8_0 as the gguf package has it, which llama.cpp tests."""
    if array.ndim == 1 or dtype == "f32":
        return array
    if dtype == "q8_0":
        kind = gguf.GGMLQuantizationType.Q8_0
        return gguf.dequantize(gguf.quants.quantize(array, kind), kind)
    return array.astype({"f16": np.float16, "bf16": ml_dtypes.bfloat16}[dtype]).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_comes_back_as_its_type_rounds_it(family, save_family, save_tokenizer, tmp_path):
    """Bit for bit; but gemma's norms lose up to half a unit of 1 where 1 is added to them."""
    directory, torch_model = save_family(family, vocab_size=328)
    save_tokenizer(directory)
    original = pretrained.open_pretrained(directory)
    graphdef, params = nnx.split(jaxsft.load_model(directory))
    run = jax.jit(lambda params, ids: nnx.merge(graphdef, params)(ids))
    ids = np.random.default_rng(0).integers(3, 320, (1, 40)).astype(np.int32)
    logits = np.asarray(run(params, ids))
    for dtype, bound in BOUNDS.items():
        path = tmp_path / f"{dtype}.gguf"
        gguf_file.export_gguf(nnx.to_pure_dict(params), original, path, dtype=dtype)
        file = File(path)
        assert file.names() and set(file.names()) == set(original.tensors.names())
        for name in file.names():
            wanted = rounded(torch_model.state_dict()[name].numpy(), dtype)
            loss = 2**-24 if family.startswith("gemma") and name.endswith("norm.weight") else 0
            found = file.read(name).astype(np.float32)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=loss, err_msg=name)
        back = jaxsft.load_model(path)
        assert back.settings == original.settings
        error = np.abs(run(nnx.state(back), ids) - logits).max() / np.abs(logits).max()
        assert error < bound and (error > bound / 1000 or dtype == "f32"), (dtype, error)


ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3"}


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_lie_as_llama_cpp_wants_them(family, save_family, save_tokenizer, tmp_path):
    """Names as the gguf package has them; rows and norms as convert_hf_to_gguf.py puts them.

    Llama's query and key rows of one head, 0 1 2 3 | 4 5 6 7, lie 0 4 1 5 2 6 3 7; gemma's norms
    have 1 added. A mistake made both ways would come back as nothing.
    """
    directory, model = save_family(family, vocab_size=328)
    save_tokenizer(directory)
    path = tmp_path / "m.gguf"
    params = nnx.to_pure_dict(nnx.state(jaxsft.load_model(directory)))
    gguf_file.export_gguf(params, pretrained.open_pretrained(directory), path, dtype="f32")
    architecture = ARCHITECTURES.get(family, family)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], model.config.num_hidden_layers)
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    for theirs, tensor in model.state_dict().items():
        if theirs == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        wanted = tensor.numpy()
        if architecture.startswith("gemma") and "norm" in theirs:
            wanted = wanted + 1
        if architecture == "llama" and ("q_proj" in theirs or "k_proj" in theirs):
            head = model.config.head_dim
            rows = np.arange(head).reshape(2, -1).T.reshape(-1)
            wanted = wanted.reshape(-1, head, wanted.shape[1])[:, rows].reshape(wanted.shape)
        ours = names.get_name(theirs, (".weight", ".bias"))
        np.testing.assert_array_equal(found.pop(ours), wanted, err_msg=theirs)
    assert not found
