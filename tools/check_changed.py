"""Checks the types of the changed files, and runs the tests that lie nearest to them.

python tools/check_changed.py [--since=REF] [--seconds=45] [--list]

Changed is what git sees beside the last commit, or beside REF. Near is a test that reaches a
changed file over few imports. When the time is up, it says how many files of tests have not run.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from imports import graph

from jaxsft.cli import flags as jaxsft_flags

ROOT = Path(__file__).resolve().parent.parent
_SINCE = flags.DEFINE_string("since", "HEAD", "commit that the files are compared with")
_SECONDS = flags.DEFINE_integer("seconds", 45, "after which no test is started or waited for", 1)
_LIST = flags.DEFINE_bool("list", False, "print the tests, the nearest first, and run none")
_NO_TESTS = 5  # pytest's code where all tests of the files are deselected
_START_SECONDS = 3  # of pytest: with fewer left, it is not started again
_LEAVE_SECONDS = 5


def main() -> int:
    changed = [file for file in _changed(_SINCE.value) if (ROOT / file).is_file()]
    arrows = graph.arrows(ROOT)
    groups = graph.groups(changed, arrows)
    if _LIST.value:
        print("\n".join(file for group in groups for file in group))
        return 0
    if not changed:
        print(f"nothing has changed since {_SINCE.value}")
        return 0
    types = _check_types(graph.to_type_check(changed, arrows))
    failed = _run_tests(groups, time.monotonic() + _SECONDS.value)
    return failed or types.wait()


def _changed(since: str) -> list[str]:
    beside = ["git", "diff", "--name-only", since]
    new = ["git", "ls-files", "--others", "--exclude-standard"]
    found = [subprocess.run(c, cwd=ROOT, capture_output=True, text=True) for c in (beside, new)]
    for one in found:
        if one.returncode:
            raise SystemExit(one.stderr)
    return sorted({line for one in found for line in one.stdout.splitlines()})


def _check_types(files: Sequence[str]) -> subprocess.Popen:
    program = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *files]
    return subprocess.Popen(program if files else ["true"], cwd=ROOT)


def _run_tests(groups: Sequence[Sequence[str]], deadline: float) -> int:
    """Returns the exit code of the first group that fails."""
    for number, group in enumerate(groups):
        left = deadline - time.monotonic()
        code = _pytest(group, left) if left > _START_SECONDS else None
        if code is None:
            late = [file for group in groups[number:] for file in group]
            print(f"the time is up; not run, or not to the end: {len(late)} files: {late[0]} ...")
            return 0
        if code not in (0, _NO_TESTS):
            return code
    return 0


def _pytest(files: Sequence[str], seconds: float) -> int | None:
    """Its exit code; None where the time was up before its end and no test had failed."""
    alone = ["-n", "0"] if len(files) == 1 else []
    command = [sys.executable, "-m", "pytest", "-x", "--durations=0", *alone, *files]
    # What one check has compiled, the next one finds: the keys are the programs themselves.
    env = {"JAXSFT_TEST_COMPILE_CACHE": str(ROOT / ".pytest_cache" / "jax")} | os.environ
    with subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return None


def _end(process: subprocess.Popen) -> None:
    """Lets it take its temporary files away; then the programs that its tests started end too."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LEAVE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    jaxsft_flags.run_tool(main)
