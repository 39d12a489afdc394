"""Trains a small model with several processes, puts faults in at random, and starts it again where
a launcher would: it must end with the parameters of the undisturbed run, bit for bit.

    python tools/soak.py --folder=runs/soak [--faults=100] [--minutes=4] [--processes=4]

Stopped at any time, it goes on with what --folder holds. Ends with 1 where something was not as
promised. --plant makes the run leave a batch out when it goes on: the soak must find that.
"""

import dataclasses
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from absl import flags
from soaking import faults, record
from soaking.processes import ROOT, Place, Processes
from soaking.record import Injected, Record

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.files import records, run_names

_FOLDER = flags.DEFINE_string("folder", None, "keeps the runs and what was seen of them")
_FAULTS = flags.DEFINE_integer("faults", 100, "how many, of all kinds together", 1)
_MINUTES = flags.DEFINE_float("minutes", None, "after which no further fault is put in")
_PROCESSES = flags.DEFINE_integer("processes", 4, "of the run", 1)
_STEPS = flags.DEFINE_integer("steps", 400, "of a lap; the next one begins anew", 1)
_SEED = flags.DEFINE_integer("seed", 0, "of kinds and moments")
_KINDS = flags.DEFINE_list("kinds", None, "of faults; None: all")
_PLANT = flags.DEFINE_boolean("plant", False, "a mistake that the soak must find")
_START_SECONDS = 240.0  # to the first step, on a machine that does other things too
_END_SECONDS = 600.0


def main() -> int:
    folder = Path(jaxsft_flags.given(_FOLDER)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "soak.json"
    known = records.read(Record, file)
    shim = _shim(folder)
    kinds = faults.all_of()
    if shim is None:
        print("no C compiler: read errors are left out", flush=True)
        del kinds["read errors"]
    if _KINDS.value:
        kinds = {name: kinds[name] for name in _KINDS.value}
    reference = _reference(folder, shim)
    until = time.monotonic() + 60 * (_MINUTES.value or float("inf"))
    while True:
        more = len(known.faults) < _FAULTS.value and time.monotonic() < until
        if not more and not _place(folder, f"lap{len(known.laps)}", shim).workdir.exists():
            break
        _start(folder, shim, known, kinds if more else {}, reference)
        records.write(file, known)
        if any(one.kind == "none" for one in known.faults):
            break  # it failed undisturbed, and would again
    print(record.table(known))
    print(f"{len(known.faults)} faults, {known.starts} starts, {len(known.laps)} laps to their end")
    for line in known.wrong:
        print(f"WRONG: {line}")
    return 1 if known.wrong else 0


def _shim(folder: Path) -> Path | None:
    """What makes reads fail, compiled; None: no compiler."""
    compiler, made = shutil.which("cc"), folder / "read_errors.so"
    if compiler is None:
        return None
    source = ROOT / "tools/soaking/read_errors.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"]
    subprocess.run(command, check=True)
    return made


def _place(folder: Path, name: str, shim: Path | None) -> Place:
    flags_of_run = (
        f"--config={ROOT}/configs/debug.py",
        *("--config.eval.prompts=0", "--config.eval.every_steps=None"),
        *(f"--config.train.steps={_STEPS.value}", "--config.checkpoint.save_every_steps=20"),
        "--config.data.eval=[]",
        *("--lost_seconds=8", "--hang_seconds=10"),
        # For those that wait for one which a fault has met before it came.
        f"--connect_seconds={faults.CONNECT_SECONDS}",
    )
    place = Place(folder / f"{name}.soak", folder / name, flags_of_run, shim)
    place.folder.mkdir(exist_ok=True)
    return place


def _reference(folder: Path, shim: Path | None) -> dict[str, object]:
    """What the undisturbed run ends with."""
    place = _place(folder, "reference", shim)
    if not (place.workdir / run_names.SUMMARY).exists():
        processes = Processes(place, _PROCESSES.value, 0)
        ended = processes.wait(_START_SECONDS + _STEPS.value)
        if not ended or any(processes.codes()):
            processes.kill()
            sys.exit(f"the undisturbed run failed:\n{processes.said()}")
    return _result(place)


