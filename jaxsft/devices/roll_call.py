"""Which processes of a run have come, while they wait for each other at the start.

jax's coordinator tells nobody before all are there. So each process tells the first one its number,
once a second, in datagrams to the port at which the coordinator takes streams, and hears who else
did. It is for messages alone: where a network lets no datagrams through, they name nobody.
"""

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

from jaxsft.devices import coordinator, listening
from jaxsft.devices.coordinator import Place

_EVERY_SECONDS = 1.0
_AWAY_SECONDS = 10.0  # without a datagram, after which a process is not there any more
_MOST_BYTES = 65507  # of a datagram
_MOST_NAMED = 20


class RollCall:
    """What this process has heard so far.

    Args:
        place: this process's, once it is known.
    """

    def __init__(self, place: Callable[[], Place | None] = coordinator.place) -> None:
        self._place = place
        self._heard: dict[int, float] = {}  # when, by number
        self._me: Place | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator["RollCall"]:
        over = threading.Event()
        thread = threading.Thread(target=self._take, args=(over,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    def missing(self) -> str:
        """ "process 2", "processes 1, 2 and 3"; empty: none is, or nothing is known of them."""
        if self._me is None:
            return ""
        there = self._there()
        if 0 not in there:
            return "process 0" if self._me.number and coordinator.is_gone(self._me.address) else ""
        if len(there) == 1 and self._me.count > 2:  # or no datagram comes through
            return ""
        numbers = sorted(set(range(self._me.count)) - set(there))
        some, more = numbers[:_MOST_NAMED], len(numbers) - _MOST_NAMED
        *first, last = [*map(str, some), *([f"{more} more"] if more > 0 else [])] or [""]
        several = f"processes {', '.join(first)} and {last}"
        return several if first else f"process {last}" if last else ""

    def _there(self) -> list[int]:
        now = time.monotonic()
        return [number for number, at in self._heard.items() if now - at < _AWAY_SECONDS]

    def _take(self, over: threading.Event) -> None:
        while (me := self._place()) is None:
            if over.wait(_EVERY_SECONDS / 4):
                return
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as sockets:
            opened = [sockets.enter_context(one) for one in _opened(me)]
            self._me = me
            while not over.is_set():
                if me.number == 0:
                    self._heard[0] = time.monotonic()
                else:
                    for one in opened:
                        with contextlib.suppress(OSError):  # nobody listens there yet
                            one.send(json.dumps([me.count, [me.number]]).encode())
                self._listen(me, opened)

    def _listen(self, me: Place, opened: list[socket.socket]) -> None:
        until = time.monotonic() + _EVERY_SECONDS
        while (left := until - time.monotonic()) > 0:
            for one in select.select(opened, [], [], left)[0]:
                with contextlib.suppress(OSError, ValueError, TypeError):  # anyone may send
                    text, sender = one.recvfrom(_MOST_BYTES)
                    count, numbers = json.loads(text)
                    if count != me.count:
                        continue
                    now = time.monotonic()
                    self._heard |= {int(n): now for n in numbers if 0 <= int(n) < me.count}
                    if me.number == 0:
                        one.sendto(json.dumps([count, self._there()]).encode(), sender)


def _opened(me: Place) -> list[socket.socket]:
    """The first process's, which listens where its coordinator does; another's, towards that."""
    host, _, port = me.address.rpartition(":")
    host = host.strip("[]")
    beyond = me.number == 0 and listening.bind_address(me.address) is None
    made: list[socket.socket] = []
    found = socket.getaddrinfo(
        None if beyond else host, int(port), type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, address in found:
        with contextlib.suppress(OSError):
            one = socket.socket(family, kind, protocol)
            made.append(one)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if me.number == 0:
                one.bind(address)
            else:
                one.connect(address)
    return made
