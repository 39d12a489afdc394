"""The directory of a run, which may be in a bucket.

Small files are always written to a local directory. For a run in a bucket that is a temporary one,
fetched at the start and copied back before each checkpoint: what a checkpoint knows, the copied
metrics know too, and what they know beyond it is dropped when the run goes on.
"""

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from jaxsft.errors import CheckpointError
from jaxsft.files import buckets, places, run_names

# In the order in which a run writes them; the report is made of the others.
WRITTEN_ON_THE_WAY = (
    *(run_names.CONFIG, run_names.COMMAND, run_names.DATA_REPORT),
    *(run_names.METRICS, run_names.SAMPLES),
    *(run_names.ODD_STEPS, run_names.EXAMPLES, run_names.STARTS, run_names.WANDB_RUN),
    run_names.SUMMARY,
)
_MIN_SECONDS = 60  # between two copies that no checkpoint waits for
_MAX_SHARE = 0.02  # of the run's time that these copies take


class Workdir:
    """
    Attributes:
        name: as the user gave it.
        files: the local directory of everything but checkpoints and export.
        reports: whether this process writes the report; one alone does, once it knows the others.
        token: of the lock that this run has or asked for; None: it has not asked yet.
        refuse_lost: raises ConfigError where another run has taken the directory since; told True,
            it looks at the lock again.
    """

    def __init__(self, name: str, files: Path, bucket: epath.Path | None = None):
        self.name = name
        self.files = files
        self.reports = True
        self.token: str | None = None
        self.refuse_lost: Callable[[bool], None] = lambda now: None
        self._bucket = bucket
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of change, by file
        self._next_copy = 0.0

    @property
    def checkpoints(self) -> Path | epath.Path:
        return (self._bucket or self.files) / run_names.CHECKPOINTS

    def shown(self, name: str) -> str:
        """The path of a file or directory of the run, for the user."""
        return str((self._bucket or self.files) / name)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """An object that the run keeps; None: it is not there, or not whole.

        No start depends on these files: what decides the result is in the checkpoints too.
        """
        try:
            value = json.loads((self.files / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def fetch(self) -> None:
        """Brings the files of an earlier start here; the first process's part alone.

        Raises:
            CheckpointError: the bucket fails.
        """
        if self._bucket is None:
            return
        for name in (*WRITTEN_ON_THE_WAY, run_names.REPORT):
            buckets.download(self._bucket / name, self.files / name)

    def forget(self, name: str) -> None:
        """Removes a file of an earlier start."""
        for directory in (self.files, self._bucket):
            if directory is not None:
                (directory / name).unlink(missing_ok=True)

    def copy(self) -> None:
        """Copies to the bucket, if the run is in one, the files that changed since.

        Raises:
            CheckpointError: the bucket fails.
        """
        if self._bucket is None:
            return
        started = time.monotonic()
        for name, version in _versions(self.files):
            if self._copied.get(name) != version:
                try:
                    buckets.upload(self.files / name, self._bucket / name)
                except CheckpointError:
                    if (self.files / name).exists():
                        raise
                    continue  # it was taken away meanwhile, by a thread that writes
                self._copied[name] = version
        took = time.monotonic() - started
        self._next_copy = time.monotonic() + max(_MIN_SECONDS, took / _MAX_SHARE)

    def copy_now_and_then(self) -> str | None:
        """Copies where the last time is long ago; returns what went wrong, if anything did."""
        if time.monotonic() < self._next_copy:
            return None
        try:
            self.copy()
        except CheckpointError as error:
            self._next_copy = time.monotonic() + _MIN_SECONDS
            return str(error)


def _versions(directory: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each file's name, and its size and time of change; those that writers keep in directories of
    their own, and take away again, come last."""
    for above, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            file = Path(above) / name
            with contextlib.suppress(FileNotFoundError):
                status = file.lstat()
                if stat.S_ISREG(status.st_mode):
                    shown = str(file.relative_to(directory))
                    yield shown, (status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def opened(name: str, writes: bool = True, flag: str = "--workdir") -> Iterator[Workdir]:
    """The directory that a flag names.

    Args:
        writes: whether it is made where it is missing, and must be writable.

    Raises:
        ConfigError: it can't be made, reached or written.
    """
    if buckets.is_remote(name):
        bucket = buckets.open_directory(flag, name, writes)
        with contextlib.ExitStack() as stack:
            with places.using("the directory of temporary files (TMPDIR)"):
                made = tempfile.TemporaryDirectory(prefix="jaxsft-")
            parent = stack.enter_context(made)
            files = Path(parent) / bucket.name
            files.mkdir()
            yield Workdir(name, files, bucket)
        return
    files = Path(name)
    if writes:
        places.make_writable(files, f"{flag}={name}")
    yield Workdir(name, files)
