"""Timed steps as the figures that are shown, printed as JSON and put on the page."""

import dataclasses
from collections.abc import Sequence

import jax

from bench import machine
from bench.measurement import MeasuredModel, Memory, Spread, StepMeasurement
from bench.ours import Ours, Step
from jaxsft.config import Config
from jaxsft.devices import peak_memory
from jaxsft.devices.chips import peak_flops
from jaxsft.model.settings import DecoderSettings
from jaxsft.training.flops import recomputed_flops, training_flops
from jaxsft.training.untrained import ALL_TRAINS, Untrained


@dataclasses.dataclass(frozen=True)
class Rates:
    """Of all steps together, the loader's time included."""

    tokens_per_second: float
    supervised_tokens_per_second: float
    packing_efficiency: float
    flops_per_second: float
    mfu: float | None
    hfu: float | None
    peak_flops: float | None
    loader_share: float


def rates(
    s: DecoderSettings,
    remat: str,
    steps: Sequence[Step],
    peak: float | None,
    untrained: Untrained = ALL_TRAINS,
) -> Rates:
    """Work over time.

    Args:
        peak: FLOP/s of all devices together; None: not known.
    """
    total = sum(one.seconds for one in steps)
    counts = sum((one.counts for one in steps[1:]), steps[0].counts)
    supervised = sum(one.supervised_tokens for one in steps)
    needed = training_flops(s, counts, supervised, untrained) / total
    again = recomputed_flops(s, counts, remat) / total
    return Rates(
        tokens_per_second=counts.tokens / total,
        supervised_tokens_per_second=supervised / total,
        packing_efficiency=counts.tokens / counts.slots,
        flops_per_second=needed,
        mfu=needed / peak if peak else None,
        hfu=(needed + again) / peak if peak else None,
        peak_flops=peak,
        loader_share=sum(one.wait_seconds for one in steps) / total,
    )


def measurement(
    config: Config, ours: Ours, steps: Sequence[Step], command: str = ""
) -> StepMeasurement:
    """All that is known of these steps, without a peer."""
    program = ours.program
    peak = peak_flops(jax.devices())
    found = rates(program.settings, program.remat, steps, peak, program.untrained)
    return StepMeasurement(
        model=_model(config, ours),
        rows=ours.rows.description,
        steps=len(steps),
        step_seconds=Spread.of([one.seconds for one in steps]),
        **dataclasses.asdict(found),
        compile_seconds=ours.compile_seconds,
        memory=Memory(
            compiled_bytes=ours.memory.needed_bytes,
            device_peak_bytes=peak_memory.device_bytes(),
            host_peak_bytes=peak_memory.host_bytes(),
        ),
        losses=[steps[0].loss, steps[-1].loss],
        choices={what: f"{which} ({why})" for what, which, why in ours.program.choices}
        | {"remat": f"{ours.program.way.words} ({ours.remat_why})"},
        machine=machine.describe(),
        command=command,
    )


def _model(config: Config, ours: Ours) -> MeasuredModel:
    model, train = config.model, config.train
    return MeasuredModel(
        name=model.source.rstrip("/").rpartition("/")[2],
        parameters=ours.program.num_parameters,
        weights=model.weights,
        dtype=model.dtype,
        parameter_dtype=model.parameter_dtype,
        remat=ours.program.remat,
        batch_size=train.batch_size,
        sequence_length=config.data.sequence_length,
        microbatches=train.microbatches,
        mesh={axis: size for axis, size in ours.program.mesh.shape.items() if size > 1},
    )
