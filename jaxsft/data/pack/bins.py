"""Bin packing of many items with few different sizes: which items share a bin.

Both ways go by sizes, not by items, so that a million items take a moment. Items come in falling
order of size, and `bins[i]` is the bin of item i.
"""

from collections import Counter

import numpy as np

_SEARCHED = 6  # items of a bin, about, that are searched for; the others are the largest that fit
_DEPTH = 12  # at most
_NODES = 3000  # of the search for one bin
_ALL_NODES = 1_500_000  # of all searches together: about a second
_FEW_NODES = 30  # of the search for one bin, when those are spent


def pack(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """The bins of minimum_slack or of best_fit_decreasing, whichever needs fewer."""
    ways = [way(sizes, capacity) for way in (minimum_slack, best_fit_decreasing)]
    return min(ways, key=lambda way: way[1])


def of_at_most(most: int, bins: np.ndarray, num_bins: int) -> tuple[np.ndarray, int]:
    """The same bins, of which each holds its first `most` items and new ones hold the others.

    most 2, bins 0 1 0 0 1 0:   0 1 0 2 1 2
    """
    counts = np.bincount(bins, minlength=num_bins)
    if counts.max(initial=0) <= most:
        return bins, num_bins
    by_bin = np.argsort(bins, kind="stable")
    rank = np.empty_like(bins)
    rank[by_bin] = np.arange(len(bins)) - np.repeat(np.cumsum(counts) - counts, counts)
    part = rank // most  # 0: stays where it is
    moved = part > 0
    _, new = np.unique(np.stack([bins[moved], part[moved]]), axis=1, return_inverse=True)
    bins = bins.copy()
    bins[moved] = num_bins + new
    return bins, int(bins.max()) + 1


def minimum_slack(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Fills one bin after another as full as a short search finds, the largest item first.

    What was found for one bin is used as often as there are items for it.

    Source: the MBS heuristic of Gupta and Ho, "A new heuristic algorithm for the one-dimensional
    bin-packing problem", 1999, with the largest item in each bin as in its variant MBS'.
    """
    bins = np.empty(len(sizes), np.int64)
    left = np.bincount(sizes, minlength=capacity + 1).tolist()  # items of each size
    # Where the next item of a size stands: falling order, so behind all larger ones.
    place = (len(sizes) - np.cumsum(left)).tolist()
    present = sum(1 << size for size, items in enumerate(left) if items)
    num_bins, nodes = 0, _ALL_NODES
    while present:
        search = _Search(left, present, min(_NODES, nodes) if nodes > _FEW_NODES else _FEW_NODES)
        content = search.fill(capacity)
        nodes -= search.visited
        times = min(left[size] // items for size, items in content.items())
        numbers = np.arange(num_bins, num_bins + times)
        for size, items in content.items():
            bins[place[size] : place[size] + items * times] = np.tile(numbers, items)
            place[size] += items * times
            left[size] -= items * times
            if not left[size]:
                present &= ~(1 << size)
        num_bins += times
    return bins, num_bins


class _Search:
    """Depth first, larger sizes first, for the sizes that fill one bin.

    Args:
        left: items of each size.
        present: bit s is set when there are items of size s.
        nodes: tries before the best found so far is taken.
    """

    def __init__(self, left: list[int], present: int, nodes: int):
        self._left = left
        self._present = present
        self._nodes = nodes
        self._used: dict[int, int] = {}
        self._best: dict[int, int] = {}
        self._slack: int | None = None
        self.visited = 0

    def fill(self, capacity: int) -> dict[int, int]:
        """How many items of which sizes; the largest there is among them."""
        size = self._present.bit_length() - 1
        self._used[size] = 1
        room = capacity - size
        while (size := self._next(min(room, size))) and room > _SEARCHED * size:
            # Far from full: there is nothing to search for yet.
            items = min(room // size - _SEARCHED + 1, self._left[size] - self._used.get(size, 0))
            self._used[size] = self._used.get(size, 0) + items
            room -= items * size
        self._descend(room, room, 0)
        return self._best

    def _descend(self, room: int, limit: int, depth: int) -> bool:
        """Whether the search is over, with items of at most `limit` for the room."""
        self.visited += 1
        if not room or (room <= limit and self._is_left(room)):
            self._keep(0, {room: 1} if room else {})
            return True
        size = self._next(min(room, limit))
        if not size or depth == _DEPTH:
            self._fill_up(room, size)
            return self.visited >= self._nodes
        while size:
            self._used[size] = self._used.get(size, 0) + 1
            over = self._descend(room - size, size, depth + 1)
            self._used[size] -= 1
            if over or self.visited >= self._nodes:
                return True
            size = self._next(size - 1)
        return False

    def _fill_up(self, room: int, size: int) -> None:
        """Takes what fits, larger first, without a search."""
        taken: dict[int, int] = {}
        while size:
            items = min(room // size, self._left[size] - self._used.get(size, 0))
            taken[size] = items
            room -= items * size
            size = self._next(min(room, size - 1))
        self._keep(room, taken)

    def _keep(self, slack: int, more: dict[int, int]) -> None:
        """Takes note of what is used and `more`, if no bin found so far is as full."""
        if self._slack is None or slack < self._slack:
            self._slack = slack
            total = Counter(self._used) + Counter(more)  # leaves out what is 0
            self._best = dict(total)

    def _is_left(self, size: int) -> bool:
        return self._left[size] > self._used.get(size, 0)

    def _next(self, limit: int) -> int:
        """The largest size up to `limit` of which an item is left; 0 if there is none."""
        if limit <= 0:
            return 0
        below = self._present & ((1 << (limit + 1)) - 1)
        while below:
            size = below.bit_length() - 1
            if self._is_left(size):
                return size
            below &= ~(1 << size)
        return 0


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Each item goes to the fullest bin that has room for it.

    Items of one size go to the fullest bins that hold one, each filled as often as it fits:
    that is where best fit would put them one by one, since the bin just used is the fullest.
    So the work goes by groups of bins with equal room, not by items.
    """
    bins = np.empty(len(sizes), np.int64)
    groups: dict[int, list[np.ndarray]] = {}  # room -> bins, in chunks
    rooms = 0  # bit r is set when some bin has room r
    num_bins = 0
    distinct, starts = np.unique(-sizes, return_index=True)
    stops = np.append(starts, len(sizes))[1:].tolist()
    for size, at, stop in zip((-distinct).tolist(), starts.tolist(), stops, strict=True):
        while at < stop:
            fitting = rooms >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1
                available = groups[room].pop()
                if not groups[room]:
                    rooms &= ~(1 << room)
            else:
                room = capacity
                needed = -(-(stop - at) // (capacity // size))
                available = np.arange(num_bins, num_bins + needed)
                num_bins += needed
            each = room // size
            full, rest = divmod(min(stop - at, each * len(available)), each)
            taken = full * each
            bins[at : at + taken] = np.repeat(available[:full], each)
            bins[at + taken : at + taken + rest] = available[full : full + 1]
            at += taken + rest
            used = full + (rest > 0)
            left = (
                (room - each * size, available[:full]),
                (room - rest * size, available[full:used]),
                (room, available[used:]),
            )
            for new_room, chunk in left:
                if new_room and len(chunk):
                    groups.setdefault(new_room, []).append(chunk)
                    rooms |= 1 << new_room
    return bins, num_bins
