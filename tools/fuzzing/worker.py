"""One process that makes and reads cases of a kind: python tools/fuzzing/worker.py KIND SEED FIRST
FOLDER. It says each case before it is read; what kills it is told by whoever started it."""

import faulthandler
import os
import random
import resource
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path

CPU_SECONDS = 10.0  # of one case
MEMORY = 2**30  # bytes beyond what the process has once it has read a good case


def main() -> None:
    kind_name, seed, first, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    warnings.simplefilter("ignore")
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print too
    from fuzzing.kinds import KINDS

    kind, case = KINDS[kind_name], folder / "case" / kind_name
    seeds = folder / "seeds" / kind_name
    if not seeds.exists():
        partial = folder / "seeds" / f".{kind_name}.{os.getpid()}"
        kind.seeds(partial)
        partial.rename(seeds)
    for number, good in enumerate(sorted(seeds.iterdir())):
        try:
            kind.read(copied(good, case))
        except Exception as error:
            print("seed", number, _told(error), file=said, flush=True)
    faulthandler.register(signal.SIGPROF, chain=True)
    limit = _bytes_of_this() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    number = first
    while True:
        kind.make(seeds, case, random.Random(f"{seed} {kind_name} {number}"))
        print("case", number, file=said, flush=True)
        if wrong := judged(kind.read, case):
            keep(case, folder, f"{kind_name}-{seed}-{number}")
            print("found", number, wrong, file=said, flush=True)
        number += 1


def keep(case: Path, folder: Path, name: str) -> None:
    """Copies a case to where it can be read again."""
    shutil.copytree(case, folder / "found" / name, dirs_exist_ok=True)


def judged(read, case: Path) -> str:
    """What was wrong with how a case was taken, on one line; "" where nothing was."""
    from jaxsft.errors import Stopped, UserError
    from jaxsft.files import places

    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # the signal ends the process, wherever it is
    try:
        read(case)
    except (UserError, Stopped) as error:
        return "" if str(error).strip() else f"{type(error).__name__} without a message"
    except BaseException as error:
        return "" if places.user_error(error) else _told(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def copied(good: Path, case: Path) -> Path:
    shutil.rmtree(case, ignore_errors=True)
    return Path(shutil.copytree(good, case))


def _told(error: BaseException) -> str:
    """Kind and place of an error, then its traceback, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.name}" for f in frames if "/jaxsft/" in f.filename]
    place = f"{type(error).__name__} in {ours[-1] if ours else frames[-1].name}"
    text = "".join(traceback.format_exception(error))[-3000:]
    return f"{place}\t{text!r}"


def _bytes_of_this() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
