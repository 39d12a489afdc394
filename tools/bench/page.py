"""Saved measurements as the tables of docs/performance.md; the words around them stay."""

from collections.abc import Sequence

from bench.measurement import StartMeasurement, StepMeasurement
from jaxsft.errors import ConfigError

Measurement = StepMeasurement | StartMeasurement
BEGIN, END = "<!-- measured: made by tools/bench_page.py -->", "<!-- end of measured -->"


def updated(page: str, measured: Sequence[Measurement]) -> str:
    """The page with the tables of these measurements between its marks.

    Raises:
        ConfigError: a page without the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the page needs the lines {BEGIN!r} and {END!r}")
    return "\n\n".join([before + begin, *_sections(measured), end + after])


def _sections(measured: Sequence[Measurement]) -> list[str]:
    starts = [one for one in measured if isinstance(one, StartMeasurement)]
    steps = [one for one in measured if isinstance(one, StepMeasurement)]
    peers = [one for one in steps if one.peer is not None]
    alone = [one for one in steps if one.peer is None]
    parts = [
        _section("The step", _STEP, [_step_row(one) for one in alone], alone),
        _section("Against others", _PEER, [_peer_row(one) for one in peers], peers),
        _section("Start", _START, [_start_row(one) for one in starts], starts),
    ]
    return [part for part in parts if part]


_STEP = (
    *("what", "rows", "step (half within)", "tokens/s", "supervised/s"),
    *("MFU", "HFU", "memory", "loader", "compiled"),
)
_PEER = (
    *("what", "peer", "supervised/s, ours", "theirs", "ratio of totals", "of rounds"),
    "memory, ours and theirs",
)
_START = ("what", "cold", "warm", "of which the step", "memory")


def _section(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], made: Sequence[Measurement]
) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    machines = list(
        dict.fromkeys(_machine(one) for one in made if isinstance(one, StepMeasurement))
    )
    commands = "\n".join(one.command for one in made)
    return "\n\n".join([f"### {title}", table, *machines, f"```bash\n{commands}\n```"])


def _what(found: StepMeasurement) -> str:
    model = found.model
    return (
        f"{model.name}, {model.batch_size} x {model.sequence_length},"
        f" {model.dtype}, remat {model.remat}"
    )


def _step_row(found: StepMeasurement) -> list[str]:
    seconds, memory = found.step_seconds, found.memory
    return [
        _what(found),
        found.rows,
        f"{seconds.median:.3g} s ({seconds.quartile_low:.3g} to"
        f" {seconds.quartile_high:.3g}, {found.steps} steps)",
        f"{found.tokens_per_second:,.0f}",
        f"{found.supervised_tokens_per_second:,.0f}",
        _share(found.mfu),
        _share(found.hfu),
        _size(memory.peak_bytes()),
        f"{found.loader_share:.2%}",
        f"{found.compile_seconds:.1f} s",
    ]


def _peer_row(found: StepMeasurement) -> list[str]:
    peer, ratios = found.peer, found.ratios
    assert peer is not None and ratios is not None
    versions = " ".join(f"{name} {version}" for name, version in peer.about["versions"].items())
    return [
        f"{_what(found)}, {found.rows}",
        versions,
        f"{found.supervised_tokens_per_second:,.0f}",
        f"{peer.supervised_tokens_per_second:,.0f}",
        f"**{ratios.of_totals:.2f}**",
        f"{ratios.median_of_rounds:.2f} ({ratios.quartile_low:.2f} to"
        f" {ratios.quartile_high:.2f}, {ratios.rounds} rounds)",
        f"{_size(found.memory.host_peak_bytes)}, {_size(peer.host_peak_bytes)}",
    ]


def _start_row(found: StartMeasurement) -> list[str]:
    cold, warm = found.cold_start, found.warm_start
    return [
        found.model.name,
        f"{cold.seconds:.1f} s",
        f"{warm.seconds:.1f} s",
        f"{warm.step_seconds:.1f} s",
        _size(warm.peak_bytes),
    ]


def _machine(found: StepMeasurement) -> str:
    here = found.machine
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    return f"{here.devices} ({here.processor}, {here.cores} cores); {versions}."


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _size(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**30:.2f} GiB"
