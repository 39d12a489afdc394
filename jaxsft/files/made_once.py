"""A directory that is made once and then found by its name, whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from jaxsft.files import places


def directory(parent: Path, name: str, write: Callable[[Path], None]) -> Path:
    """parent/name, filled by `write` where no process has done so before.

    Args:
        name: must follow from all that the content depends on.
    """
    path = parent / name
    if path.is_dir():
        return path
    name_of_place = f"{parent}, below XDG_CACHE_HOME or config.data.cache_dir"
    with places.using(name_of_place, parent):
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = Path(tempfile.mkdtemp(dir=parent))  # mode 0700
    try:
        with places.using(name_of_place, parent):
            write(partial)
            partial.rename(path)
    except places.PlaceError:
        if not path.is_dir():  # otherwise another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path
