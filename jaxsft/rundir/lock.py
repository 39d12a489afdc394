"""One run at a time in a directory: `lock.json` says whose it is, and a heartbeat that it lives.

A killed process leaves its lock behind. Where its host can be asked, the process's number and start
tell that it is gone; elsewhere (a pod that was started again has another host name) only that its
heartbeat stands still. Clocks of two hosts differ: a heartbeat that moves lives, whatever it says.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax

from jaxsft.devices import distributed
from jaxsft.errors import ConfigError
from jaxsft.files import buckets, places, records, run_names
from jaxsft.files.objects import NONE, BucketObject
from jaxsft.files.whole_files import write_text
from jaxsft.rundir.workdir import Workdir

Say = Callable[[str, str], None]
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # without a heartbeat: nobody is there any more
# So long an old heartbeat is watched for a move: the clock of its host may be late. None is so late
# as the second.
WATCH_SECONDS, SURELY_STALE_SECONDS = 15.0, 600.0
SETTLE_SECONDS = 1.0  # two that took a file over at once both have written by then
_POLL_SECONDS = 0.5
_TOPIC = "lock"


@dataclasses.dataclass(frozen=True)
class Holder:
    """Whose a lock is; in one of another version, what it didn't write has its default."""

    host: str = ""
    pid: int = 0
    since: str = ""  # for the eyes
    heartbeat: float = 0.0  # seconds since 1970, by the clock of its host
    processes: int = 1
    token: str = ""  # of this start alone
    process_started: str = ""  # by the kernel's clock: another process may get the same pid
    machine: str = ""  # where pids mean the same processes: a boot of a kernel, a container of it

    def words(self) -> str:
        count = "" if self.processes == 1 else f", the first of {self.processes},"
        return f"host {self.host}, process {self.pid}{count} since {self.since}"

    def lives(self) -> bool | None:
        """None: it can't be known from here."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        return self.process_started == _started(self.pid)


class Place(Protocol):
    """Where a lock lies; `replace` says whether it did, and not of what another one has written
    since the last `read`, where that can be known.
    """

    def read(self) -> str | None: ...
    def create(self, text: str) -> bool: ...
    def replace(self, text: str) -> bool: ...
    def renew(self, text: str) -> None: ...
    def remove(self) -> None: ...


class LocalPlace:
    def __init__(self, path: Path):
        self._path = path

    def read(self) -> str | None:
        try:
            return self._path.read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def create(self, text: str) -> bool:
        """Makes the file, with all of its text at once; False: there is one."""
        whole = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
        try:
            whole.write_text(text, encoding="utf-8")
            try:
                os.link(whole, self._path)
            except FileExistsError:
                return False
            except OSError:  # a file system without such links
                return self._create_empty_first(text)
            return True
        finally:
            whole.unlink(missing_ok=True)

    def _create_empty_first(self, text: str) -> bool:
        try:
            number = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with open(number, "w", encoding="utf-8") as file:
            file.write(text)
        return True

    def replace(self, text: str) -> bool:
        write_text(self._path, text)
        return True

    def renew(self, text: str) -> None:
        """In place: a full disk has no room for another file."""
        with self._path.open("r+", encoding="utf-8") as file:
            file.write(text)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


class BucketPlace:
    """An object, which is written in the place of what was read last, or not at all."""

    def __init__(self, url: str):
        self._object = BucketObject(url)
        self._generation = NONE

    def read(self) -> str | None:
        text, self._generation = self._object.read()
        return text

    def create(self, text: str) -> bool:
        return self._object.write(text, NONE)

    def replace(self, text: str) -> bool:
        return self._object.write(text, self._generation)

    def renew(self, text: str) -> None:
        self.replace(text)  # what another one wrote since is seen at the next look

    def remove(self) -> None:
        self._object.remove(self._generation)


class Lock:
    """The lock of a directory, kept by the first process of a run while it lasts.

    Args:
        path: of lock.json, which may be in a bucket.
        processes: of this run.
    """

    def __init__(self, path: str, processes: int, say: Say):
        self._path = path
        self._place = place_of(path)
        self._say = say
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._taken_by: Holder | None = None
        self._trouble = False
        self.mine = Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
            processes=processes,
            token=uuid.uuid4().hex,
            process_started=_started(os.getpid()) or "",
            machine=_machine(),
        )

    def take(self) -> None:
        """Raises ConfigError where another run has the directory."""
        with places.using(self._path):
            while not self._place.create(self._text()):
                other = holder_of(self._place.read())
                if other is None or not self._has_given_up(other):
                    continue
                if self._place.replace(self._text()):
                    time.sleep(SETTLE_SECONDS)
                    now = holder_of(self._place.read())
                    if now is not None and now.token != self.mine.token:
                        raise _in_use(self._path, now)
                    gone = f"{other.words()}, which is gone"
                    self._say(_TOPIC, f"{self._path} is taken over from {gone}")
                    break
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _has_given_up(self, other: Holder) -> bool:
        """Whether the holder is gone; False: the lock is.

        Raises:
            ConfigError: it is there.
        """
        lives = other.lives()
        if lives:
            raise _in_use(self._path, other)
        if lives is False:
            return True
        begun, old = time.monotonic(), max(0.0, time.time() - other.heartbeat)
        wait = max(STALE_SECONDS - old, WATCH_SECONDS if old < SURELY_STALE_SECONDS else 0)
        if wait:
            self._say(
                _TOPIC,
                f"{self._path} is that of {other.words()}: waiting whether it still renews it, at"
                f" most {wait:.0f} s",
            )
        while time.monotonic() - begun < wait:
            time.sleep(_POLL_SECONDS)
            now = holder_of(self._place.read())
            if now is None:
                return False
            if (now.token, now.heartbeat) != (other.token, other.heartbeat):
                raise _in_use(self._path, now)
        return True

    def check(self, now: bool = False) -> None:
        """Refuses to go on in a directory that another run has taken since.

        Args:
            now: read the lock again; else what the last heartbeat saw counts.

        Raises:
            ConfigError: naming that run.
        """
        if now and self._thread is not None:
            with contextlib.suppress(Exception):  # a store that fails for a moment
                self._see(self._place.read())
        if self._taken_by is not None:
            raise ConfigError(
                f"{self._path}: this run's lock was taken by another one, {self._taken_by.words()}:"
                " this run ends, and leaves the directory to that one. Was it stopped, or its disk"
                f" away, for more than {STALE_SECONDS:.0f} s?"
            )

    def _see(self, text: str | None) -> None:
        other = holder_of(text)
        if other is not None and other.token != self.mine.token:
            self._taken_by = other

    def release(self) -> None:
        """Removes the lock, if it is still ours; trouble with that is the next start's to see."""
        self._over.set()
        if self._thread is None:
            return
        self._thread.join()
        with contextlib.suppress(Exception):
            holder = holder_of(self._place.read())
            if holder is not None and holder.token == self.mine.token:
                self._place.remove()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                self._see(text := self._place.read())
                if self._taken_by is not None:
                    return
                if text is None:
                    self._place.create(self._text())  # somebody removed it
                else:
                    self._place.renew(self._text())
                self._trouble = False
            except Exception as error:  # stores of objects have kinds of their own
                if not self._trouble:
                    self._say(_TOPIC, f"warning: {self._path} can't be renewed: {error}")
                self._trouble = True

    def _text(self) -> str:
        now = dataclasses.replace(self.mine, heartbeat=round(time.time(), 3))
        return f"{json.dumps(records.to_json(now)):<{_ROOM}}\n"


