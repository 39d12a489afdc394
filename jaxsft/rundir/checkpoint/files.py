"""The files of checkpoints: which steps are there, and whether a step has the files it had.

Whether a file is there is asked of listings and of `stat`: `exists` takes a disk that fails for a
file that is not there.

checkpoints/20/commit_success.txt     written last by Orbax: without it, 20 is no checkpoint
checkpoints/20/jaxsft_files.json      size of each file of 20, written after the commit; alone, it
                                      says that 20 was one and has lost a file
checkpoints/20.damaged/               set aside: its data were altered after they were written
"""

import json
from pathlib import Path

import tensorstore  # Orbax's own way to the disk
from etils import epath

from jaxsft.errors import CheckpointError, ConfigError
from jaxsft.files.whole_files import write_text
from jaxsft.rundir.checkpoint.failure import Failure, of_error

COMMITTED = "commit_success.txt"
_SIZES = "jaxsft_files.json"
ARRAYS = "d"  # Orbax's directories of the arrays' numbers
_OWN = "jaxsft_"  # begins the names of what is written beside Orbax's files
_READ_BYTES = 2**24
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a directory that Orbax has not renamed yet


def checkpoint_directory(directory: Path | epath.Path) -> epath.Path:
    """The directory of a run's checkpoints, which need not be there yet.

    Raises:
        ConfigError: something else has its name.
    """
    path = epath.Path(directory.absolute() if isinstance(directory, Path) else directory)
    if Path(path).is_symlink() and not path.exists():
        raise ConfigError(
            f"{path}: is a link to {Path(path).readlink()}, which is not there: is a disk not"
            " mounted?"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(
            f"{path}: is a file, and checkpoints go into a directory of this name; move it away, or"
            " use another --workdir"
        )
    return path


def committed_steps(directory: epath.Path) -> list[int]:
    """Steps that were saved whole, oldest first; one that lost its commit file is among them.

    Raises:
        CheckpointError: the directory can't be listed.
    """
    try:
        return sorted(
            int(name)
            for name in _names(directory)
            if name.isdecimal() and is_committed(directory / name)
        )
    except Exception as error:  # stores of objects have kinds of their own
        raise CheckpointError(f"{directory}: can't be listed: {of_error(error).cause}") from error


def is_committed(step: epath.Path) -> bool:
    """Whether the step was saved whole, once."""
    return bool(_names(step) & {COMMITTED, _SIZES})


def _names(directory: epath.Path) -> set[str]:
    """Of what a directory holds; none where there is no directory."""
    try:
        return {path.name for path in directory.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def leftovers(directory: epath.Path, before: int) -> list[epath.Path]:
    """Directories of saves that never came to their end, of steps `before` which all are old: a
    later one may be in the making."""
    found = []
    for name in sorted(_names(directory)):
        number, _, rest = name.partition(".")
        if number.isdecimal() and int(number) < before:
            path = directory / name
            unfinished = _UNFINISHED in name or (not rest and not is_committed(path))
            found += [path] if unfinished and path.is_dir() else []
    return found


def remove(step: epath.Path) -> None:
    """Deletes a step; killed in the middle, it leaves a whole checkpoint or none."""
    for name in (_SIZES, COMMITTED):
        (step / name).unlink(missing_ok=True)
    step.rmtree()


def set_aside(step: epath.Path) -> epath.Path:
    """Renames a step, so that its number is free and nothing is lost; returns the new path."""
    for number in range(1, 1000):
        target = step.parent / f"{step.name}.damaged{'' if number == 1 else f'.{number}'}"
        if not target.exists():
            _move(step, target)
            return target
    raise CheckpointError(f"{step}: set aside 999 times; remove some of {step}.damaged*")


def _move(step: epath.Path, target: epath.Path) -> None:
    if not _is_remote(step):
        step.rename(target)
        return
    for name in _sizes(step):
        (step / name).copy(target / name)
    remove(step)


def _is_remote(path: epath.Path) -> bool:
    return "://" in str(path)


def write_sizes(step: epath.Path) -> None:
    """Keeps which files the step has, so that a later loss can be proven."""
    text = json.dumps(_sizes(step), indent=0)
    if _is_remote(step):  # where an object is there whole or not at all, and can't be renamed
        (step / _SIZES).write_text(text)
    else:
        write_text(Path(step / _SIZES), text)


def examine(step: epath.Path, but: str | None = None) -> Failure | None:
    """What is wrong with the files of a step by their names and sizes; None: nothing, or unknown.

    The text of a library's error can't tell: TensorStore calls a deleted file one of 0 bytes.

    Args:
        but: the name of directories whose files are left out.
    """
    try:
        expected = json.loads((step / _SIZES).read_text())
    except (FileNotFoundError, ValueError):  # our own list, which is no part of the checkpoint
        return None
    except Exception as error:  # stores of objects have kinds of their own
        return of_error(error)
    if not isinstance(expected, dict):
        return None
    for name, size in expected.items():
        if but in Path(name).parts:
            continue
        if failure := _examine_file(step / name, name, size):
            return failure
    return None


def _examine_file(file: epath.Path, name: str, size: int) -> Failure | None:
    try:
        if (now := file.stat().length) != size:
            return Failure("altered", f"{name} has {now} bytes; it had {size}")
        _read_through(file)  # the disk may know the name and not give the bytes
    except (FileNotFoundError, NotADirectoryError):
        return Failure("missing", f"{name} is not there; it had {size} bytes")
    except Exception as error:  # stores of objects have kinds of their own
        return of_error(error)
    return None


def _read_through(file: epath.Path) -> None:
    with file.open("rb") as opened_file:
        while opened_file.read(_READ_BYTES):
            pass


def is_known(step: epath.Path) -> bool:
    """Whether the sizes of the step's files were kept."""
    return (step / _SIZES).exists()


def _sizes(step: epath.Path) -> dict[str, int]:
    """Of each file of Orbax below the step."""
    found: dict[str, int] = {}
    todo = [step]
    while todo:
        for path in todo.pop().iterdir():
            if path.is_dir():
                todo.append(path)
            elif not path.name.startswith(_OWN):
                found[str(path.relative_to(step))] = path.stat().length
    return dict(sorted(found.items()))


def bytes_read() -> int:
    """Of all arrays that this process has read so far, from disks and buckets."""
    found = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/")
    read = (metric["values"] for metric in found if metric["name"].endswith("/bytes_read"))
    return sum(int(value["value"]) for values in read for value in values)