def _result(place: Place) -> dict[str, object]:
    digest = hashlib.sha256()
    for file in sorted((place.workdir / run_names.EXPORT).glob("*.safetensors")):
        digest.update(file.read_bytes())
    lines = map(json.loads, (place.workdir / run_names.METRICS).read_text().splitlines())
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    return {"export": digest.hexdigest(), "losses": losses}


def _start(
    folder: Path,
    shim: Path | None,
    known: Record,
    kinds: dict[str, faults.Fault],
    reference: dict[str, object],
) -> None:
    """One start of the run, until a fault ends it or it comes to its end, and the lap with it.

    Args:
        kinds: of faults; empty: it is left alone.
    """
    place = _place(folder, f"lap{len(known.laps)}", shim)
    faults.forget(place)
    if _PLANT.value:
        (place.folder / "plant").touch()
    chance = random.Random(f"{_SEED.value} {known.starts}")
    processes = Processes(place, _PROCESSES.value, known.starts)
    known.starts += 1
    before = len(known.faults)
    try:
        while kinds and _comes_to_a_moment(place, processes, chance):
            kind = _rarest(known, kinds, chance)
            injected = _inject(kind, kinds[kind], place, processes, chance, len(known.laps))
            known.faults.append(injected)
            print(f"{len(known.faults)}: {dataclasses.asdict(injected)}", flush=True)
            if injected.seconds or injected.wrong:
                return
        if processes.wait(_END_SECONDS):
            _end(place, processes, known, reference, disturbed=len(known.faults) > before)
        else:
            known.faults.append(Injected("none", len(known.laps), place.step(), wrong="no end"))
            print(processes.said(), flush=True)
    finally:
        processes.kill()


def _comes_to_a_moment(place: Place, processes: Processes, chance: random.Random) -> bool:
    """Waits for one that is as good as any other; whether the run came to it.

    Each third one lies anywhere in the next seconds, while the run may start or end.
    """
    if chance.random() < 1 / 3:
        return not processes.wait(chance.uniform(0.0, 20.0), least=1)
    step = place.step() + chance.randint(1, 60)
    return step < _STEPS.value and processes.wait_for_step(step, _START_SECONDS)


def _rarest(known: Record, kinds: dict[str, faults.Fault], chance: random.Random) -> str:
    counts = known.counts()
    least = min(counts[kind] for kind in kinds)
    return chance.choice([kind for kind in kinds if counts[kind] == least])


def _inject(
    kind: str,
    fault: faults.Fault,
    place: Place,
    processes: Processes,
    chance: random.Random,
    lap: int,
) -> Injected:
    step, since = place.step(), time.monotonic()
    out = fault.do(processes, chance)
    if fault.seconds is None:
        fault.undo(processes)
        if all(code is None for code in processes.codes()):
            return Injected(kind, lap, step)  # it goes on; another start has the next fault
    ended = processes.wait(fault.seconds or 60, out)
    seconds = time.monotonic() - since
    wrong = "" if ended else f"not ended after {seconds:.0f} s"
    processes.kill()  # what was stopped or has not ended
    fault.undo(processes)
    codes = processes.codes()
    others = [code for number, code in enumerate(codes) if number not in out]
    if not wrong and any(code not in (faults.DONE, *fault.codes) for code in others):
        wrong = f"exit codes {codes}"
    if wrong:
        print(processes.said(), flush=True)
    return Injected(kind, lap, step, seconds, codes, wrong)


def _end(
    place: Place,
    processes: Processes,
    known: Record,
    reference: dict[str, object],
    disturbed: bool,
) -> None:
    """Compares a lap that came to its end; one that ended otherwise is started again.

    Args:
        disturbed: by a fault in this start, which may have led to what can't be mended.
    """
    codes = processes.codes()
    if all(code == faults.DONE for code in codes):
        found = _result(place)
        wrong = [name for name in reference if found[name] != reference[name]]
        known.laps.append(f"{', '.join(wrong)} not as undisturbed" if wrong else "")
        print(f"a lap ended: {known.laps[-1] or 'as the undisturbed run'}", flush=True)
        if not wrong:
            faults.clear(place)
    elif any(code not in (*faults.AGAIN, *(faults.REFUSED * disturbed)) for code in codes):
        known.faults.append(Injected("none", len(known.laps), place.step(), 0.0, codes, "ended"))
        print(processes.said(), flush=True)


if __name__ == "__main__":
    jaxsft_flags.run_tool(main, required=("folder",))
