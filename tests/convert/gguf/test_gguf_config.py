"""Metadata of .gguf files as other programs write it: keys that are missing, or mean something."""

import numpy as np
import pytest

from jaxsft.convert.gguf import architectures
from jaxsft.convert.gguf import config as gguf_config
from jaxsft.errors import ConversionError

KEYS = {
    "block_count": 2,
    "context_length": 512,
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "vocab_size": 96,
}


def config(name, factors=None, **keys):
    architecture = architectures.by_name(name, "m.gguf")
    metadata = {f"{name}.{key}": value for key, value in {**KEYS, **keys}.items()}
    gguf_config.refuse_unknown(metadata, architecture, "m.gguf")
    return gguf_config.Reader(metadata, architecture, "m.gguf").config(set(), factors or {})


def test_gemma2_has_the_caps_and_the_window_of_llama_cpp_where_the_file_is_silent():
    """Source: load_arch_hparams of llama.cpp's gemma2."""
    found = config("gemma2")
    fields = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")
    assert [found[field] for field in fields] == [50.0, 30.0, 4096]
    given = config("gemma2", attn_logit_softcapping=5.0, **{"attention.sliding_window": 16})
    assert [given[field] for field in fields] == [5.0, 30.0, 16]


def test_a_window_of_nothing_is_none():
    """As the file of Phi-4, which llama.cpp tells from Phi-3 by it."""
    assert config("phi3", **{"attention.sliding_window": 0})["sliding_window"] is None
    assert config("phi3", **{"attention.sliding_window": 2047})["sliding_window"] == 2047
    assert config("phi3")["sliding_window"] is None


LONG = {name: np.ones(4, np.float32) for name in (gguf_config.LONG, gguf_config.SHORT)}


def test_longrope_is_known_by_its_factors():
    original = {"rope.scaling.original_context_length": 128}
    without = config("phi3", **original)
    assert without["rope_scaling"] is None
    for kind in ({}, {"rope.scaling.type": "longrope"}):
        found = config("phi3", LONG, **original, **kind)
        assert found["rope_scaling"] == {
            **{"rope_type": "longrope", "long_factor": [1.0] * 4, "short_factor": [1.0] * 4}
        }
        assert found["original_max_position_embeddings"] == 128
    with pytest.raises(ConversionError, match="phi3.rope.scaling.type='yarn' is not supported"):
        config("phi3", LONG, **original, **{"rope.scaling.type": "yarn"})
    with pytest.raises(ConversionError, match="original_context_length=None"):
        config("phi3", LONG)
    with pytest.raises(ConversionError, match="rope_factors_short.weight alone"):
        config("phi3", {gguf_config.SHORT: LONG[gguf_config.SHORT]}, **original)


@pytest.mark.parametrize("positions", [16, 4096, 8192, 32768])
def test_llama3_factors_of_any_length_are_read_back(positions):
    """As gguf_hyper writes them: the file itself doesn't say the length."""
    scaling = {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": positions,
    }
    factors = gguf_config.llama3_factors(scaling, 10000.0, 64)
    assert gguf_config.llama3_scaling(factors, 10000.0, 64, "m.gguf") == scaling
    with pytest.raises(ConversionError, match="holds other factors than Llama 3.s .largest"):
        gguf_config.llama3_scaling(factors**0.9 + factors.max() / 50, 10000.0, 64, "m.gguf")
