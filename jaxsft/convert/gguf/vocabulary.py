"""The tokenizer of a Hugging Face directory as the metadata of a .gguf file. No jax here."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsft.convert.gguf import splits
from jaxsft.convert.vocabulary import added_tokens, chat_template
from jaxsft.errors import ConversionError
from jaxsft.files import sentencepiece_types, untrusted

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_PREFIX = "tokenizer.ggml.add_space_prefix"
_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_BEFORE = {"type": "Prepend", "prepend": "▁"}
_NEVER_MADE = -1e9  # the score of a piece that no merge makes


def metadata(
    directory: Path, vocab_size: int, end_ids: Sequence[int], template: str | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The tokenizer.* keys, and a line for each thing that they can't hold.

    Args:
        vocab_size: rows of the embedding; ids without a token are filled up.
        end_ids: where generation stops, from generation_config.json.
        template: the chat template; None: the directory's own.

    Raises:
        ConversionError: a tokenizer whose ids llama.cpp would not reproduce.
    """
    config = added_tokens.optional_json(directory / "tokenizer_config.json")
    tokenizer = added_tokens.optional_json(directory / "tokenizer.json")
    if tokenizer:
        found = _of_tokenizer_json(tokenizer, str(directory / "tokenizer.json"))
    else:
        found = _of_sentencepiece(directory, config)
    _add(found, directory)
    _fill(found, vocab_size, str(directory))
    ends, notes = _ends(end_ids, found, config, str(directory))
    found |= ends
    if found.get(_PREFIX) and _only_at_the_start(tokenizer, config):
        notes += (
            f"{directory}: puts a space before a text, llama.cpp after each control token too:"
            " its ids of prompts differ there",
        )
    for name, key in (("bos", "bos"), ("unk", "unknown"), ("pad", "padding")):
        index = _id_of(config.get(f"{name}_token"), found)
        found |= {} if index is None else {f"tokenizer.ggml.{key}_token_id": index}
    if template is None:
        template = chat_template.used(directory, config)
    found |= {} if template is None else {"tokenizer.chat_template": template}
    return found, notes


def _of_tokenizer_json(tokenizer: dict[str, Any], where: str) -> dict[str, Any]:
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise ConversionError(f"{where}: model.type={model.get('type')!r} can't be written as GGUF")
    by_id = {index: token for token, index in model["vocab"].items()}
    added = {entry["id"]: entry for entry in tokenizer.get("added_tokens", ())}
    by_id |= {index: entry["content"] for index, entry in added.items()}
    tokens = [by_id.get(index) for index in range(max(by_id) + 1)]
    types = [_kind(token, added.get(i), model) for i, token in enumerate(tokens)]
    found: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    begins, ends = _around(tokenizer.get("post_processor") or {})
    found |= {"tokenizer.ggml.add_bos_token": begins, "tokenizer.ggml.add_eos_token": ends}
    merges = [m if isinstance(m, list) else m.split(" ", 1) for m in model["merges"]]
    if model.get("byte_fallback"):
        return found | _sentencepiece_of_bpe(tokenizer, tokens, merges, where)
    pre = splits.name_of(tokenizer)
    if pre is None:
        raise ConversionError(
            f"{where}: its normalizer and pre_tokenizer are none of those written here"
            f" ({', '.join(splits.SPLITS)}): {tokenizer.get('pre_tokenizer')}"
        )
    found |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre}
    return found | {"tokenizer.ggml.merges": [" ".join(pair) for pair in merges]}


def _sentencepiece_of_bpe(
    tokenizer: dict[str, Any], tokens: list[str | None], merges: list[list[str]], where: str
) -> dict[str, Any]:
    """Scores in the order of the merges: the first merge has the highest one."""
    prefix = _adds_space(tokenizer, where)
    first: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        first.setdefault(left + right, rank)
    scores = [-float(first[t]) if t in first else _NEVER_MADE for t in tokens]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        _PREFIX: prefix,
        "tokenizer.ggml.scores": scores,
    }


def _adds_space(tokenizer: dict[str, Any], where: str) -> bool:
    """Whether a space is put before a text; an error for what isn't sentencepiece's way."""
    normalizer, pre = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer") or {}
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    idle = not pre or (pre.get("type"), pre.get("pattern")) == ("Split", {"String": " "})
    if idle and steps in ([_BEFORE, _SPACE], [_SPACE]):  # no space is left to be split at
        return steps[0] == _BEFORE
    if not steps and (pre.get("type"), pre.get("replacement")) == ("Metaspace", "▁"):
        if pre.get("split") is False and "prepend_scheme" in pre:
            return pre["prepend_scheme"] != "never"
    raise ConversionError(
        f"{where}: normalizer={normalizer} with pre_tokenizer={pre} can't be written as GGUF"
    )


