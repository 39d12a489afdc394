"""How the byte-level tokenizers that llama.cpp knows cut a text, by tokenizer.ggml.pre.

One table for both directions: a tokenizer.json is rebuilt from a name, a name found for one.
Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

import dataclasses
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _CONTRACTIONS + r"\p{N}{1,3}" + _REST
QWEN2 = _CONTRACTIONS + r"\p{N}" + _REST
BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_GPT2 = BYTES | {"use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> list[dict[str, Any]]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [cut, BYTES | {"use_regex": False}]


@dataclasses.dataclass(frozen=True)
class Split:
    """The parts of a tokenizer.json that are not its vocabulary."""

    steps: tuple[dict[str, Any], ...]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False  # a word that is a token is not cut


SPLITS = {
    "gpt-2": Split((_GPT2,)),
    "smollm": Split((_DIGITS, _GPT2)),
    "llama-bpe": Split(tuple(_split(LLAMA3)), ignore_merges=True),
    "qwen2": Split(tuple(_split(QWEN2)), normalizer={"type": "NFC"}),
}
# llama.cpp normalises nothing: for texts that are not NFC its ids differ from the tokenizer's.


def name_of(tokenizer: dict[str, Any]) -> str | None:
    """tokenizer.ggml.pre for a tokenizer.json; None when no name means the same cuts."""
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    ignore_merges = bool(tokenizer["model"].get("ignore_merges"))
    for name, split in SPLITS.items():
        same = [_essence(step) for step in split.steps] == [_essence(step) for step in steps]
        if same and split.ignore_merges == ignore_merges:
            if (tokenizer.get("normalizer") or None) == split.normalizer:
                return name
    return None


def _essence(step: dict[str, Any]) -> dict[str, Any]:
    """The step without what changes offsets only, and with what is left out filled in."""
    if step.get("type") == "ByteLevel":
        step = {"use_regex": True} | step
    return {key: value for key, value in step.items() if key != "trim_offsets"}
