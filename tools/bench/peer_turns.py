"""Our steps and a peer's in turns, and the ratios of their rates."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from bench import measured_steps
from bench.measurement import PeerFigures, Ratios, Spread, StepMeasurement
from bench.ours import Ours, Step
from bench.peer import Peer, PeerStep
from jaxsft.config import Config
from jaxsft.devices import peak_memory


def measure(config: Config, ours: Ours, peer: Peer, warmup: int, rounds: int) -> StepMeasurement:
    """Takes turns step by step: what slows the machine down slows both.

    A round's ratio is our supervised tokens per second over the peer's. Where rows differ, so does
    what a step holds: there the ratio of the totals is the one to read.
    """
    ours.run(warmup)
    for _ in range(warmup):
        peer.step()
    mine: list[Step] = []
    theirs: list[PeerStep] = []
    for _ in range(rounds):
        mine += ours.run(1)
        answer = peer.step()
        if answer is None:
            break
        theirs.append(answer)
    mine = mine[: len(theirs)]
    memory = peer.stop()
    found = measured_steps.measurement(config, ours, mine)
    figures = PeerFigures(
        about=peer.about,
        step_seconds=Spread.of([one.seconds for one in theirs]),
        tokens_per_second=_rate(theirs, lambda one: one.tokens),
        supervised_tokens_per_second=_rate(theirs, lambda one: one.supervised_tokens),
        losses=[theirs[0].loss, theirs[-1].loss],
        host_peak_bytes=memory,
    )
    over = ratios(mine, theirs, _over(peak_memory.host_bytes(), memory))
    return dataclasses.replace(found, peer=figures, ratios=over)


def ratios(mine: Sequence[Step], theirs: Sequence[PeerStep], memory: float | None) -> Ratios:
    """Ours over theirs, in supervised tokens per second."""
    rounds = [
        (one.supervised_tokens / one.seconds) / (other.supervised_tokens / other.seconds)
        for one, other in zip(mine, theirs, strict=True)
    ]
    total = sum(one.supervised_tokens for one in mine) / sum(one.seconds for one in mine)
    spread = Spread.of(rounds)
    return Ratios(
        of_totals=total / _rate(theirs, lambda one: one.supervised_tokens),
        median_of_rounds=statistics.median(rounds),
        quartile_low=spread.quartile_low,
        quartile_high=spread.quartile_high,
        rounds=len(rounds),
        memory=memory,
    )


def _rate(steps: Sequence[PeerStep], what: Callable[[PeerStep], int]) -> float:
    return sum(map(what, steps)) / sum(one.seconds for one in steps)


def _over(ours: int | None, theirs: int | None) -> float | None:
    return ours / theirs if ours and theirs else None
