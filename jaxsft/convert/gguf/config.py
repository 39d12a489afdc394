"""A config.json <-> the hyper-parameters in a .gguf file's metadata. No jax here."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsft.convert.families.gguf_names import OUTPUT, Architecture
from jaxsft.convert.gguf import architectures, header
from jaxsft.errors import ConversionError

# The tensors by which rotary frequencies are divided: Llama 3's, and those of longrope.
FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ATTENTION_FACTOR = "rope.scaling.attn_factor"
_DIMENSIONS = "rope.dimension_count"  # that are rotated, of head_dim
_ROPE = {"rope.freq_base", "rope.scaling.type", "rope.scaling.factor", _DIMENSIONS}
_ROPE |= {"rope.scaling.original_context_length", ATTENTION_FACTOR}
# Keys that change nothing with these values; others are refused, as most change the arithmetic.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "rope.scaling.finetuned": (True, False),
    "rope.freq_base_swa": (10000.0,),
}
_LLAMA3_POSITIONS = (8192, *(2**n for n in range(4, 21) if n != 13))
_KINDS = {"none": "default", "linear": "linear", "yarn": "yarn"}  # rope.scaling.type -> rope_type
_LONGROPE = "longrope"  # the files of Phi-3 have no rope.scaling.type, only the factors


def refuse_unknown(metadata: Mapping[str, Any], architecture: Architecture, where: str) -> None:
    """Refuses a key of the architecture that this file doesn't read.

    Raises:
        ConversionError: with the key and its value.
    """
    for key, value in metadata.items():
        name = key.removeprefix(f"{architecture.name}.")
        known = name in architecture.keys or name in _ROPE or value in _NEUTRAL.get(name, ())
        if name != key and not known:
            raise ConversionError(f"{where}: {key}={value!r} is not supported")


class Reader:
    """Makes the config.json that transformers would have for a model."""

    def __init__(self, metadata: Mapping[str, Any], architecture: Architecture, where: str):
        self.metadata, self.architecture, self.where = metadata, architecture, where

    def config(self, tensors: set[str], factors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Everything but the token ids and the dtype.

        Args:
            tensors: the GGUF names of the weights in the file.
            factors: those of FREQUENCIES, LONG and SHORT that are there.
        """
        a = self.architecture
        embed_dim, heads = self.get("embedding_length"), self.get("attention.head_count")
        head_dim = self.get("attention.key_length", embed_dim // heads)
        if self.get("attention.value_length", head_dim) != head_dim:
            raise self._differs("attention.value_length", head_dim)
        family = architectures.read_as(a)
        config: dict[str, Any] = {
            "architectures": [family.hf_class],
            "model_type": family.model_type,
            "vocab_size": self.get("vocab_size", self._num_tokens()),
            "hidden_size": embed_dim,
            "intermediate_size": self.get("feed_forward_length"),
            "num_hidden_layers": self.get("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.get("attention.head_count_kv", heads),
            "rms_norm_eps": self.get("attention.layer_norm_rms_epsilon"),
            "max_position_embeddings": self.get("context_length"),
            "tie_word_embeddings": OUTPUT not in tensors,
            "use_cache": True,
        }
        if a.states_head_dim or head_dim * heads != embed_dim:
            config["head_dim"] = head_dim
        config |= {field: values[0] for field, values in a.fixed.items()}
        config |= {field: tensor in tensors for field, tensor in a.presence.items()}
        config |= {a.keys[key]: self._optional(key) for key in a.keys if a.keys[key] not in config}
        return config | self._layers(config, head_dim) | self._rope(config, head_dim, factors)

    def get(self, key: str, default: Any = None) -> Any:
        """One number (or text) of the architecture's keys.

        Raises:
            ConversionError: not there, or a number for each layer.
        """
        name = f"{self.architecture.name}.{key}"
        value = self.metadata.get(name, default)
        if value is None or isinstance(value, list):
            raise ConversionError(f"{self.where}: {name}={value!r}, expected one number")
        return value

    def _optional(self, key: str) -> Any:
        absent = self.architecture.absent.get(key)
        if self.metadata.get(f"{self.architecture.name}.{key}", absent) is None:
            return None
        value = self.get(key, absent)
        return None if (key, value) == ("attention.sliding_window", 0) else value

    def _num_tokens(self) -> int | None:
        return len(self.metadata.get("tokenizer.ggml.tokens", [])) or None

    def _differs(self, key: str, head_dim: int) -> ConversionError:
        return ConversionError(
            f"{self.where}: {self.architecture.name}.{key}={self.get(key)} differs from"
            f" head_dim={head_dim}"
        )

    def _layers(self, config: dict[str, Any], head_dim: int) -> dict[str, Any]:
        a, layers = self.architecture, config["num_hidden_layers"]
        found: dict[str, Any] = {}
        if a.states_query_scale:
            found["query_pre_attn_scalar"] = a.query_scalar(
                layers, config["hidden_size"], config["num_attention_heads"], head_dim
            )
        if a.full_attention_every is not None:
            found["layer_types"] = every_nth_full(layers, a.full_attention_every)
        return found

    def _rope(
        self, config: dict[str, Any], head_dim: int, factors: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        a = self.architecture
        theta = float(self.get("rope.freq_base", 10000.0))
        long = a.long_factors and {LONG, SHORT} <= factors.keys()
        found: dict[str, Any] = {"rope_theta": theta}
        found |= self._longrope(factors) if long else {"rope_scaling": self._scaling(factors)}
        if a.local_rope_theta is not None:
            found["rope_local_base_freq"] = a.local_rope_theta
        rotated = self.get(_DIMENSIONS, head_dim)
        if rotated != head_dim and not (a.partial_rotary and 0 < rotated < head_dim):
            raise self._differs(_DIMENSIONS, head_dim)
        if rotated != head_dim:
            found["partial_rotary_factor"] = share_of(rotated, head_dim)
        if FREQUENCIES in factors:
            scaling = llama3_scaling(factors[FREQUENCIES], theta, rotated, self.where)
            found["rope_scaling"] = scaling
        return found

    def _longrope(self, factors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        kind = self.get("rope.scaling.type", _LONGROPE)
        if kind != _LONGROPE:
            raise self._refuse_scaling(kind)
        original = self.get("rope.scaling.original_context_length")
        long, short = ([header.shortest(f) for f in factors[name]] for name in (LONG, SHORT))
        scaling = {"rope_type": _LONGROPE, "long_factor": long, "short_factor": short}
        if (size := self._optional(ATTENTION_FACTOR)) is not None:
            scaling["attention_factor"] = size
        return {"rope_scaling": scaling, "original_max_position_embeddings": original}

    def _scaling(self, factors: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
        for name in (LONG, SHORT):
            if name in factors:
                raise ConversionError(
                    f"{self.where}: {name} alone, or in {self.architecture.name}, is not supported"
                )
        if (size := self.get(ATTENTION_FACTOR, 1.0)) != 1.0:
            raise ConversionError(
                f"{self.where}: {self.architecture.name}.{ATTENTION_FACTOR}={size} is supported"
                " with longrope's factors only"
            )
        kind = self.get("rope.scaling.type", "none")
        if kind not in _KINDS:
            raise self._refuse_scaling(kind)
        if kind == "none":
            return None
        scaling = {"rope_type": _KINDS[kind], "factor": float(self.get("rope.scaling.factor"))}
        if kind == "yarn":
            positions = self.get("rope.scaling.original_context_length")
            scaling |= {"original_max_position_embeddings": positions}
        return scaling

    def _refuse_scaling(self, kind: str) -> ConversionError:
        return ConversionError(
            f"{self.where}: {self.architecture.name}.rope.scaling.type={kind!r} is not"
            f" supported; {', '.join(_KINDS)} are"
        )


def llama3_scaling(factors: np.ndarray, theta: float, rotated: int, where: str) -> dict[str, Any]:
    """The scaling behind the factors in the file, which llama.cpp doesn't store by name.

    Every published Llama 3.x has low 1, high 4 and 8192 positions, others may have been trained
    with fewer or more of these; the factors must agree.
    """
    for positions in _LLAMA3_POSITIONS:
        scaling = {
            "rope_type": "llama3",
            "factor": header.shortest(factors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": positions,
        }
        wanted = llama3_factors(scaling, theta, rotated)
        if factors.shape == wanted.shape and np.allclose(factors, wanted, 1e-4, 0):
            return scaling
    raise ConversionError(
        f"{where}: {FREQUENCIES} holds other factors than Llama 3's"
        f" (largest {factors.max():g}); convert from the Hugging Face directory instead"
    )


def llama3_factors(scaling: Mapping[str, Any], theta: float, rotated: int) -> np.ndarray:
    """The divisor of each rotary frequency, float32 [rotated / 2].

    Source: arXiv:2407.21783 section 3.4.2 and the published llama-models code, apply_scaling.
    """
    frequencies = theta ** -(np.arange(0, rotated, 2) / rotated)
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (kept + (1 - kept) / scaling["factor"])).astype(np.float32)


def share_of(rotated: int, head_dim: int) -> float:
    """The share of head_dim that gives `rotated` when the product's fraction is cut."""
    share = rotated / head_dim
    return share if int(head_dim * share) == rotated else math.nextafter(share, 1)


def every_nth_full(layers: int, full_every: int) -> list[str]:
    """layer_types of a model in which every n-th layer sees all positions.

    >>> every_nth_full(4, 2)
    ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention']
    """
    kinds = ("full_attention", "sliding_attention")
    return [kinds[bool((layer + 1) % full_every)] for layer in range(layers)]
