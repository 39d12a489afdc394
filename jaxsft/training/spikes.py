"""Whether a step's loss leaps above the losses of the steps before it."""

import collections
import math
import statistics

_NEAR = 8  # steps whose median is the usual loss: few, for losses fall
_FAR = 32  # steps by whose distance from what was usual then a leap is measured
_FEWEST = 8  # of them, before which nothing is called unusual
# The deviation of a normal distribution over its median absolute deviation.
_NORMAL = 1.4826
# Of the usual loss: the least deviation that counts, or a run whose loss barely varies would find a
# leap in a rounding.
_LEAST_SHARE = 0.01


class Spikes:
    """Follows the losses of a run.

    Args:
        deviations: above the usual loss from which on a loss is a spike; None: none is.
    """

    def __init__(self, deviations: float | None):
        self._deviations = deviations
        self._losses: collections.deque[float] = collections.deque(maxlen=_NEAR)
        self._distances: collections.deque[float] = collections.deque(maxlen=_FAR)

    @property
    def usual(self) -> float | None:
        """The loss that would surprise nobody; None: too few were seen."""
        if len(self._distances) < _FEWEST:
            return None
        return statistics.median(self._losses) + statistics.median(self._distances)

    def add(self, loss: float) -> float | None:
        """How many deviations this loss lies above the usual one where that makes it a spike.

        A loss that stays high is the usual one soon: a spike counts as one of the losses.
        """
        if not math.isfinite(loss):
            return None
        usual, found = self.usual, None
        if usual is not None and self._deviations is not None:
            middle = statistics.median(self._distances)
            deviation = _NORMAL * statistics.median(abs(one - middle) for one in self._distances)
            above = (loss - usual) / max(deviation, _LEAST_SHARE * abs(usual), 1e-6)
            found = above if above >= self._deviations else None
        if len(self._losses) == _NEAR:
            self._distances.append(loss - statistics.median(self._losses))
        self._losses.append(loss)
        return found
