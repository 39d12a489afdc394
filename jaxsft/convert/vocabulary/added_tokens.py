"""The tokens that a tokenizer has beside those of its model, and which of all are special."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsft.convert.vocabulary import check_tokenizer
from jaxsft.errors import ConversionError
from jaxsft.files import untrusted

_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_LISTED = ("additional_special_tokens", "extra_special_tokens")
CONFIG, TOKENS, NAMES = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"


@dataclasses.dataclass(frozen=True)
class Added:
    texts: Mapping[int, str]
    special: frozenset[str]  # also of tokens that the model has


def read(directory: Path) -> Added:
    """What the files beside tokenizer.json and tokenizer.model say.

    Raises:
        ConversionError: an id that is none, a token without text.
    """
    config, names = (optional_json(directory / name) for name in (CONFIG, NAMES))
    texts, special = {}, _special(config) | _special(names)
    for text, index in optional_json(directory / TOKENS).items():
        texts[_id(index, directory / TOKENS)] = text
    listed = config.get("added_tokens_decoder") or {}
    if not isinstance(listed, dict):
        raise ConversionError(f"{directory / CONFIG}: added_tokens_decoder={listed!r} is no object")
    for key, value in listed.items():
        index, text = _id(key, directory / CONFIG), text_of(value)
        if text is None:
            raise ConversionError(f"{directory / CONFIG}: token {index} is {value!r}, not a text")
        texts[index] = text
        special |= {text} if isinstance(value, dict) and value.get("special") else set()
    return Added(texts, frozenset(special))


def check(directory: Path, tokens: list[str | None]) -> None:
    """Compares the ids of added tokens with those that transformers makes, which were trained.

    Args:
        tokens: by id; None where the files name none.

    Raises:
        ConversionError: another token at one of them.
    """
    theirs = check_tokenizer.open_with_transformers(directory)
    for index, token in theirs.added_tokens_decoder.items():
        ours = tokens[index] if index < len(tokens) else None
        if ours != token.content:
            raise ConversionError(
                f"{directory}: transformers gives token {index} to {token.content!r}, the files"
                f" {ours!r}; correct {CONFIG} or {TOKENS}"
            )


def text_of(token: Any) -> str | None:
    """The text of a token: itself, or in an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def optional_json(path: Path) -> dict[str, Any]:
    return untrusted.read_json(path) if path.is_file() else {}


def _special(config: Mapping[str, Any]) -> set[str]:
    found = [config.get(f"{name}_token") for name in _NAMED]
    for field in _LISTED:
        listed = config.get(field) or ()
        found += listed.values() if isinstance(listed, dict) else listed
    return {text for text in map(text_of, found) if text is not None}


def _id(value: Any, where: Path) -> int:
    """JSON has ids as numbers, or as the names of an object."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConversionError(f"{where}: {value!r} is no token id; expected 0 or more")
    return value
