"""Our steps and a peer's in turns, and the ratios of their rates."""

import statistics
from collections.abc import Sequence
from typing import Any

from bench import machine, result
from bench.ours import Ours, Step
from bench.peer import Peer
from jaxsft.config import Config


def measure(config: Config, ours: Ours, peer: Peer, warmup: int, rounds: int) -> dict[str, Any]:
    """Takes turns step by step: what slows the machine down slows both.

    A round's ratio is our supervised tokens per second over the peer's. Where rows differ, so does
    what a step holds: there the ratio of the totals is the one to read.
    """
    ours.run(warmup)
    for _ in range(warmup):
        peer.step()
    mine: list[Step] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(rounds):
        mine += ours.run(1)
        answer = peer.step()
        if answer is None:
            break
        theirs.append(answer)
    mine = mine[: len(theirs)]
    memory = peer.stop()["peak_memory_bytes"]
    return result.of_steps(config, ours, mine) | {
        "peer": {
            "about": peer.about,
            "step_seconds": result.spread([one["seconds"] for one in theirs]),
            "tokens_per_second": _rate(theirs, "tokens"),
            "supervised_tokens_per_second": _rate(theirs, "supervised_tokens"),
            "losses": [theirs[0]["loss"], theirs[-1]["loss"]],
            "host_peak_bytes": memory,
        },
        "ratios": ratios(mine, theirs) | {"memory": _over(machine.peak_host_bytes(), memory)},
    }


def ratios(mine: Sequence[Step], theirs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Ours over theirs, in supervised tokens per second."""
    rounds = [
        (one.supervised_tokens / one.seconds) / (other["supervised_tokens"] / other["seconds"])
        for one, other in zip(mine, theirs, strict=True)
    ]
    total = sum(one.supervised_tokens for one in mine) / sum(one.seconds for one in mine)
    spread = result.spread(rounds)
    return {
        "of_totals": total / _rate(theirs, "supervised_tokens"),
        "median_of_rounds": statistics.median(rounds),
        "quartile_low": spread["quartile_low"],
        "quartile_high": spread["quartile_high"],
        "rounds": len(rounds),
    }


def _rate(steps: Sequence[dict[str, Any]], what: str) -> float:
    return sum(one[what] for one in steps) / sum(one["seconds"] for one in steps)


def _over(ours: int | None, theirs: int | None) -> float | None:
    return ours / theirs if ours and theirs else None
