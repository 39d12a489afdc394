"""The wait for the other processes of a run: it says who has not come, and ends in time."""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from jaxsft import errors
from jaxsft.devices.roll_call import RollCall
from jaxsft.terminal import signals

SayLine = Callable[[str], None]
SAY_EVERY_SECONDS = 10
_DONE = b"\0"  # no signal has the number 0


@contextlib.contextmanager
def saying(what: str, timeout_seconds: int, say: SayLine) -> Iterator[None]:
    """Repeats what is waited for; ends the process when it waited too long, or at a signal.

    jax aborts a process whose peers don't come, with a stack dump and no word on why; and while it
    waits, the main thread is in its library, where Python runs no handler.
    """

    def repeat() -> None:
        for waited in range(SAY_EVERY_SECONDS, timeout_seconds, SAY_EVERY_SECONDS):
            if _ended(heard, SAY_EVERY_SECONDS, say):
                return
            missing = f"; not here yet: {who}" if (who := call.missing()) else ""
            say(f"{what}{missing} ({waited} s of at most {timeout_seconds} s)")
        if _ended(heard, 1 + (timeout_seconds - 1) % SAY_EVERY_SECONDS, say):
            return
        say(
            f"error: {what}: {call.missing() or 'they'} did not come within {timeout_seconds} s."
            " Was the program started"
            " on every host, all with the same --num_processes and each with a --process_id of its"
            " own? Has one ended with an error? Can they reach the first one's port?"
        )
        os._exit(errors.LOST_PEER)

    heard, told = socket.socketpair()
    with heard, told, _signals_to(told), RollCall().taken() as call:
        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            told.send(_DONE)
            thread.join()


@contextlib.contextmanager
def _signals_to(told: socket.socket) -> Iterator[None]:
    """Inside, the number of each signal that Python handles is a byte sent to `told`, at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


def _ended(heard: socket.socket, seconds: float, say: SayLine) -> bool:
    """Whether the waiting is over within these seconds; ends the process at a signal."""
    until = time.monotonic() + seconds
    while select.select([heard], [], [], max(0.0, until - time.monotonic()))[0]:
        byte = heard.recv(1)
        if byte == _DONE:
            return True
        if byte[0] in signals.ALL:
            say(str(signals.stopped_by(byte[0])))
            os._exit(errors.STOPPED)
    return False
