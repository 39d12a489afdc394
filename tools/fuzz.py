"""Changes files at random as a stranger or a bad disk would, and reads them as a run does: each
must be read or refused with a message, in bounded time and memory.

    python tools/fuzz.py --folder=runs/fuzz [--minutes=60] [--seed=0] [--only=gguf,parquet]
    python tools/fuzz.py --replay=runs/fuzz/found/gguf-0-123

Stopped at any time, it goes on with what --folder holds. Ends with 1 where something was found: an
error that is no message, a death, more than 10 s of a processor or 1 GiB for a file of some KB.

A case follows from --seed, its kind and its number alone: what kills a process can be made again,
without a library that would have to live through it to make it smaller.
"""

import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from absl import flags
from fuzzing import record, worker
from fuzzing.kinds import KINDS
from fuzzing.record import Record, Tried

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.files import records

_FOLDER = flags.DEFINE_string("folder", "runs/fuzz", "keeps what was tried and found")
_MINUTES = flags.DEFINE_float("minutes", 60.0, "in this call", 0.0)
_SEED = flags.DEFINE_integer("seed", 0, "of all cases")
_ONLY = flags.DEFINE_list("only", sorted(KINDS), "kinds")
_REPLAY = flags.DEFINE_string("replay", None, "folder of a case that is read once more, here")
_SLICE_SECONDS = 120.0  # of one kind at a time
_SILENT_SECONDS = 120.0  # a case that takes no processor either
_START_SECONDS = 900.0  # of a process, on a machine that does other things first


def main() -> int:
    if _REPLAY.value:
        case = Path(_REPLAY.value)
        said = worker.judged(KINDS[case.name.partition("-")[0]].read, case)
        place, _, text = said.partition("\t")
        print(text.encode().decode("unicode_escape") or place or "read, or refused with a message")
        return 1 if said else 0
    folder = Path(_FOLDER.value).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"fuzz-{_SEED.value}.json"
    known = records.read(Record, file)
    until = time.monotonic() + 60 * _MINUTES.value
    while time.monotonic() < until:
        # The one that has had the least time.
        kind = min(_ONLY.value, key=lambda name: known.tried.setdefault(name, Tried()).seconds)
        _try(kind, folder, known, until)
        records.write(file, known)
    print(record.table(known))
    for name, found in known.found.items():
        print(f"FOUND {found.times} times: {name}: {folder}/found/{found.case}")
    return 1 if known.found else 0


def _try(kind: str, folder: Path, known: Record, until: float) -> None:
    """Cases of one kind in a process of their own, for a while or until one kills it."""
    tried = known.tried[kind]
    errors = folder / f"{kind}.stderr"
    command = [sys.executable, worker.__file__, kind, str(_SEED.value), str(tried.next), folder]
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=stderr, bufsize=0
        )
    try:
        ended = _follow(process, kind, known, until)
    finally:
        process.kill()
        process.communicate()
    if ended:
        return
    # The case that it had said last is the one that killed it.
    worker.keep(folder / "case" / kind, folder, f"{kind}-{_SEED.value}-{tried.next - 1}")
    said = errors.read_text(errors="replace")[-3000:]
    code = process.returncode
    how = "a case that takes too long" if code in (-signal.SIGPROF, -signal.SIGKILL) else ""
    how = how or f"ended with {code}: {said.strip().splitlines()[-1:]}"
    _say(known, kind, tried.next - 1, f"{how}\t{said!r}")


def _follow(process: subprocess.Popen[bytes], kind: str, known: Record, until: float) -> bool:
    """Notes what the process says; False where it died, or says nothing any more."""
    tried, output = known.tried[kind], process.stdout
    assert output is not None
    started, seconds_before = None, tried.seconds
    while time.monotonic() < until and tried.seconds - seconds_before < _SLICE_SECONDS:
        patience = _SILENT_SECONDS if started else _START_SECONDS
        if not select.select([output], [], [], patience)[0]:
            return False
        line = output.readline().decode()
        if not line:
            return False
        what, _, rest = line.rstrip("\n").partition(" ")
        number, _, said = rest.partition(" ")
        if what == "case":
            tried.cases, tried.next = tried.cases + 1, int(number) + 1
            started = started or time.monotonic()
            tried.seconds = seconds_before + time.monotonic() - started
        elif what == "seed":
            _say(known, kind, int(number), f"a good case is refused: {said}")
        else:
            _say(known, kind, int(number), said)
    return True


def _say(known: Record, kind: str, number: int, said: str) -> None:
    if known.add(kind, f"{kind}-{_SEED.value}-{number}", said):
        print(f"{kind} {number}: {said.partition(chr(9))[0]}", flush=True)


if __name__ == "__main__":
    jaxsft_flags.run_tool(main)
