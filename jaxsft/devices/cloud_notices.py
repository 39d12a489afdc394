"""What a cloud says of a machine that it will take back, before the signal that comes with it.

A cloud is a function that gives its notices as they come; it asks, and a thread follows it. Source
of the keys and their values: Google's pages on the metadata server, on preemptible machines and on
host maintenance of Compute Engine and of TPUs.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxsft.errors import ConfigError

_HOST = "metadata.google.internal"
_FLAVOR = "Metadata-Flavor"  # without it the server answers nothing, and it answers with it
_PATH = "/computeMetadata/v1/instance/"
_MACHINE = Path("/sys/class/dmi/id/product_name")
_ANSWER_SECONDS = 3.0
_HOLD_SECONDS = 10  # that the server keeps a question until the answer is another
_ROUND_SECONDS = 1.0  # between two rounds of questions, at least
_TROUBLE_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Notice:
    """
    Attributes:
        words: what is about to happen to this machine.
        stops: whether a run has to end for it.
    """

    words: str
    stops: bool


Cloud = Iterator[Notice | None]  # None: nothing new, for now


@contextlib.contextmanager
def followed(which: str, act: Callable[[Notice], object]) -> Iterator[None]:
    """Inside, a thread hands each notice to `act`; where no cloud is, nothing is asked.

    Args:
        which: "auto" finds out by the machine whether there is one; "gce" is sure of it; "off" does
            not ask.

    Raises:
        ConfigError: "gce", but its server does not answer.
    """
    server = Server(os.environ.get("GCE_METADATA_HOST") or _HOST)
    if which == "gce" and not server.answers():
        raise ConfigError(f"--cloud_notices=gce: no metadata server answers at {server.host}")
    if which == "off" or (which == "auto" and not _may_be_google()):
        yield
        return
    over = threading.Event()
    arguments = (google(server, over), over, act)
    threading.Thread(target=_follow, args=arguments, daemon=True).start()
    try:
        yield
    finally:
        over.set()  # the thread may still wait for an answer, which does nothing then


def _follow(cloud: Cloud, over: threading.Event, act: Callable[[Notice], object]) -> None:
    for notice in cloud:
        if over.is_set():
            return
        if notice is not None:
            act(notice)


def _may_be_google() -> bool:
    """Whether the machine says so; the network, which may hang, is not asked."""
    if os.environ.get("GCE_METADATA_HOST"):
        return True
    try:
        return "Google" in _MACHINE.read_text()
    except OSError:
        return False


def google(server: "Server", over: threading.Event) -> Cloud:
    """The notices of Compute Engine, GKE's machines and TPUs; ends where the server knows none."""
    if not server.answers():
        return
    keys, said = dict(_READERS), dict.fromkeys(_READERS, "")
    first = True
    while keys:
        began = time.monotonic()
        for key, reader in list(keys.items()):
            if over.is_set():
                return
            try:
                text = server.value(key, holds=key == _PREEMPTED and not first)
            except OSError:
                over.wait(_TROUBLE_SECONDS)  # it is there, and will answer again
                continue
            if text is None:
                del keys[key]
                continue
            notice = reader(text)
            words = notice.words if notice else ""
            if notice and words != said[key]:
                yield _standing(notice) if first and key != _PREEMPTED else notice
            said[key] = words
            yield None
        first = False
        over.wait(max(0.0, began + _ROUND_SECONDS - time.monotonic()))


def _standing(notice: Notice) -> Notice:
    """A maintenance that was announced before this start, which would end each start at once."""
    more = "; announced before this start, which goes on until the machine is stopped"
    return Notice(notice.words + more, stops=False) if notice.stops else notice


def _preempted(text: str) -> Notice | None:
    if text.upper() != "TRUE":
        return None
    return Notice("Google takes this machine back (instance/preempted)", stops=True)


def _maintenance(text: str) -> Notice | None:
    event = text.upper()
    if event in ("", "NONE"):
        return None
    if event.startswith("MIGRATE"):
        return Notice("Google moves this machine to another host while it runs", stops=False)
    return Notice(f"Google stops this machine for maintenance ({text})", stops=True)


def _upcoming(text: str) -> Notice | None:
    """Of TPUs and of GPUs that can't be moved: a window, days before it opens."""
    try:
        value = json.loads(text)
    except ValueError:  # NONE
        return None
    named = value if isinstance(value, dict) else {}
    status = named.get("maintenance_status", named.get("maintenanceStatus"))
    if status == "ONGOING":
        return Notice("Google's maintenance of this machine has begun", stops=True)
    begins = named.get("window_start_time", named.get("windowStartTime"))
    if status == "PENDING" or begins:
        return Notice(f"Google will maintain this machine from {begins} on", stops=False)
    return None


_PREEMPTED = "preempted"
_READERS: dict[str, Callable[[str], Notice | None]] = {
    _PREEMPTED: _preempted,
    "maintenance-event": _maintenance,
    "upcoming-maintenance": _upcoming,
}


class Server:
    """A metadata server, asked without the proxy that an environment may name.

    Args:
        host: and port, where it isn't 80.
    """

    def __init__(self, host: str):
        self.host = host
        self._etags: dict[str, str] = {}

    def answers(self) -> bool:
        try:
            response, _ = self._get("", _ANSWER_SECONDS)
        except OSError:
            return False
        return response.headers.get(_FLAVOR) == "Google"

    def value(self, key: str, holds: bool = False) -> str | None:
        """What stands at a key of this machine; None: it has no such key.

        Args:
            holds: the server answers when it is another than at the last call, or after some time.

        Raises:
            OSError: it can't be asked, or has trouble of its own.
        """
        path, seconds = f"{key}?alt=text", _ANSWER_SECONDS
        if key == "upcoming-maintenance":
            path = f"{key}?alt=json"
        if holds:
            path += f"&wait_for_change=true&timeout_sec={_HOLD_SECONDS}"
            path += f"&last_etag={self._etags.get(key, 0)}"
            seconds += _HOLD_SECONDS
        response, text = self._get(path, seconds)
        if response.status == http.client.NOT_FOUND:
            return None
        if response.status != http.client.OK:
            raise OSError(f"{self.host}: {response.status} {response.reason}")
        self._etags[key] = response.headers.get("ETag", "0")
        return text.strip()

    def _get(self, path: str, seconds: float) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection(self.host, timeout=seconds)
        try:
            connection.request("GET", _PATH + path, headers={_FLAVOR: "Google"})
            response = connection.getresponse()
            return response, response.read(2**16).decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"{self.host}: {error}") from error
        finally:
            connection.close()