_ROOM = 400  # a shorter text leaves nothing of a longer one behind


@contextlib.contextmanager
def held(workdir: Workdir, say: Say) -> Iterator[None]:
    """Inside, the directory is this run's; all processes take part.

    Raises:
        ConfigError: it is another's.
    """
    lock = Lock(workdir.shown(run_names.LOCK), jax.process_count(), say)
    workdir.token = lock.mine.token  # which is no holder's, where this run gets no lock

    def take() -> str:
        lock.take()
        return lock.mine.token

    try:
        workdir.token = distributed.of_first(take)
        workdir.refuse_lost = lock.check
        yield
    finally:
        lock.release()


def is_anothers(workdir: Workdir) -> bool:
    """Whether another run has the directory, to which this one must not write."""
    try:
        holder = holder_of(place_of(workdir.shown(run_names.LOCK)).read())
    except Exception:  # a place that fails: what is written there says so
        return False
    if holder is None or holder.token == workdir.token:
        return False
    # What a killed run left is nobody's, until this run has tried to take it.
    fresh = time.time() - holder.heartbeat < STALE_SECONDS
    lives = holder.lives()
    return workdir.token is not None or (fresh if lives is None else lives)


def place_of(path: str) -> Place:
    return BucketPlace(path) if buckets.is_remote(path) else LocalPlace(Path(path))


def holder_of(text: str | None) -> Holder | None:
    """Whose a lock's text is: of nobody who is known, where it was cut short; None: no lock."""
    if text is None:
        return None
    try:
        value: Any = json.loads(text)
        found = records.from_json(Holder, value)
        if found.host:
            return dataclasses.replace(found, pid=int(found.pid), heartbeat=float(found.heartbeat))
    except (ValueError, TypeError):
        pass
    return Holder(host="(its file can't be read)")


def _in_use(path: str, holder: Holder) -> ConfigError:
    old = time.time() - holder.heartbeat
    stuck = f" (which hangs or is stopped: its last heartbeat is {old:.0f} s ago)"
    return ConfigError(
        f"{path.removesuffix(f'/{run_names.LOCK}')}: in use by {holder.words()}"
        f"{stuck if old > STALE_SECONDS else ''}; two runs in one directory would spoil each"
        f" other's checkpoints. Wait for that one, end it (kill {holder.pid}, there), or use"
        " another --workdir"
    )


def _machine() -> str:
    """Of this boot and this container: elsewhere a pid is another process."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""  # no Linux: the host's name must do


def _started(pid: int) -> str | None:
    """When a process started, by the kernel's clock; None: there is none, or it has ended."""
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except (ProcessLookupError, OverflowError):
                return None
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
