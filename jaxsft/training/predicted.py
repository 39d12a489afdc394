"""What a start of a run expects of itself, from before its first step."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Predicted:
    """None: not known. Of this start's program on this start's devices."""

    memory_bytes: int | None = None  # that the step needs of each device, by its compiler
    limit_bytes: int | None = None  # that a program may use of a device
    step_seconds: float | None = None
    why: str = ""  # there is no step_seconds
    num_steps: int | None = None  # of the whole run
    local_devices: int = 1  # of the process that wrote this
    in_ram: bool = False  # what these devices hold is the process's own memory
