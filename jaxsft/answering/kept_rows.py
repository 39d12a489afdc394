"""The file of rows that grows, and beside it what became of each prompt: so a run goes on.

rows.jsonl         a row to train on a line
rows.jsonl.asked   the settings, then a line for each prompt that is done, with what was left out

A prompt is done when its line is there, which is written after its rows: rows of a prompt without
one were written by a run that was killed, and are taken away at the next start.
"""

import collections
import dataclasses
import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from jaxsft.errors import ConfigError, DataError
from jaxsft.files import places

BESIDE = ".asked"  # behind the output's name: a pattern such as *.jsonl must not find it
PROVENANCE = "answered_by"  # the column of a row that says whose answer it is


@dataclasses.dataclass
class Totals:
    """Of all starts together."""

    prompts: int = 0
    answers: int = 0
    kept: int = 0
    tokens: int = 0
    seconds: float = 0.0
    without_row: int = 0  # prompts
    left: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, line: Mapping[str, Any]) -> None:
        self.prompts += 1
        self.answers += line["answers"]
        self.kept += len(line["kept"])
        self.tokens += line["tokens"]
        self.seconds += line["seconds"]
        self.without_row += not line["kept"]
        self.left.update(one["why"] for one in line["left"])


class KeptRows:
    """Open until it is closed; one process at a time has it.

    Attributes:
        run: a name of the file's own, the same at each start.
        done: keys of the prompts that are.
        mended: what was taken away, in words; None: nothing was.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]):
        """
        Args:
            settings: that decide what is written.

        Raises:
            ConfigError: another process has it; it was begun with other settings, or is no file
                of this program.
        """
        self._output, self._name = output, f"--output={output}"
        self._beside = output.with_name(output.name + BESIDE)
        self.run = uuid.uuid4().hex[:12]
        self.done: set[str] = set()
        self.totals = Totals()
        self.mended: str | None = None
        places.refuse_other_encoding(str(output), self._name)
        refuse_other(output)
        with places.using(self._name, output):
            output.parent.mkdir(parents=True, exist_ok=True)
            self._asked = self._beside.open("a+b")
        try:
            self._lock()
            with places.using(self._name, output):
                self._read(settings)
                self._mend()
                self._rows = output.open("a+b")
                self._end_last_line()
        except BaseException:
            self._asked.close()
            raise

    def close(self) -> None:
        self._rows.close()
        self._asked.close()

    def add(self, rows: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> None:
        """Writes what some prompts gave: first their rows, then that they are done."""
        with places.using(self._name, self._output):
            _append(self._rows, rows)
            _append(self._asked, lines)
        for line in lines:
            self._know(line)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._asked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self._name}: another process is writing it; wait for its end, or name another"
            ) from None
        except OSError:  # a file system without locks
            pass

    def _know(self, line: Mapping[str, Any]) -> None:
        self.done.add(line["prompt"])
        self.totals.add(line)

    def _read(self, settings: Mapping[str, Any]) -> None:
        self._asked.seek(0)
        whole = 0
        for number, line in enumerate(self._asked, 1):
            if not line.endswith(b"\n"):
                break
            self._read_line(number, line, settings)
            whole += len(line)
        self._asked.truncate(whole)
        if not whole:
            _append(self._asked, [{"run": self.run, "settings": settings}])

    def _read_line(self, number: int, line: bytes, settings: Mapping[str, Any]) -> None:
        try:
            value = json.loads(line)
            if number == 1:
                before, self.run = dict(value["settings"]), str(value["run"])
            else:
                before = None
                self._know(value)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DataError(
                f"{self._beside}:{number}: is no line of this program; bring the file back as it"
                " was, or name another --output"
            ) from None
        if before is not None and before != json.loads(json.dumps(settings)):
            raise ConfigError(f"{self._name}: {_changed(before, settings)}")

    def _mend(self) -> None:
        """Takes away rows of prompts that are not done, and a last line that was cut."""
        if not self._output.exists():
            return
        gone = sum(map(self._unfinished, _lines(self._output)))
        if not gone:
            return
        partial = self._output.with_name(f"{self._output.name}{BESIDE}.partial")
        try:
            with partial.open("wb") as file:
                for line in _lines(self._output):
                    if not self._unfinished(line):
                        file.write(line.rstrip(b"\n") + b"\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._output)
        finally:
            partial.unlink(missing_ok=True)
        self.mended = (
            f"{gone} of its last lines were of prompts that were not finished, which are asked anew"
        )

    def _end_last_line(self) -> None:
        """Of a file that an editor left without a last line break."""
        self._rows.seek(max(self._rows.seek(0, os.SEEK_END) - 1, 0))
        if self._rows.read() not in (b"", b"\n"):
            self._rows.write(b"\n")

    def _unfinished(self, line: bytes) -> bool:
        """Whether this run wrote it, for a prompt that is not done; others' lines stay."""
        try:
            by = json.loads(line)[PROVENANCE]
            return by["run"] == self.run and by["prompt"] not in self.done
        except (ValueError, LookupError, TypeError):
            return not line.endswith(b"\n") and not _is_json(line)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def refuse_other(output: Path) -> None:
    """
    Raises:
        ConfigError: there is such a file, and nothing says that this program began it.
    """
    beside = output.name + BESIDE
    if output.exists() and not output.with_name(beside).exists():
        raise ConfigError(
            f"--output={output}: is there already, and no {beside} beside it, which this program"
            " writes; name another file"
        )


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _append(file: IO[bytes], values: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    file.write(text.encode("utf-8", "backslashreplace"))
    file.flush()
    os.fsync(file.fileno())


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in (*before, *now) if before.get(name) != now.get(name)]
    said = [f"{n} was {before.get(n)!r} and is {now.get(n)!r}" for n in dict.fromkeys(names)]
    return (
        f"was begun with other settings: {'; '.join(said)}; go back to them, or name another file"
    )
