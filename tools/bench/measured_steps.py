"""Timed steps as the figures that are shown, printed as JSON and put on the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import machine
from bench.ours import Ours, Step
from jaxsft.config import Config
from jaxsft.training.flops import recomputed_flops, training_flops


def of_steps(config: Config, ours: Ours, steps: Sequence[Step]) -> dict[str, Any]:
    """Rates are of all steps together, the loader's time included."""
    total = sum(one.seconds for one in steps)
    counts = sum((one.counts for one in steps[1:]), steps[0].counts)
    supervised = sum(one.supervised_tokens for one in steps)
    s, peak = ours.program.settings, machine.peak_flops()
    needed = training_flops(s, counts, supervised) / total
    again = recomputed_flops(s, counts, config.model.remat) / total
    return {
        "model": model_of(config, ours),
        "rows": ours.rows.description,
        "steps": len(steps),
        "step_seconds": spread([one.seconds for one in steps]),
        "tokens_per_second": counts.tokens / total,
        "supervised_tokens_per_second": supervised / total,
        "packing_efficiency": counts.tokens / counts.slots,
        "flops_per_second": needed,
        "mfu": needed / peak if peak else None,
        "hfu": (needed + again) / peak if peak else None,
        "peak_flops": peak,
        "loader_share": sum(one.wait_seconds for one in steps) / total,
        "compile_seconds": ours.compile_seconds,
        "memory": {
            "compiled_bytes": ours.memory.needed_bytes,
            "device_peak_bytes": machine.peak_device_bytes(),
            "host_peak_bytes": machine.peak_host_bytes(),
        },
        "losses": [steps[0].loss, steps[-1].loss],
        "choices": {what: f"{which} ({why})" for what, which, why in ours.program.choices},
        "machine": machine.describe(),
    }


def model_of(config: Config, ours: Ours) -> dict[str, Any]:
    """What decides how much work a step is."""
    model, train = config.model, config.train
    return {
        "name": model.source.rstrip("/").rpartition("/")[2],
        "parameters": ours.program.num_parameters,
        "weights": model.weights,
        "dtype": model.dtype,
        "parameter_dtype": model.parameter_dtype,
        "remat": model.remat,
        "batch_size": train.batch_size,
        "sequence_length": config.data.sequence_length,
        "microbatches": train.microbatches,
        "mesh": {axis: size for axis, size in ours.program.mesh.shape.items() if size > 1},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, and how far apart the values are."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {
        "median": middle,
        "quartile_low": low,
        "quartile_high": high,
        "min": min(values),
        "max": max(values),
    }
