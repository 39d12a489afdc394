"""How the processes of a run find each other, and agree on what they do.

P: process.
"""

import contextlib
import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxsft import errors
from jaxsft.config import Config, to_dict
from jaxsft.devices import gpu_memory, joining, listening, peers
from jaxsft.errors import ConfigError, PeerError, UserError, known_to_all
from jaxsft.files import places
from jaxsft.terminal import signals

Result = TypeVar("Result")
# jax has no public way to ask whether there is a cluster: without one, `initialize` says this.
_ALONE = "coordinator_address should be defined"


def connect(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout_seconds: int,
    say: joining.SayLine,
    heartbeat_seconds: float = 100,
) -> None:
    """Joins the other processes of this run, or returns at once where there are none.

    Where the three arguments are None, jax looks for a TPU slice, Slurm, Open MPI or Kubernetes;
    one process by itself looks for nobody.

    Args:
        say: is told every ten seconds who is being waited for.
        heartbeat_seconds: after which jax itself aborts a process whose peers are silent.

    Raises:
        ConfigError: flags that don't fit each other, or a cluster that tells too little.
    """
    address = coordinator_address
    given = (address, num_processes, process_id)
    if given == (None, 1, None):
        return
    _check(*given)
    # Its handler would take the signals that `Termination` is for, and the step's vote is ours.
    jax.config.update("jax_enable_preemption_service", False)
    who = f"the {num_processes} processes" if num_processes else "the other processes"
    where = f" at {address}" if address else ""
    me = "" if process_id is None else f"; this is process {process_id}"
    with joining.saying(f"waiting for {who} of this run{where}{me}", timeout_seconds, say):
        try:
            jax.distributed.initialize(
                *given,
                initialization_timeout=2 * timeout_seconds,
                coordinator_bind_address=listening.bind_address(address),
                heartbeat_timeout_seconds=math.ceil(heartbeat_seconds),
                # Else Slurm would leave a process that was told its number only one of its GPUs.
                cluster_detection_method=None if address is None else "deactivate",
            )
        except ValueError as error:
            if given == (None, None, None) and _ALONE in str(error):
                return
            raise ConfigError(f"--coordinator_address, --num_processes: {error}") from None
        except RuntimeError as error:
            raise PeerError(
                f"this process could not join the others: {error}; --num_processes=1 trains alone"
            ) from error


def open_devices() -> str | None:
    """Makes jax take this machine's devices; what there is to say of GPUs' memory.

    Raises:
        ConfigError: another process holds the TPU.
    """
    share = gpu_memory.set_share()
    try:
        devices = jax.devices()
    except RuntimeError as error:
        if held := re.search(r"TPU is already in use by process with pid (\d+)", str(error)):
            raise ConfigError(
                f"the TPU of this host is in use by process {held[1]}: a TPU serves one process at"
                f" a time. End that one (kill {held[1]}), or wait for it"
            ) from None
        raise
    return share if devices[0].platform == "gpu" else None


