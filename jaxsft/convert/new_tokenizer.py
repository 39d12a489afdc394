"""A tokenizer directory with new control tokens added, kept in a cache. No jax here."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsft.convert import source
from jaxsft.errors import ConversionError, is_of_library
from jaxsft.files import made_once, untrusted

RECIPE = 1  # counts changes of this file that change its output: part of the cache key
_FLAGS = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}


def cached(tokenizer: Path, tokens: Sequence[str], parent: Path) -> Path:
    """The directory in `parent` with this tokenizer and the new tokens; written on first use.

    Its name follows from the bytes of the tokenizer and the tokens, so that any process finds it.

    Raises:
        ConversionError: a token that is there already, or a tokenizer without tokenizer.json.
    """
    ids = new_ids(tokenizer, tokens)
    digest = hashlib.sha256(f"{RECIPE} {json.dumps(ids)}".encode())
    for path in _files(tokenizer):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"\n{path.name} {content}".encode())
    return made_once.directory(
        parent, digest.hexdigest()[:32], lambda directory: _write(tokenizer, ids, directory)
    )


def new_ids(tokenizer: Path, tokens: Sequence[str]) -> dict[str, int]:
    """The ids after the last one of the tokenizer, in the order of the tokens."""
    path = tokenizer / "tokenizer.json"
    if not path.is_file():
        raise ConversionError(
            f"{tokenizer}: has no tokenizer.json to add {list(tokens)} to; write one"
            f" (transformers: AutoTokenizer.from_pretrained({str(tokenizer)!r})"
            ".save_pretrained(NEW)) and name NEW in config.data.tokenizer"
        )
    data = untrusted.read_json(path)
    vocab = data["model"]["vocab"]
    if isinstance(vocab, list):  # a Unigram model: [piece, score] in the order of the ids
        vocab = {piece: index for index, (piece, _) in enumerate(vocab)}
    there = vocab | {entry["content"]: entry["id"] for entry in data["added_tokens"]}
    for token in tokens:
        if token in there:
            raise ConversionError(
                f"{tokenizer}: {token!r} is a token already, id {there[token]}; leave it out of"
                " config.model.new_tokens"
            )
    first = max(there.values()) + 1
    return {token: first + n for n, token in enumerate(tokens)}


def _files(tokenizer: Path) -> list[Path]:
    """What transformers reads to make a tokenizer: config.json names the model's type."""
    found = source.tokenizer_files(tokenizer)
    return sorted([*found, *(p for p in [tokenizer / "config.json"] if p.is_file())])


def _write(tokenizer: Path, ids: dict[str, int], directory: Path) -> None:
    """Copies the tokenizer and gives the new tokens their ids in it.

    Only tokenizer.json changes, and tokenizer_config.json where that lists the added tokens.
    """
    for path in _files(tokenizer):
        shutil.copyfile(path, directory / path.name)
    file = directory / "tokenizer.json"
    data = untrusted.read_json(file)
    data["added_tokens"] += [
        {"id": index, "content": token, **_FLAGS} for token, index in ids.items()
    ]
    _write_json(file, data)
    _check(file, ids)
    config_path = directory / "tokenizer_config.json"
    config = untrusted.read_json(config_path) if config_path.is_file() else {}
    if "added_tokens_decoder" in config:
        for token, index in ids.items():
            config["added_tokens_decoder"][str(index)] = {"content": token, **_FLAGS}
        _write_json(config_path, config)


def _check(file: Path, ids: dict[str, int]) -> None:
    """The tokenizers library counts up from the number of tokens, whatever ids the file has."""
    from tokenizers import Tokenizer

    try:
        written = Tokenizer.from_file(str(file))
    except BaseException as error:  # tokenizers has none of its own
        if not is_of_library(error):
            raise
        raise ConversionError(
            f"{list(ids)} can't be added: the tokenizer is broken: {error}"
        ) from None
    for token, index in ids.items():
        if written.token_to_id(token) != index:
            raise ConversionError(
                f"{token!r} can't have id {index}: the tokenizers library gives it"
                f" {written.token_to_id(token)}, as the ids of this tokenizer have holes"
            )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="")
