"""A Hugging Face tokenizer directory rebuilt from a .gguf file's metadata. No jax here."""

import hashlib
import json
import reprlib
from pathlib import Path
from typing import Any

from jaxsft.convert.gguf import header as gguf_header
from jaxsft.convert.gguf import splits
from jaxsft.errors import ConversionError
from jaxsft.files import caches, made_once

RECIPE = 2  # counts changes of this file that change its output: part of the cache key
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def cached_directory(path: Path, cache_dir: str | None = None) -> Path:
    """The directory with this file's tokenizer, in the cache; written on first use.

    Args:
        cache_dir: config.data.cache_dir; None: the user's cache.
    """
    header = gguf_header.read(path)
    key = hashlib.sha256(f"{RECIPE} {header.sha256}".encode()).hexdigest()
    return made_once.directory(
        caches.cache_root(cache_dir) / "tokenizers",
        key[:32],
        lambda directory: write(header.metadata, directory, str(path)),
    )


def write(metadata: dict[str, Any], directory: Path, where: str) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Raises:
        ConversionError: a kind of tokenizer whose splitting rules are not known here.
    """
    files = {
        "tokenizer.json": json.dumps(tokenizer_json(metadata, where), ensure_ascii=False),
        "tokenizer_config.json": json.dumps(tokenizer_config(metadata, where), indent=2),
    }
    template = _value(metadata, "tokenizer.chat_template", str, None, where)
    if template is not None:
        files["chat_template.jinja"] = template
    for name, text in files.items():
        with (directory / name).open("w", encoding="utf-8", newline="") as file:
            file.write(text)


def tokenizer_json(metadata: dict[str, Any], where: str) -> dict[str, Any]:
    """The tokenizer in the format of the tokenizers library."""
    model = _value(metadata, "tokenizer.ggml.model", str, None, where)
    pre = _value(metadata, "tokenizer.ggml.pre", str, None, where)
    if model not in ("gpt2", "llama") or (model == "gpt2" and pre not in splits.SPLITS):
        raise ConversionError(
            f"{where}: tokenizer.ggml.model={model!r} with tokenizer.ggml.pre={pre!r} can't be"
            f" rebuilt ('llama', and 'gpt2' with {', '.join(splits.SPLITS)} can); name the"
            " model's Hugging Face tokenizer directory in config.data.tokenizer"
        )
    tokens, types = _list(metadata, "tokens", str, where), _list(metadata, "token_type", int, where)
    if len(types) != len(tokens):
        raise ConversionError(f"{where}: {len(tokens)} tokens but {len(types)} token types")
    pairs = list(enumerate(zip(tokens, types, strict=True)))
    if model == "llama":
        parts, always_bos = _sentencepiece(metadata, where), True
    else:
        parts, always_bos = _byte_level(metadata, where), pre == "llama-bpe"
    vocab = {token: i for i, (token, kind) in pairs if kind != _UNUSED}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(i, token, kind != _USER_DEFINED)
            for i, (token, kind) in pairs
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ],
        **parts,
        "post_processor": _post_processor(metadata, always_bos, where),
        "model": {"type": "BPE", "dropout": None, **parts["model"], "vocab": vocab},
    }


def _byte_level(metadata: dict[str, Any], where: str) -> dict[str, Any]:
    split = splits.SPLITS[metadata["tokenizer.ggml.pre"]]
    return {
        "normalizer": split.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(split.steps)},
        "decoder": splits.BYTES | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split.ignore_merges,
            "merges": [_pair(merge, where) for merge in _list(metadata, "merges", str, where)],
        },
    }


def _pair(merge: str, where: str) -> list[str]:
    pair = merge.split(" ", 1)
    if len(pair) != 2:
        raise ConversionError(f"{where}: tokenizer.ggml.merges has {merge!r}, which is no pair")
    return pair


def _sentencepiece(metadata: dict[str, Any], where: str) -> dict[str, Any]:
    """Merges in the order of the scores of what they make; other characters become bytes."""
    prefix = _value(metadata, "tokenizer.ggml.add_space_prefix", bool, True, where)
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}] * prefix + [space],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}] + [strip] * prefix,
        },
        "model": {
            "unk_token": _special(metadata, "unknown", where),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "merges": _merges(metadata, where),
        },
    }


def _merges(metadata: dict[str, Any], where: str) -> list[list[str]]:
    """Every pair of pieces that makes a piece, the piece with the highest score first."""
    tokens, types = _list(metadata, "tokens", str, where), _list(metadata, "token_type", int, where)
    scores = _list(metadata, "scores", float, where)
    if len(scores) != len(tokens):
        raise ConversionError(f"{where}: {len(tokens)} tokens but {len(scores)} scores")
    ids = {token: i for i, token in enumerate(tokens) if types[i] == _NORMAL}
    found = [
        (-scores[i], ids[token[:cut]], ids[token[cut:]])
        for token, i in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    return [[tokens[left], tokens[right]] for _, left, right in sorted(found)]


def tokenizer_config(metadata: dict[str, Any], where: str) -> dict[str, Any]:
    """The tokenizer_config.json: special tokens by name, and the longest input."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for ours, theirs in _SPECIAL.items():
        token = _special(metadata, theirs, where)
        config |= {} if token is None else {f"{ours}_token": token}
    key = f"{metadata.get('general.architecture')}.context_length"
    longest = _value(metadata, key, int, None, where)
    config |= {} if longest is None else {"model_max_length": longest}
    return config | {"clean_up_tokenization_spaces": False}