def _of_sentencepiece(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    import sentencepiece

    path = directory / "tokenizer.model"
    untrusted.refuse_impostor(path)
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ConversionError(f"{path}: is no sentencepiece model: {error}") from None
    types = sentencepiece_types.read(path.read_bytes())
    ids = range(model.get_piece_size())
    assert len(types) == len(ids), path
    scores = [float(model.get_score(i)) for i in ids]
    prefix = config.get("add_prefix_space")
    if any(score != int(score) for score in scores):
        raise ConversionError(f"{path}: is a Unigram model (scores like {min(scores)}), not BPE")
    normal = model.normalize("a  \ufb01 ")
    if normal.removeprefix("▁") != "a▁▁\ufb01▁":
        raise ConversionError(
            f"{path}: makes {normal!r} of 'a  \ufb01 '; llama.cpp normalises nothing"
        )
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,  # the numbers are sentencepiece's
        "tokenizer.ggml.add_bos_token": config.get("add_bos_token", True),
        "tokenizer.ggml.add_eos_token": config.get("add_eos_token", False),
        _PREFIX: normal.startswith("▁") if prefix is None else prefix,
    }


def _add(found: dict[str, Any], directory: Path) -> None:
    """Puts in the tokens that other files add, and marks the special ones as such.

    Raises:
        ConversionError: transformers gives other ids to them.
    """
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    scores = found.get("tokenizer.ggml.scores", [])
    added = added_tokens.read(directory)
    missing = max(added.texts, default=-1) + 1 - len(tokens)
    tokens += [None] * missing
    types += [UNUSED] * missing
    scores += [_NEVER_MADE] * (missing if scores else 0)
    for index, text in added.texts.items():
        if tokens[index] in (None, text):  # else the tokenizer's own, as transformers has it
            tokens[index] = text
            types[index] = USER_DEFINED if types[index] in (NORMAL, UNUSED) else types[index]
    for index, text in enumerate(tokens):
        if text in added.special and types[index] in (NORMAL, USER_DEFINED):
            types[index] = CONTROL
    if missing > 0 or any(tokens[index] != text for index, text in added.texts.items()):
        added_tokens.check(directory, tokens)


def _only_at_the_start(tokenizer: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether transformers puts the space before the whole text only."""
    if tokenizer:
        return (tokenizer.get("pre_tokenizer") or {}).get("prepend_scheme") == "first"
    return config.get("legacy") is False


def _kind(token: str | None, added: dict[str, Any] | None, model: dict[str, Any]) -> int:
    if token is None:
        return UNUSED
    if token == model.get("unk_token"):
        return UNKNOWN
    if added is not None:
        return CONTROL if added["special"] else USER_DEFINED
    is_byte = model.get("byte_fallback") and re.fullmatch(r"<0x[0-9A-F]{2}>", token)
    return BYTE if is_byte else NORMAL


def _around(post_processor: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a token is put before, and one after, a text."""
    steps = post_processor.get("processors", [post_processor])
    single = next((s["single"] for s in steps if s.get("type") == "TemplateProcessing"), [])
    places = ["Sequence" in part for part in single]
    if True not in places:
        return False, False
    return not places[0], not places[-1]


def _fill(found: dict[str, Any], vocab_size: int, where: str) -> None:
    """Gives every row of the embedding a token."""
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    if len(tokens) > vocab_size:
        raise ConversionError(
            f"{where}: has {len(tokens)} tokens, the model vocab_size={vocab_size} rows"
        )
    tokens += [None] * (vocab_size - len(tokens))
    types += [UNUSED] * (vocab_size - len(types))
    found["tokenizer.ggml.tokens"] = [
        f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)
    ]
    if "tokenizer.ggml.scores" in found:
        scores = found["tokenizer.ggml.scores"]
        scores += [_NEVER_MADE] * (vocab_size - len(scores))


def _ends(
    end_ids: Sequence[int], found: dict[str, Any], config: dict[str, Any], where: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The tokens that stop llama.cpp: the tokenizer's eos, then the others in their order."""
    eos = _id_of(config.get("eos_token"), found)
    ids: list[int] = list(dict.fromkeys([*([] if eos is None else [eos]), *end_ids]))
    keys = [f"tokenizer.ggml.{key}" for key in _EOS_KEYS]
    left = ids[len(keys) :]
    note = f"{where}: llama.cpp is told of {len(keys)} end tokens only; {left} are left out"
    return dict(zip(keys, ids, strict=False)), (note,) if left else ()


def _id_of(token: Any, found: dict[str, Any]) -> int | None:
    """The id of a token as tokenizer_config.json names it: its text, or an object with it."""
    text, tokens = added_tokens.text_of(token), found["tokenizer.ggml.tokens"]
    return tokens.index(text) if text in tokens else None
