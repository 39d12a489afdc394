"""What a run is about to cost, by its own compiled step: what the plan says, on the devices that
are there."""

import jax

from jaxsft.config import Config
from jaxsft.data.cache.store import Cache
from jaxsft.plan import estimate, measured_data, topology
from jaxsft.plan.memory import GIB
from jaxsft.plan.remat_choice import Chosen
from jaxsft.training.job import Job
from jaxsft.training.predicted import Predicted


def of_start(config: Config, job: Job, train: Cache, chosen: Chosen) -> Predicted:
    """From the program that was chosen for this start; nothing in here ends a run.

    Args:
        train: the training data.
    """
    here, seconds, why = topology.here(), None, ""
    if here.chip is None:
        why = f"what a {here.name} can do is not known"
    else:
        try:
            rows = measured_data.load_of(train, job.batches.epochs)
            made = estimate.of_chosen(config, chosen, rows, here).seconds
            seconds = None if made is None else made.estimate
        except Exception as failed:  # text of a compiler that is newer than what reads it
            why = f"the compiled step could not be read: {str(failed).partition(chr(10))[0]}"
    needed = chosen.memory
    return Predicted(
        memory_bytes=None if needed is None else needed.needed_bytes,
        limit_bytes=None if needed is None else needed.limit_bytes,
        step_seconds=seconds,
        why=why,
        num_steps=job.num_steps,
        local_devices=len(jax.local_devices()),
        in_ram=jax.local_devices()[0].platform == "cpu",
    )


def words(made: Predicted) -> str:
    """A line for the terminal."""
    said = []
    if made.memory_bytes is not None:
        said.append(f"{made.memory_bytes / GIB:.2f} GiB of each device")
    if made.step_seconds is None:
        return ", ".join([*said, f"no time of a step: {made.why}"])
    hours = made.step_seconds * (made.num_steps or 0) / 3600
    said.append(f"{made.step_seconds:.3g} s a step")
    return ", ".join([*said, f"{hours:.3g} hours of steps, without evaluations and saves"])
