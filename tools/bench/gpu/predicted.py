"""What the plan says of a step that has been compiled here, to be read beside what was measured."""

import jax

from bench.ours import Ours
from jaxsft.config import Config
from jaxsft.devices import chips
from jaxsft.model.attention.choice import kind_of
from jaxsft.plan import estimate, hlo, kernels
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.kernel_flops import Skipped
from jaxsft.training import mesh_program


def of_step(config: Config, ours: Ours, num_segments: int) -> dict[str, float]:
    """FLOPs and bytes; on a known chip also milliseconds: least, and expected.

    Args:
        num_segments: in each row, all of it supervised.
    """
    length = config.data.sequence_length
    rows = BatchLoad(tokens=1.0, supervised=1.0, segment_length=length / num_segments)
    program = ours.program
    shape = mesh_program.run_shape(config, program.mesh)
    pairs = kind_of(program.settings).needed_pairs(program.settings, shape, rows.segment_length)
    text = ours.compiled.as_text()
    parsed = hlo.parse(text, estimate.head_chunks(config, program, rows))
    listed = kernels.of_program(parsed, Skipped(needed_pairs=pairs))
    computed, moved = (sum(sizes) for sizes in zip(*listed, strict=True))
    found = {"plan_tflop": computed / 1e12, "plan_GB_moved": moved / 1e9}
    if chip := chips.chip_of(jax.devices()[0].device_kind):
        seconds = estimate.seconds_of(chip, listed, ())
        found["plan_matmuls_ms"] = seconds.matmuls * 1e3
        found["plan_memory_ms"] = seconds.memory * 1e3
        found["plan_step_ms"] = seconds.estimate * 1e3
    return found
