"""Constants that old checkpoints keep beside their weights: compared with what they follow from.

Modules of transformers saved them once; they are derived here, so they are told and not exported.
P: position.
"""

import dataclasses
import re

import numpy as np

from jaxsft.convert.huggingface import Tensors
from jaxsft.errors import ConversionError
from jaxsft.model import rope, settings

_LAYER = r"\w+\.layers\.\d+\.(?:self_attn|attention)\."
_FREQUENCIES, _MASK, _MASKED = "rotary_emb.inv_freq", "bias", "masked_bias"
_NAME = re.compile(rf"{_LAYER}({_FREQUENCIES}|{_MASK}|{_MASKED})")
# Frequencies may have been float16 or bfloat16: 8 bits of mantissa.
_TOLERANCE = 1e-2
# What scores that the mask hides were set to: -1e9, which float16 holds as minus infinity.
_HIDDEN = -1e4


def check(tensors: Tensors, decoder: settings.Decoder, where: str) -> tuple[set[str], list[str]]:
    """The names of such constants, and a line for each kind of them.

    Raises:
        ConversionError: one that has other values than the model computes with.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(tensors.names()):
        if match := _NAME.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    notes = []
    for kind, members in found.items():
        origin = _origin(kind, decoder)
        for name in members:
            if not _follows(kind, tensors.read(name), decoder):
                raise ConversionError(f"{where}: {name} differs from {origin}")
        notes.append(f"{where}: {len(members)} {kind} follow from {origin}; not exported")
    return {name for members in found.values() for name in members}, notes


def _origin(kind: str, decoder: settings.Decoder) -> str:
    if kind == _FREQUENCIES:
        return f"rope_theta={decoder.rope.theta:g} of config.json"
    return f"the causal mask of {decoder.max_positions} positions"


def _follows(kind: str, stored: np.ndarray, decoder: settings.Decoder) -> bool:
    if kind == _MASKED:
        return stored.size == 1 and bool(stored.reshape(()) <= _HIDDEN)
    if kind == _MASK:
        P = decoder.max_positions
        mask_PP = np.tri(P, dtype=stored.dtype)
        return stored.shape == (1, 1, P, P) and np.array_equal(stored[0, 0], mask_PP)
    unscaled = dataclasses.replace(decoder.rope, scaling=None)
    derived = rope.inverse_frequencies(unscaled, decoder.head_dim)
    wide = stored.astype(np.float32)
    return wide.shape == derived.shape and np.allclose(wide, derived, _TOLERANCE, 0)
