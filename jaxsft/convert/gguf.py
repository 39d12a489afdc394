"""A llama model in a .gguf file: config.json from its metadata, tensors under Hugging Face names.

Quantised tensors are dequantised to float32, which is also how an export "as the source" has them.
"""

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxsft.convert import families, gguf_header
from jaxsft.errors import ConversionError
from jaxsft.model import rope, settings

FREQUENCIES = "rope_freqs.weight"  # factors by which Llama 3's rotary frequencies are divided
_PLAIN = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 30: np.dtype(ml_dtypes.bfloat16)}
_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# llama.* keys with the value that is supported; others are refused, as most change the arithmetic.
_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
}
_NEUTRAL = {"expert_count": 0, "expert_used_count": 0, "attention.causal": True}


class File:
    """The tensors and the configuration of one .gguf file."""

    def __init__(self, path: Path):
        """Reads the header only.

        Raises:
            ConversionError: not a whole GGUF file of the llama architecture; no gguf package.
        """
        try:
            import gguf
        except ImportError:
            raise ConversionError(
                f"{path}: reading GGUF files needs the gguf package; pip install 'jaxsft[gguf]'"
            ) from None
        self._gguf, self._path = gguf, path
        header = gguf_header.read(path)
        self.metadata = header.metadata
        _refuse_unsupported(header.metadata, path)
        self._frequencies = header.tensors.pop(FREQUENCIES, None)
        self._infos = {_their_name(name): info for name, info in header.tensors.items()}
        self._check_extents()
        self._data = np.memmap(path, np.uint8, "r")
        self._last: tuple[str, np.ndarray] | None = None

    def names(self) -> list[str]:
        return list(self._infos)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._infos[name].shape

    def dtype(self, name: str) -> np.dtype:
        """float32 for quantised tensors."""
        return _PLAIN.get(self._infos[name].kind, _PLAIN[0])

    def read(self, name: str) -> np.ndarray:
        """The dequantised tensor, in Hugging Face's order of rows; the last one is kept."""
        if self._last is None or self._last[0] != name:
            self._last = (name, self._unpermute(name, self._dequantise(self._infos[name])))
        return self._last[1]

    def hf_config(self) -> dict[str, Any]:
        """The config.json that transformers would have for this model."""
        embed_dim, heads = self._get("embedding_length"), self._get("attention.head_count")
        head_dim = self._get("attention.key_length", embed_dim // heads)
        for key in ("attention.value_length", "rope.dimension_count"):
            if self._get(key, head_dim) != head_dim:
                raise ConversionError(
                    f"{self._path}: llama.{key}={self._get(key)} differs from head_dim={head_dim}"
                )
        tokens = self.metadata.get("tokenizer.ggml.tokens", [])
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self._get("vocab_size", len(tokens)),
            "hidden_size": embed_dim,
            "intermediate_size": self._get("feed_forward_length"),
            "num_hidden_layers": self._get("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rms_norm_eps": self._get("attention.layer_norm_rms_epsilon"),
            "max_position_embeddings": self._get("context_length"),
            "tie_word_embeddings": families.HEAD not in self._infos,
            "torch_dtype": self._torch_dtype(),
            "use_cache": True,
        }
        return config | self._rope(head_dim) | self.generation_config()

    def generation_config(self) -> dict[str, Any]:
        """bos, eos and pad ids; every id that ends a turn counts as eos."""
        ids = {key: self.metadata.get(f"tokenizer.ggml.{key}") for key in _EOS_KEYS}
        config = {"eos_token_id": [i for i in dict.fromkeys(ids.values()) if i is not None]}
        for key, theirs in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
            value = self.metadata.get(f"tokenizer.ggml.{theirs}_token_id")
            config |= {} if value is None else {key: value}
        return config

    def _get(self, key: str, default: Any = None) -> Any:
        value = self.metadata.get(f"llama.{key}", default)
        if value is None or isinstance(value, list):
            raise ConversionError(f"{self._path}: llama.{key}={value!r}, expected one number")
        return value

    def _torch_dtype(self) -> str:
        if all(info.kind == 0 or info.kind not in _PLAIN for info in self._infos.values()):
            return "float32"
        return str(self.dtype(families.EMBEDDING))

    def _rope(self, head_dim: int) -> dict[str, Any]:
        theta = float(self._get("rope.freq_base", 10000.0))
        kind = self._get("rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            raise ConversionError(
                f"{self._path}: llama.rope.scaling.type={kind!r} is not supported; none, linear are"
            )
        scaling = None
        if self._frequencies is not None:
            scaling = self._llama3_scaling(theta, head_dim)
        elif kind == "linear":
            scaling = {"rope_type": "linear", "factor": float(self._get("rope.scaling.factor"))}
        return {"rope_theta": theta, "rope_scaling": scaling}

    def _llama3_scaling(self, theta: float, head_dim: int) -> dict[str, Any]:
        """The scaling behind the factors in the file, which llama.cpp doesn't store by name.

        Every published Llama 3.x has low 1, high 4 and 8192 positions; the factors must agree.
        """
        assert self._frequencies is not None
        factors = self._dequantise(self._frequencies).reshape(-1)
        scaling = settings.Llama3Scaling(
            factor=gguf_header.shortest(factors.max()),
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_positions=8192,
        )
        plain = rope.inverse_frequencies(settings.Rope(theta=theta), head_dim)
        wanted = rope.inverse_frequencies(settings.Rope(theta=theta, scaling=scaling), head_dim)
        if factors.shape != plain.shape or not np.allclose(plain / factors, wanted, 1e-4, 0):
            raise ConversionError(
                f"{self._path}: {FREQUENCIES} holds other factors than Llama 3's"
                f" (largest {factors.max():g}); convert from the Hugging Face directory instead"
            )
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }

    def _check_extents(self) -> None:
        size = self._path.stat().st_size
        infos = {**self._infos}
        if self._frequencies is not None:
            infos[FREQUENCIES] = self._frequencies
        for name, info in infos.items():
            if info.kind not in set(self._gguf.GGMLQuantizationType):
                raise ConversionError(f"{self._path}: {name} has unknown ggml type {info.kind}")
            block = self._gguf.GGML_QUANT_SIZES[self._gguf.GGMLQuantizationType(info.kind)][0]
            if info.shape[-1] % block:
                raise ConversionError(
                    f"{self._path}: {name} has rows of {info.shape[-1]}, not blocks of {block}"
                )
            end = info.offset + self._num_bytes(info)
            if end > size:
                raise ConversionError(
                    f"{self._path}: file size {size}, header says at least {end}; download it again"
                )

    def _num_bytes(self, info: gguf_header.TensorInfo) -> int:
        block, block_bytes = self._gguf.GGML_QUANT_SIZES[self._gguf.GGMLQuantizationType(info.kind)]
        return math.prod(info.shape) // block * block_bytes

    def _dequantise(self, info: gguf_header.TensorInfo) -> np.ndarray:
        raw = np.asarray(self._data[info.offset : info.offset + self._num_bytes(info)])
        if info.kind in _PLAIN:
            return raw.view(_PLAIN[info.kind]).reshape(info.shape)
        kind = self._gguf.GGMLQuantizationType(info.kind)
        try:
            return self._gguf.dequantize(raw.reshape(*info.shape[:-1], -1), kind)
        except NotImplementedError:
            raise ConversionError(
                f"{self._path}: tensors of type {kind.name} can't be read; use another quantisation"
            ) from None

    def _unpermute(self, name: str, theirs: np.ndarray) -> np.ndarray:
        """Query and key rows from GGUF's order of each head, 0 h 1 h+1 ..., to 0 1 ... h h+1 ..."""
        row = _ROWS.get(_template(name)[0])
        if row is None or not row.gguf_permuted:
            return theirs
        heads = self._get("attention.head_count")
        if row.ours[-1] == "k_DKH":
            heads = self._get("attention.head_count_kv", heads)
        pairs = theirs.reshape(heads, -1, 2, theirs.shape[-1])
        return pairs.swapaxes(1, 2).reshape(theirs.shape)


