"""The two sides of a parameter that is a matrix, by the letters that its name ends in.

    q_DNH     of 8 layers  [8, 32, 4, 16]   D to N x H: 8 matrices of 32 x 64
    o_NHD                  [8, 4, 16, 32]   N x H to D: 8 matrices of 64 x 32
    down_EFD               [8, 6, 24, 32]   F to D: 48 matrices of 24 x 32
    scale_D                [8, 32]          no matrix

An optimizer that looks at whole matrices must see those that a layer multiplies with: not the
heads apart, nor the layers of a stack or the experts together.
"""

from typing import NamedTuple

_SIDES = {
    **{"DNH": ("D", "NH"), "DKH": ("D", "KH"), "NHD": ("NH", "D")},
    **{"DF": ("D", "F"), "FD": ("F", "D"), "EDF": ("D", "F"), "EFD": ("F", "D")},
    **{"DE": ("D", "E"), "VD": ("V", "D"), "DV": ("D", "V")},
    "D1": None,  # the shared expert's share: a vector
}


class Sides(NamedTuple):
    """Dimensions of a parameter; those in neither count its matrices."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]


def sides(name: str, ndim: int) -> Sides | None:
    """None: the parameter is a vector, or one for each layer, head or expert.

    Args:
        name: dotted path.
    """
    leaf = name.rpartition(".")[2]
    if "scale" in leaf or "bias" in leaf:
        return None
    letters = leaf.rpartition("_")[2]
    if not letters.isupper():  # an adapter's factor: small, and of no layer by itself
        return None
    assert letters in _SIDES, f"{name}: no sides are known of it"
    pair = _SIDES[letters]
    if pair is None:
        return None
    first = ndim - len(letters)  # behind the dimension of layers
    ins, outs = (tuple(first + letters.index(letter) for letter in side) for side in pair)
    return Sides(ins, outs)


def is_table(name: str) -> bool:
    """Whether the parameter has a row for each token: an embedding or a head."""
    return "V" in name.rpartition("_")[2]
