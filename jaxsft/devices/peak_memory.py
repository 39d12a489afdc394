"""The most memory that a process has held: in RAM, and on its first device."""

import re
import resource
import sys
from pathlib import Path


def host_bytes(pid: int | None = None) -> int:
    """The most that a process held in RAM; 0 where it is gone.

    Where there is /proc, not by getrusage: the kernel starts its peak with that of the process that
    started this one, up to the exec.

    Args:
        pid: of another process; None: this one.
    """
    if not Path("/proc/self/status").exists() and pid is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    try:
        status = Path(f"/proc/{pid or 'self'}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def device_bytes() -> int | None:
    """The most that a program held on the first device; None where jax doesn't say (CPU)."""
    import jax  # who watches another process needs none of it

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
