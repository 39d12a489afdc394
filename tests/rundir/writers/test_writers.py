"""Every writer of a run hears the same, and resuming leaves what an unbroken run would have."""

from jaxsft.rundir.writers.history import History
from jaxsft.rundir.writers.writer import Writers


class Dashboard:
    """A writer as those to come: it keeps the newest value of each figure of each step."""

    def __init__(self):
        self.values: dict[tuple[int, str], float] = {}
        self.is_open = True

    def append(self, line):
        self.values |= {(line["step"], k): v for k, v in line.items() if k != "step"}

    def resume(self, step):
        kept = [key for key in self.values if step is not None and key[0] <= step]
        self.values = {key: self.values[key] for key in kept}

    def close(self):
        self.is_open = False


def write(writers: Writers, first: int, last: int) -> None:
    for step in range(first, last + 1):
        writers.append({"step": step, "loss": float(step)})
    writers.append_last({"step": last, "eval/held/loss": 2.0 * last})


def test_a_killed_run_that_goes_on_has_the_lines_of_an_unbroken_one(tmp_path):
    whole = Writers(History(tmp_path / "whole.jsonl"), (Dashboard(),))
    whole.append({"step": 0, "eval/held/loss": 9.0})
    write(whole, 1, 6)
    broken = Writers(History(tmp_path / "broken.jsonl"), (Dashboard(),))
    broken.append({"step": 4, "loss": 7.0})
    broken.resume(None)  # of an earlier run in the same place
    broken.append({"step": 0, "eval/held/loss": 9.0})
    for step in (1, 2, 3, 4, 5):
        gone = {"loss/gone": 1.0} if step > 3 else {}  # a source that goes on without an example
        broken.append({"step": step, "loss": float(step)} | gone)
    broken.resume(3)
    write(broken, 4, 6)
    broken.resume(6)  # started again at its end, it evaluates again
    broken.append_last({"step": 6, "eval/held/loss": 12.0})
    assert broken.history.read() == whole.history.read()
    assert broken.others[0].values == whole.others[0].values
    assert len(whole.history.read()) == 8


def test_all_are_closed(tmp_path):
    writers = Writers(History(tmp_path / "metrics.jsonl"), (Dashboard(), Dashboard()))
    writers.close()
    assert not any(one.is_open for one in writers.others)
