"""How long a start takes, from the process's beginning to the end of its first step, by phase."""

import os
import time
from pathlib import Path

# In this order they are told; each may come in several pieces.
PHASES = (
    *("imports", "devices", "data", "model", "compile", "restore", "evaluation", "first step"),
)
_SINCE_BOOT = Path("/proc/self/stat")
_START_FIELD = 22  # of proc_pid_stat(5): when the process was started, in ticks since the boot


class StartClock:
    """
    Attributes:
        seconds: of each phase that has ended.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._made = time.monotonic()
        self._last = self._made - _seconds_before()

    def ended(self, phase: str) -> None:
        """What was done since the phase before belongs to this one."""
        assert phase in PHASES, phase
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def since_made(self) -> float:
        return time.monotonic() - self._made

    def words(self) -> str:
        parts = [f"{name} {self.seconds[name]:.1f}" for name in PHASES if name in self.seconds]
        return f"after {sum(self.seconds.values()):.1f} s: {', '.join(parts)}"


def _seconds_before() -> float:
    """How long this process has run; 0 where no kernel tells."""
    try:
        after_name = _SINCE_BOOT.read_text().rpartition(")")[2].split()
        started = int(after_name[_START_FIELD - 3]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
