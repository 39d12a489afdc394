"""error.json: why a run failed, for the program that started it."""

import dataclasses
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsft import errors
from jaxsft.devices import peers
from jaxsft.files import records, run_names
from jaxsft.files.whole_files import write_text
from jaxsft.terminal.redact import redacted_values


@dataclasses.dataclass(frozen=True)
class FailureRecord:
    exit_code: int = errors.INTERNAL
    kind: str = ""  # the name of the error's class
    message: str = ""
    where: str = ""  # process, host, phase and step
    traceback: str = ""


def write(directory: Path, error: BaseException) -> None:
    """Writes it, but where the process that failed may have done so, for those that heard of it."""
    if isinstance(error, errors.PeerError) and (directory / run_names.ERROR).exists():
        return
    code = error.exit_code if isinstance(error, errors.UserError) else errors.INTERNAL
    trace = "".join(traceback.format_exception(error))
    value = records.to_json(
        FailureRecord(code, type(error).__name__, str(error), peers.here(error), trace)
    )
    write_text(directory / run_names.ERROR, json.dumps(redacted_values(value), indent=2) + "\n")


def from_json(value: Mapping[str, Any]) -> FailureRecord:
    return records.from_json(FailureRecord, value)
