"""Whether a written tokenizer makes the token ids of the one that it stands for."""

from pathlib import Path
from typing import Any

from jaxsft.errors import ConversionError, is_of_library

PROBES = (
    "What is 2+2? It's 4, isn't it?",
    " two  spaces\n\n\tand a tab; 1234567 10.5%",
    "naïve café, 你好, Привет, emoji 🙂",
    "def f(x):\n    return {'a': [x ** 2]}",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_token_ids(expected: Path, exported: Path) -> None:
    """Compares two tokenizers as transformers opens them, its choice of a class included.

    Raises:
        ConversionError: one can't be opened, or they differ on a probe.
    """
    if not any((expected / name).is_file() for name in _VOCABULARIES):
        return  # a model without a tokenizer is exported without one
    theirs_from, ours_from = open_with_transformers(expected), open_with_transformers(exported)
    for text in PROBES:
        theirs, ours = theirs_from(text).input_ids, ours_from(text).input_ids
        if theirs != ours:
            raise ConversionError(
                f"{exported}: its tokenizer makes {ours} of {text!r}, that of {expected} {theirs}"
            )


def open_with_transformers(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except BaseException as error:  # the tokenizers library raises no narrower one
        if not is_of_library(error):
            raise
        raise ConversionError(f"{directory}: transformers can't open its tokenizer: {error}") from (
            None
        )