_ROWS = {row.theirs: row for row in families.LLAMA}
_GGUF_ROWS = {row.gguf: row for row in families.LLAMA}


def _template(name: str) -> tuple[str, str]:
    """A tensor's name with {} for its layer, and the layer."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    if number is None:
        return name, ""
    return ".".join([*parts[:number], "{}", *parts[number + 1 :]]), parts[number]


def _their_name(gguf_name: str) -> str:
    """The Hugging Face name of a GGUF tensor; its own when the table doesn't have it."""
    template, layer = _template(gguf_name)
    return _GGUF_ROWS[template].theirs.format(layer) if template in _GGUF_ROWS else gguf_name


def _refuse_unsupported(metadata: dict[str, Any], path: Path) -> None:
    for key, wanted in {"general.architecture": "llama", "general.type": "model"}.items():
        if metadata.get(key, "model") != wanted:
            raise ConversionError(
                f"{path}: {key}={metadata.get(key)!r} is not supported; {wanted!r} is"
            )
    if metadata.get("split.count", 0) > 1:
        raise ConversionError(
            f"{path}: split.count={metadata['split.count']}; join the parts first with"
            " llama-gguf-split --merge"
        )
    for key, value in metadata.items():
        name = key.removeprefix("llama.")
        if name != key and name not in _READ and not (name in _NEUTRAL and value == _NEUTRAL[name]):
            raise ConversionError(f"{path}: {key}={value!r} is not supported")
