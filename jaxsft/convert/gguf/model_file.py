"""A model in a .gguf file: config.json from its metadata, tensors under Hugging Face names.

Quantised tensors are dequantised to float32, which is also how an export "as the source" has them.
"""

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxsft.convert.gguf import architectures
from jaxsft.convert.gguf import config as gguf_config
from jaxsft.convert.gguf import header as gguf_header
from jaxsft.errors import ConversionError

EMBEDDING = "token_embd.weight"
PLAIN = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 30: np.dtype(ml_dtypes.bfloat16)}
# Ids at which llama.cpp stops, in the order that a generation_config.json gets them.
EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


class File:
    """The tensors and the configuration of one .gguf file."""

    def __init__(self, path: Path):
        """Reads the header only.

        Raises:
            ConversionError: not a whole GGUF file of a known architecture; no gguf package.
        """
        self._gguf, self._path = gguf_package(path), path
        header = gguf_header.read(path)
        self.metadata = header.metadata
        name = header.metadata.get("general.architecture")
        self.architecture = architectures.by_name(name, str(path))
        _refuse_unsupported(header.metadata, path)
        gguf_config.refuse_unknown(header.metadata, self.architecture, str(path))
        self._check_extents(header.tensors)
        factors = (gguf_config.FREQUENCIES, gguf_config.LONG, gguf_config.SHORT)
        self._factors = {n: header.tensors.pop(n) for n in factors if n in header.tensors}
        names = self.architecture.tensors
        self._ours = {their_name(ours, names): ours for ours in header.tensors}
        self._infos = {theirs: header.tensors[ours] for theirs, ours in self._ours.items()}
        self._data = np.memmap(path, np.uint8, "r")
        self._last: tuple[str, np.ndarray] | None = None

    def names(self) -> list[str]:
        return list(self._infos)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._infos[name].shape

    def dtype(self, name: str) -> np.dtype:
        """float32 for quantised tensors."""
        return PLAIN.get(self._infos[name].kind, PLAIN[0])

    def read(self, name: str) -> np.ndarray:
        """The dequantised tensor, as a Hugging Face file has it; the last one is kept."""
        if self._last is None or self._last[0] != name:
            raw = self._dequantise(self._infos[name])
            self._last = (name, self._to_theirs(self._ours[name], raw))
        return self._last[1]

    def hf_config(self) -> dict[str, Any]:
        """The config.json that transformers would have for this model."""
        reader = gguf_config.Reader(self.metadata, self.architecture, str(self._path))
        factors = {n: self._dequantise(info).reshape(-1) for n, info in self._factors.items()}
        config = reader.config(set(self._ours.values()), factors)
        return config | {"torch_dtype": self._torch_dtype()} | self.generation_config()

    def generation_config(self) -> dict[str, Any]:
        """bos, eos and pad ids; every id that ends a turn counts as eos."""
        ids = [self.metadata.get(f"tokenizer.ggml.{key}") for key in EOS_KEYS]
        config = {"eos_token_id": [i for i in dict.fromkeys(ids) if i is not None]}
        for key, theirs in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
            value = self.metadata.get(f"tokenizer.ggml.{theirs}_token_id")
            config |= {} if value is None else {key: value}
        return config

    def _torch_dtype(self) -> str:
        if all(info.kind == 0 or info.kind not in PLAIN for info in self._infos.values()):
            return "float32"
        embedding = next((n for n, ours in self._ours.items() if ours == EMBEDDING), None)
        return "float32" if embedding is None else str(self.dtype(embedding))

    def _check_extents(self, infos: dict[str, gguf_header.TensorInfo]) -> None:
        size = self._path.stat().st_size
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

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a tensor as they lie in the file."""
        info = self._infos[name]
        return np.asarray(self._data[info.offset : info.offset + self._num_bytes(info)])

    def _dequantise(self, info: gguf_header.TensorInfo) -> np.ndarray:
        raw = np.asarray(self._data[info.offset : info.offset + self._num_bytes(info)])
        if info.kind in PLAIN:
            return raw.view(PLAIN[info.kind]).reshape(info.shape)
        kind = self._gguf.GGMLQuantizationType(info.kind)
        try:
            return self._gguf.dequantize(raw.reshape(*info.shape[:-1], -1), kind)
        except NotImplementedError:
            raise ConversionError(
                f"{self._path}: tensors of type {kind.name} can't be read; use another quantisation"
            ) from None

    def _to_theirs(self, ours: str, array: np.ndarray) -> np.ndarray:
        a = self.architecture
        if a.norm_offset and ours.endswith("norm.weight"):
            return array - np.asarray(a.norm_offset, array.dtype)
        heads = self._heads(ours) if a.permuted else None
        if heads is None:
            return array
        pairs = array.reshape(heads, -1, 2, *array.shape[1:])
        return pairs.swapaxes(1, 2).reshape(array.shape)

    def _heads(self, ours: str) -> int | None:
        """The number of heads whose rows are permuted; None where rows lie as they are."""
        kind = permuted_kind(ours)
        if kind is None:
            return None
        reader = gguf_config.Reader(self.metadata, self.architecture, str(self._path))
        heads = reader.get("attention.head_count")
        return heads if kind == "q" else reader.get("attention.head_count_kv", heads)


def gguf_package(path: Path) -> Any:
    """The gguf package, whose quantisation is used both ways.

    Raises:
        ConversionError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise ConversionError(
            f"{path}: GGUF files need the gguf package; pip install 'jaxsft[gguf]'"
        ) from None
    return gguf


def permuted_kind(ours: str) -> str | None:
    """
    >>> permuted_kind("blk.3.attn_k.weight"), permuted_kind("blk.3.attn_v.weight")
    ('k', None)
    """
    parts = ours.split(".")
    return parts[-2][-1] if parts[-2] in ("attn_q", "attn_k") else None


def template(name: str) -> tuple[str, str]:
    """A tensor's name with {} for its layer, and the layer."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    if number is None:
        return name, ""
    return ".".join([*parts[:number], "{}", *parts[number + 1 :]]), parts[number]


def their_name(ours: str, names: Any) -> str:
    """The other name of a tensor; its own when the table doesn't have it."""
    key, layer = template(ours)
    return names[key].format(layer) if key in names else ours


def _refuse_unsupported(metadata: dict[str, Any], path: Path) -> None:
    if metadata.get("general.type", "model") != "model":
        raise ConversionError(
            f"{path}: general.type={metadata['general.type']!r} is not supported; 'model' is"
        )
    if metadata.get("split.count", 0) > 1:
        raise ConversionError(
            f"{path}: split.count={metadata['split.count']}; join the parts first with"
            " llama-gguf-split --merge"
        )
