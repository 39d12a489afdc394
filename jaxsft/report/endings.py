"""What a run leaves that ends before its time: error.json, and the report of what there is.

Nothing here raises: why the run ended is what the user must hear.
"""

import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from jaxsft import errors
from jaxsft.devices.termination import Termination
from jaxsft.files import run_names
from jaxsft.report import failure_record
from jaxsft.report.page.write import is_of_a_run_that_lasts, write_report
from jaxsft.report.run_read import read_run
from jaxsft.rundir import lock
from jaxsft.rundir.workdir import WRITTEN_ON_THE_WAY, Workdir
from jaxsft.terminal.redact import redacted

_NO_WORD = "it was killed, or lost its machine, and could leave no word of it"


def write_ending(workdir: Workdir, error: BaseException) -> None:
    """Writes error.json, unless the run was stopped by a signal, and report.html; nothing where the
    directory is another run's."""
    stopped = isinstance(error, (errors.Stopped, KeyboardInterrupt))
    why = (str(error) or "stopped by SIGINT") if stopped else None
    if lock.is_anothers(workdir):
        return
    # Another signal ends this part, not the program.
    with contextlib.suppress(errors.Stopped), _listening():
        if not stopped:
            attempt(run_names.ERROR, lambda: failure_record.write(workdir.files, error))
        if workdir.reports:
            attempt(run_names.REPORT, lambda: _tell(workdir, why))
        attempt("copy", workdir.copy)  # the bucket may be what failed in the first place


def _listening() -> contextlib.AbstractContextManager[None]:
    # Python takes signals in the main thread alone; another ends a process that is blocked there.
    main = threading.current_thread() is threading.main_thread()
    return Termination().listening() if main else contextlib.nullcontext()


def report_leftover(workdir: Workdir) -> None:
    """Writes the report of an earlier start that wrote none when it ended."""
    files = [workdir.files / name for name in WRITTEN_ON_THE_WAY]
    changed = [file.stat().st_mtime_ns for file in files if file.is_file()]
    page = workdir.files / run_names.REPORT
    whole = page.is_file() and page.stat().st_mtime_ns >= max(changed, default=0)
    if changed and not (whole and not is_of_a_run_that_lasts(page)):
        attempt(run_names.REPORT, lambda: _write_leftover(workdir.files))


def _write_leftover(files: Path) -> None:
    """A run whose last step is in its summary came to its end, wherever it was copied to since."""
    write_report(files, None if read_run(files).finished else _NO_WORD)


def attempt(what: str, write: Callable[[], object]) -> None:
    """Writes; if that fails, says so in one line and goes on."""
    try:
        write()
    except (Exception, errors.Stopped) as failed:
        said = redacted(f"note: {what}: {type(failed).__name__}: {failed}")
        print(said, file=sys.stderr)


def _tell(workdir: Workdir, why: str | None) -> None:
    page = write_report(workdir.files, why)
    print(f"note: {workdir.shown(page.name)} shows the run up to here", file=sys.stderr)
