"""Constants that old checkpoints keep beside their weights: compared with what they follow from.

Modules of transformers saved them once; they are derived here, so they are told and not exported.
P: position.
"""

import dataclasses
import re

import numpy as np

from jaxsft.convert.tensors.huggingface import Tensors
from jaxsft.errors import ConversionError
from jaxsft.model import rope, settings

_LAYER = r"(?:\w+\.)+layers\.\d+\.(?:self_attn|attention)\."
_MASK, _MASKED = "bias", "masked_bias"
# The first Llamas have them in each layer, modules of transformers 5 once for all.
_ROTARY = r"(?:\w+\.)*rotary_emb(?:_local)?\.(\w+)"
_FREQUENCIES = ("inv_freq", "original_inv_freq")
_TABLES = {"cos_cached": np.cos, "sin_cached": np.sin}
_NAME = re.compile(rf"{_LAYER}({_MASK}|{_MASKED})|{_ROTARY}")
# Frequencies may have been float16 or bfloat16: 8 bits of mantissa.
_TOLERANCE = 1e-2
_FLOAT16_STEP = 2.0**-24  # between its smallest numbers: those of a large rope_theta lie among them
# Scores that the mask hides were set to -1e9, which float16 holds as minus infinity.
_HIDDEN = -1e4


def checked_constants(
    tensors: Tensors, decoder: settings.DecoderSettings, where: str
) -> tuple[set[str], list[str]]:
    """The names of such constants, and a line for each kind of them.

    Raises:
        ConversionError: one that has other values than the model computes with.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(tensors.names()):
        if match := _NAME.fullmatch(name):
            found.setdefault(match[1] or f"rotary_emb.{match[2]}", []).append(name)
    notes = []
    for kind, members in found.items():
        origin = _origin(kind, decoder)
        compared = [_follows(kind, tensors.read(name), decoder) for name in members]
        if False in compared:
            name = members[compared.index(False)]
            raise ConversionError(f"{where}: {name} differs from {origin}")
        unlike = " (not compared)" * (None in compared)
        notes.append(f"{where}: {len(members)} {kind} follow from {origin}{unlike}; not exported")
    return {name for members in found.values() for name in members}, notes


def _origin(kind: str, decoder: settings.DecoderSettings) -> str:
    if kind in (_MASK, _MASKED):
        return f"the causal mask of {decoder.max_positions} positions"
    return f"rope_theta={decoder.rope.theta:g} of config.json"


def _follows(kind: str, stored: np.ndarray, decoder: settings.DecoderSettings) -> bool | None:
    """Whether a buffer has the values that are derived here; None where these are not known."""
    if kind == _MASKED:
        return stored.size == 1 and bool(stored.reshape(()) <= _HIDDEN)
    if kind == _MASK:
        P = decoder.max_positions
        mask_PP = np.tri(P, dtype=stored.dtype)
        return stored.shape == (1, 1, P, P) and np.array_equal(stored[0, 0], mask_PP)
    what = kind.partition(".")[2]
    known = _known_frequencies(decoder)
    if what in _FREQUENCIES or any(what.endswith(f"_{name}") for name in _FREQUENCIES):
        wide = stored.astype(np.float32)
        absolute = _FLOAT16_STEP if stored.dtype == np.float16 else 0
        return any(_close(wide, derived, absolute) for derived in known)
    if what not in _TABLES or stored.ndim < 2 or stored.shape[-2] < 2:
        return None
    first = stored.reshape(-1, stored.shape[-1])[1].astype(np.float32)  # position 1
    return any(_close(first[: len(f)], _TABLES[what](f), _TOLERANCE) for f in known)


def _known_frequencies(decoder: settings.DecoderSettings) -> list[np.ndarray]:
    """The frequencies of each rope of the model, with and without its scaling."""
    ropes = {kind.rope for kind in decoder.kinds() if kind.rope is not None} | {decoder.rope}
    ropes |= {dataclasses.replace(one, scaling=None) for one in ropes}
    return [rope.inverse_frequencies(one, decoder.head_dim) for one in ropes]


def _close(stored: np.ndarray, derived: np.ndarray, absolute: float) -> bool:
    return stored.shape == derived.shape and np.allclose(stored, derived, _TOLERANCE, absolute)