def _list(metadata: dict[str, Any], key: str, kind: type, where: str) -> list[Any]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list) or not all(type(one) is kind for one in value):
        said = reprlib.repr(value)
        raise ConversionError(
            f"{where}: tokenizer.ggml.{key}={said}, expected an array of {kind.__name__}"
        )
    return value


def _value(metadata: dict[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    value = metadata.get(key, default)
    if value is not default and type(value) is not kind:
        said = reprlib.repr(value)
        raise ConversionError(f"{where}: {key}={said}, expected {kind.__name__}")
    return value


def _special(metadata: dict[str, Any], name: str, where: str) -> str | None:
    index = _value(metadata, f"tokenizer.ggml.{name}_token_id", int, None, where)
    tokens = metadata["tokenizer.ggml.tokens"]
    if index is not None and not 0 <= index < len(tokens):
        raise ConversionError(
            f"{where}: tokenizer.ggml.{name}_token_id={index}, there are {len(tokens)} tokens"
        )
    return None if index is None else tokens[index]


def _added(index: int, token: str, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": token, **flags, "special": special}


def _post_processor(
    metadata: dict[str, Any], always_bos: bool, where: str
) -> dict[str, Any] | None:
    """What adds bos and eos around a text, as llama.cpp does.

    Args:
        always_bos: llama.cpp adds bos unless the file says otherwise.
    """
    begin = _special(metadata, "bos", where)
    end = _special(metadata, "eos", where)
    if not _value(metadata, "tokenizer.ggml.add_bos_token", bool, always_bos, where):
        begin = None
    if not _value(metadata, "tokenizer.ggml.add_eos_token", bool, False, where):
        end = None
    if begin is None and end is None:
        return None

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": type_id}}]
        if begin is not None:
            parts.insert(0, {"SpecialToken": {"id": begin, "type_id": type_id}})
        if end is not None:
            parts.append({"SpecialToken": {"id": end, "type_id": type_id}})
        return parts

    ids = {"bos": begin, "eos": end}
    special = {
        token: {
            "id": token,
            "ids": [metadata[f"tokenizer.ggml.{name}_token_id"]],
            "tokens": [token],
        }
        for name, token in ids.items()
        if token is not None
    }
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": special,
    }
