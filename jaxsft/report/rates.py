"""How sure a share of few answers is, and whether two shares of the same prompts differ."""

import math

_Z = 1.959964  # of the normal distribution: 95 % lie within


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval, 95 %, of a share of `count` answers. Source: Wilson 1927."""
    if not count:
        return 0.0, 1.0
    spread = _Z * math.sqrt(share * (1 - share) / count + _Z * _Z / (4 * count * count))
    middle, scale = share + _Z * _Z / (2 * count), 1 + _Z * _Z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def paired_p(won: int, lost: int) -> float:
    """How likely so uneven a change of answers would be by chance (McNemar's exact test).

    Args:
        won: prompts answered wrongly before and rightly after.
        lost: the other way.
    """
    changed = won + lost
    tail = sum(math.comb(changed, k) for k in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)
