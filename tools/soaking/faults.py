"""What can happen to a run, how it is done, and how the run has to take it."""

import dataclasses
import random
import shutil
import signal
import time
from collections.abc import Callable

from jaxsft.files import run_names
from soaking.processes import Place, Processes

DONE, BAD_CONFIG, BAD_MODEL, STOPPED, LOST_PEER = 0, 64, 66, 75, 76
REFUSED = (BAD_CONFIG, BAD_MODEL)
AGAIN = (STOPPED, LOST_PEER)  # codes that a launcher starts the run again after
CONNECT_SECONDS = 90
_KILLED = -signal.SIGKILL
_ASKED = (*AGAIN, -signal.SIGTERM)  # the last where Python had not begun to run the program
# A fault that meets a process among its imports: the others import, connect, wait for it, and tell.
_LOST_SECONDS = CONNECT_SECONDS + 90.0


@dataclasses.dataclass(frozen=True)
class Fault:
    """
    Attributes:
        do: to the processes of a start; which of them can't end by themselves any more.
        seconds: in which all others must have ended; None: the run need not end of it.
        codes: that those may end with.
        undo: what ends the fault: before the processes are waited for where the run need not end,
            else behind.
    """

    do: Callable[[Processes, random.Random], list[int]]
    seconds: float | None
    codes: tuple[int, ...] = AGAIN
    undo: Callable[[Processes], None] = lambda processes: None


def _kill(processes: Processes, chance: random.Random) -> list[int]:
    number = chance.randrange(processes.count)
    processes.send(number, signal.SIGKILL)
    return [number]


def _kill_all(processes: Processes, chance: random.Random) -> list[int]:
    del chance
    for number in range(processes.count):
        processes.send(number, signal.SIGKILL)
    return list(range(processes.count))


def _stop(processes: Processes, chance: random.Random) -> list[int]:
    """What a swapping or frozen host does to its process."""
    number = chance.randrange(processes.count)
    processes.send(number, signal.SIGSTOP)
    return [number]


def _hang(processes: Processes, chance: random.Random) -> list[int]:
    """Its heartbeats go on, and it ends by itself like the others."""
    (processes.place.folder / f"hang.{chance.randrange(processes.count)}").touch()
    return []


def _term(processes: Processes, chance: random.Random) -> list[int]:
    processes.send(chance.randrange(processes.count), signal.SIGTERM)
    return []


def _full_disk(processes: Processes, chance: random.Random) -> list[int]:
    processes.limit_files(2**14)
    time.sleep(chance.uniform(1, 6))
    return []


def _space_again(processes: Processes) -> None:
    processes.limit_files(2**62)


def _corrupt(processes: Processes, chance: random.Random) -> list[int]:
    """Ends the run as a signal does, then flips a bit of its newest checkpoint."""
    processes.send(0, signal.SIGTERM)
    processes.wait(_LOST_SECONDS)
    flip(processes.place, chance)
    return []


def flip(place: Place, chance: random.Random) -> None:
    """A bit of the largest data file of the newest checkpoint, if an older one is there too."""
    root = place.workdir / run_names.CHECKPOINTS
    steps = sorted((one for one in root.glob("*") if one.name.isdigit()), key=lambda p: int(p.name))
    whole = [one for one in steps if (one / "commit_success.txt").exists()]
    files = [one for one in whole[-1].rglob("d/*") if one.is_file()] if len(whole) > 1 else []
    if files:
        file = max(files, key=lambda path: path.stat().st_size)
        data = bytearray(file.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)


def _read_errors(processes: Processes, chance: random.Random) -> list[int]:
    processes.place.errors_while.touch()
    time.sleep(chance.uniform(0.5, 8))
    return []


def _reads_again(processes: Processes) -> None:
    processes.place.errors_while.unlink(missing_ok=True)


def _clock(processes: Processes, chance: random.Random) -> list[int]:
    (processes.place.folder / "clock").write_text(str(chance.choice([-7200, -30, 30, 7200])))
    time.sleep(chance.uniform(2, 6))
    return []


def _clock_right(processes: Processes) -> None:
    (processes.place.folder / "clock").unlink(missing_ok=True)


def all_of() -> dict[str, Fault]:
    """By name."""
    lost = (*AGAIN, _KILLED)
    return {
        "kill": Fault(_kill, _LOST_SECONDS, lost),
        "stop": Fault(_stop, _LOST_SECONDS, lost),
        "hang": Fault(_hang, 180, lost),
        "kill all": Fault(_kill_all, 5, lost),
        "term": Fault(_term, _LOST_SECONDS, _ASKED),
        "corrupt": Fault(_corrupt, 5, _ASKED),
        # With no room for long the run gives up, and says so.
        "full disk": Fault(_full_disk, None, (*AGAIN, BAD_CONFIG, BAD_MODEL), _space_again),
        "read errors": Fault(_read_errors, None, (*AGAIN, BAD_MODEL), _reads_again),
        "clock": Fault(_clock, None, undo=_clock_right),
    }


def forget(place: Place) -> None:
    """Removes what asks for faults."""
    for file in (*place.folder.glob("hang.*"), place.folder / "clock", place.errors_while):
        file.unlink(missing_ok=True)


def clear(place: Place) -> None:
    """Removes a lap."""
    shutil.rmtree(place.workdir, ignore_errors=True)
    shutil.rmtree(place.folder, ignore_errors=True)
