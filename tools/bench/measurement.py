"""What a measurement found, and its JSON: written by `text`, read by `read`, here alone."""

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsft.errors import ConfigError

_ONLY_WITH_A_PEER = ("peer", "ratios")


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of some values, and how far apart they are."""

    median: float
    quartile_low: float
    quartile_high: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(middle, low, high, min(values), max(values))


@dataclasses.dataclass(frozen=True)
class MeasuredModel:
    """What decides how much work a step is."""

    name: str
    parameters: int
    weights: str
    dtype: str
    parameter_dtype: str
    remat: str
    batch_size: int
    sequence_length: int
    microbatches: int
    mesh: dict[str, int]  # axes of more than one device


@dataclasses.dataclass(frozen=True)
class Memory:
    compiled_bytes: int
    device_peak_bytes: int | None
    host_peak_bytes: int | None

    def peak_bytes(self) -> int | None:
        return self.device_peak_bytes or self.host_peak_bytes


@dataclasses.dataclass(frozen=True)
class Machine:
    devices: str
    processor: str
    cores: int | None
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class PeerFigures:
    about: dict[str, Any]  # what the peer said of itself: versions, threads, settings
    step_seconds: Spread
    tokens_per_second: float
    supervised_tokens_per_second: float
    losses: list[float]  # first and last
    host_peak_bytes: int


@dataclasses.dataclass(frozen=True)
class Ratios:
    """Ours over the peer's, in supervised tokens per second; memory too."""

    of_totals: float
    median_of_rounds: float
    quartile_low: float
    quartile_high: float
    rounds: int
    memory: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepMeasurement:
    """The training step; its rates are of all steps together, the loader's time included."""

    model: MeasuredModel
    rows: str
    steps: int
    step_seconds: Spread
    tokens_per_second: float
    supervised_tokens_per_second: float
    packing_efficiency: float
    flops_per_second: float
    mfu: float | None  # None: this device's peak is not known
    hfu: float | None
    peak_flops: float | None
    loader_share: float
    compile_seconds: float
    memory: Memory
    losses: list[float]  # first and last
    choices: dict[str, str]
    machine: Machine
    peer: PeerFigures | None = None
    ratios: Ratios | None = None
    command: str


@dataclasses.dataclass(frozen=True)
class Start:
    seconds: float  # to the end of the first step
    step_seconds: float
    peak_bytes: int


@dataclasses.dataclass(frozen=True)
class NamedModel:
    name: str


@dataclasses.dataclass(frozen=True)
class StartMeasurement:
    cold_start: Start
    warm_start: Start
    command: str
    model: NamedModel


def text(found: StepMeasurement | StartMeasurement) -> str:
    """The measurement as JSON."""
    values = dataclasses.asdict(found)
    absent = {name for name in _ONLY_WITH_A_PEER if values.get(name) is None}
    kept = {name: value for name, value in values.items() if name not in absent}
    return json.dumps(kept, indent=2)


def read(saved: str, name: str) -> StepMeasurement | StartMeasurement:
    """The measurement that `text` wrote.

    Raises:
        ConfigError: fields are missing, or too many, in the file of this name.
    """
    values = json.loads(saved)
    kind = StartMeasurement if "cold_start" in values else StepMeasurement
    try:
        return _made(kind, values)
    except TypeError as error:
        raise ConfigError(f"{name}: not a measurement of this version: {error}") from None


def _made(hint: Any, value: Any) -> Any:
    """The dataclass of these values, its own fields made likewise."""
    if isinstance(hint, types.UnionType):  # with None
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    if not dataclasses.is_dataclass(hint) or value is None:
        return value
    hints = typing.get_type_hints(hint)
    return hint(**{name: _made(hints.get(name), one) for name, one in value.items()})