def _check(address: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = {
        "coordinator_address": address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ConfigError(
            f"{' and '.join(missing)} missing; give all of --coordinator_address, --num_processes"
            " and --process_id, none of them where the cluster tells, or --num_processes=1 alone"
        )
    if address is not None and not address.rpartition(":")[2].isdigit():
        raise ConfigError(f"--coordinator_address={address}: expected host:port of process 0")
    if num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise ConfigError(
                f"--process_id={process_id}: must lie in [0, {num_processes}), as there are"
                f" --num_processes={num_processes}"
            )


def together(work: Callable[[], Result]) -> Result:
    """The result of `work`, which each process does for itself and which none needs others for.

    Every decision to go on, to fall back or to stop is made like this: one process that goes on
    alone waits for ever for those that did not.

    Raises:
        UserError: of this process or, naming it, of the first one that failed.
        PeerError: another process has failed in a way that no user can mend.
        Stopped: this process was stopped, or another one.
        FailedTogether: this one has.
    """
    if jax.process_count() == 1:
        return work()
    result: Any = None
    error: BaseException | None = None
    try:
        result = work()
    except BaseException as raised:  # a stop too: the others must not wait for this process
        error = signals.stop_behind(raised) or places.user_error(raised) or raised
    everyone = gather({"failed": None if error is None else peers.told(error)})
    if isinstance(error, UserError | errors.Stopped):
        raise known_to_all(error)
    if isinstance(error, Exception):
        raise errors.FailedTogether(f"process {jax.process_index()} failed") from error
    if error is not None:
        raise error
    failed = [(number, *one["failed"]) for number, one in enumerate(everyone) if one["failed"]]
    if failed:
        number, code, message = failed[0]
        raise known_to_all(errors.of_code(code)(f"process {number}: {message}"))
    return result


def first_then_others(work: Callable[[], Result]) -> Result:
    """The result of `work`, done by the first process and then by the others, which find its files.

    Raises:
        UserError, PeerError, FailedTogether: as together.
    """
    first = jax.process_index() == 0
    made = together(work if first else lambda: None)
    found = together(work if not first else lambda: None)
    result: Any = made if first else found
    return result


def of_first(work: Callable[[], Result]) -> Result:
    """What `work` gives on the first process, in JSON; the others don't do it.

    Raises:
        UserError, PeerError, FailedTogether: as together.
    """
    first = jax.process_index() == 0
    return gather({"result": together(work if first else lambda: None)})[0]["result"]


def arrays_of_first(work: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that `work` gives on the first process, on all of them; the others don't do it.

    Raises:
        UserError, PeerError, FailedTogether: as together.
    """
    made: dict[str, np.ndarray] = {}

    def describe() -> dict[str, Any]:
        made.update(work())
        return {name: [array.shape, str(array.dtype)] for name, array in made.items()}

    forms = of_first(describe)
    if jax.process_count() == 1:
        return made
    return {
        name: np.asarray(
            multihost_utils.broadcast_one_to_all(made.get(name, np.zeros(shape, dtype)))
        )
        for name, (shape, dtype) in forms.items()
    }


@contextlib.contextmanager
def scratch(parent: str | None) -> Iterator[Path]:
    """A directory that all processes of this run write to, gone at the end.

    Args:
        parent: a directory that all of them see; None: the temporary one of this machine.

    Raises:
        ConfigError: a process does not see what the first one made.
    """
    first = jax.process_index() == 0

    def make() -> str:
        with places.using(f"--scratch={parent}" if parent else "TMPDIR"):
            return tempfile.mkdtemp(prefix="jaxsft-", dir=parent)

    path = Path(of_first(make))
    try:
        everyone = gather({"sees": path.is_dir()})
        blind = [number for number, one in enumerate(everyone) if not one["sees"]]
        if blind:
            raise ConfigError(
                f"--scratch={parent}: processes {blind} do not see {path}, which process 0 made;"
                " name a directory that all hosts share"
            )
        yield path
        gather({"done": True})  # none still reads
    finally:
        if first:
            shutil.rmtree(path, ignore_errors=True)


def gather(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each process has to say, in JSON, by process."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths_P = np.ravel(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.zeros(int(lengths_P.max()), np.uint8)
    padded[: len(text)] = text
    texts = np.reshape(multihost_utils.process_allgather(padded), (len(lengths_P), -1))
    pairs = zip(texts, lengths_P, strict=True)
    return [json.loads(row[:length].tobytes()) for row, length in pairs]


def refuse_differences(facts: Mapping[str, Any]) -> None:
    """Compares what must be the same on all processes.

    Raises:
        ConfigError: naming each difference and the processes that have it.
    """
    if jax.process_count() == 1:
        return
    everyone = gather(facts)
    first = everyone[0]
    lines = [
        f"process {number} has {name}={theirs.get(name)!r}, process 0 has {first.get(name)!r}"
        for number, theirs in enumerate(everyone)
        for name in sorted(first.keys() | theirs.keys())
        if theirs.get(name) != first.get(name)
    ]
    if lines:
        more = f"\nand {len(lines) - 10} more" if len(lines) > 10 else ""
        raise known_to_all(
            ConfigError(
                "the processes of this run were started differently:\n"
                + "\n".join(lines[:10])
                + more
            )
        )


def facts(config: Config) -> dict[str, Any]:
    """What two processes of one run must have in common."""
    fields = _flat(to_dict(config), "config")
    return fields | {"the code of jaxsft": _code_digest(), "jax": jax.__version__}


def _code_digest() -> str:
    """Of all Python files of this package."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _flat(value: Any, name: str) -> dict[str, Any]:
    """Nested dictionaries and tuples as one dictionary of dotted names."""
    if isinstance(value, dict):
        items = [(f"{name}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {name: value}
    found: dict[str, Any] = {name: len(items)} if isinstance(value, list | tuple) else {}
    for inner, item in items:
        found |= _flat(item, inner)
    return found
