"""Which process is lost, and whether the run hangs: judged of what all processes say."""

import collections
from collections.abc import Mapping

from jaxsft.devices.heartbeats import Beat, who

# Beats may pause while C code holds Python up; not where a connection to some process broke, too.
BROKEN_SECONDS = 5.0
_MOST_LINES = 20


def lost(
    beats: Mapping[int, Beat], silences: Mapping[int, float], lost_seconds: float
) -> dict[int, str]:
    """What to say of the processes that have been silent too long, by their numbers."""
    broken = any(beat.broken for beat in beats.values())
    allowed = min(lost_seconds, BROKEN_SECONDS) if broken else lost_seconds
    return {
        number: lost_because(f"no sign of life for {silence:.0f} s", number, beats[number])
        for number, silence in silences.items()
        if silence > allowed
    }


def lost_because(why: str, number: int, beat: Beat) -> str:
    return f"{who(number, beat.host)} is lost: {why}; it was {beat.doing}"


def hang(beats: Mapping[int, Beat]) -> str | None:
    """What to say of processes none of which gets on; None: one does, or may still.

    A process that waits for another has no mark either: the one that is behind them all is named.
    """
    if not all(beat.count for beat in beats.values()):
        return None
    limit = max(beat.limit_seconds for beat in beats.values())
    still = min(beat.still_seconds for beat in beats.values())
    if still < limit:
        return None
    places = collections.Counter(beat.place for beat in beats.values())

    def behind(number: int) -> tuple[int, bool, int, float]:
        """Who waits for devices waits for others; and the many wait for the few."""
        one = beats[number]
        return one.step, one.waits, places[one.place], -one.still_seconds

    first, *others = sorted(beats, key=behind)
    lines = [
        f"{who(first, beats[first].host)} is stuck for {beats[first].still_seconds:.0f} s,"
        f" {beats[first].doing}; no process gets on (here, --hang_seconds allows {limit:.0f} s)"
    ]
    lines += [
        f"{who(number, beats[number].host)} waits for {beats[number].still_seconds:.0f} s,"
        f" {beats[number].doing}"
        for number in others[:_MOST_LINES]
    ]
    if len(others) > _MOST_LINES:
        lines.append(f"and {len(others) - _MOST_LINES} more")
    return "\n".join(lines)
