"""Where the threads of this process are.

Only faulthandler looks: to walk the frames of a thread that runs, through sys._current_frames, has
crashed Python 3.11.
"""

import contextlib
import faulthandler
import re
import sys
import tempfile
import threading
from pathlib import Path

_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
_PACKAGE = Path(__file__).parents[1]


def main_place() -> str:
    """ "train.py:3 in main" of the main thread, and where in this package that was called from."""
    frames = _frames(threading.main_thread().ident)
    if not frames:
        return ""
    place = _said(*frames[0])
    ours = [frame for frame in frames if Path(frame[0]).is_relative_to(_PACKAGE)]
    if ours and ours[0] is not frames[0]:
        place += f", from {_said(*ours[0])}"
    return place


def dump() -> None:
    """Writes the stacks of all threads to stderr."""
    with contextlib.suppress(Exception):
        sys.stderr.flush()
        faulthandler.dump_traceback(all_threads=True)


def _frames(thread: int | None) -> list[tuple[str, str, str]]:
    """File, line and function of a thread's frames, the innermost first."""
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text = file.read()
    for part in re.split(r"\n\n", text):
        head, *lines = part.splitlines()
        number = re.search(r"hread 0x([0-9a-f]+)", head)
        if number and int(number[1], 16) == thread:
            found = [_FRAME.match(line) for line in lines]
            return [(one[1], one[2], one[3]) for one in found if one]
    return []


def _said(file: str, line: str, function: str) -> str:
    path, library = Path(file), file.rpartition("/site-packages/")[2]
    if path.is_relative_to(_PACKAGE):
        shown = str(path.relative_to(_PACKAGE.parent))
    else:
        shown = library if library != file else path.name
    return f"{shown}:{line} in {function}"
