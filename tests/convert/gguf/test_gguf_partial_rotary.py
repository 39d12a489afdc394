"""A rotary embedding of a part of each head, with factors, comes back from GGUF."""

import dataclasses

import gguf as library
import numpy as np
import pytest

from jaxsft.convert import pretrained
from jaxsft.convert.export import gguf_file
from jaxsft.convert.gguf import config as gguf_config
from jaxsft.convert.gguf.model_file import File
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.files import untrusted

PHI4 = {
    **{"vocab_size": 328, "hidden_size": 64, "original_max_position_embeddings": 128},
    "rope_parameters": {
        **{"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        **{"short_factor": [1.0] * 6, "long_factor": [1.0, 1.1, 1.5, 2.0, 3.0, 5.0]},
    },
}


@pytest.mark.parametrize("theirs", [False, True])
def test_a_partial_rotary_embedding_with_factors_comes_back(
    theirs, save_family, save_tokenizer, tmp_path
):
    """Also from a file as llama.cpp's converter writes it: without key_length."""
    directory, _ = save_family("phi3", **PHI4)
    save_tokenizer(directory)
    config = untrusted.read_json(directory / "config.json")
    tensors, path = Directory(directory), tmp_path / "m.gguf"
    gguf_file.write(tensors, config, path, directory, "f32", None, [2])
    assert File(path).metadata["phi3.rope.dimension_count"] == 12  # of 16
    if theirs:
        path = without(path, {"phi3.attention.key_length", "phi3.attention.value_length"})
    ours, expected = (pretrained.open_pretrained(p).settings for p in (path, directory))
    size = dataclasses.replace(
        ours.rope.scaling, attention_factor=expected.rope.scaling.attention_factor
    )
    assert ours.rope.scaling.attention_factor == pytest.approx(size.attention_factor, abs=1e-6)
    assert dataclasses.replace(ours.rope, scaling=size) == expected.rope
    assert ours.head_dim == expected.head_dim == 16


def without(path, keys):
    """A copy of the file without some metadata."""
    reader, other = library.GGUFReader(path), path.with_name("theirs.gguf")
    writer = library.GGUFWriter(other, "phi3")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in keys | {"general.architecture"}:
            kind = field.types[0]
            sub = field.types[-1] if kind == library.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return other


def test_each_number_of_rotated_dimensions_comes_back():
    for size in range(2, 257):
        for rotated in range(1, size):
            assert int(size * gguf_config.share_of(rotated, size)) == rotated
