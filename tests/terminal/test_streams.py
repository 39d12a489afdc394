"""Printing never stops a program: readers go away, disks fill, terminals lack a glyph."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from jaxsft.terminal import streams
streams.protect()
{}
for number in range(3000):
    print("line", number, "\u2192 done")
with open(sys.argv[1], "w") as file:
    file.write("went on")
"""


def run(tmp_path, redirect, extra=""):
    script, done = tmp_path / "script.py", tmp_path / "done"
    script.write_text(SCRIPT.format(extra))
    words = f"({sys.executable} {script} {done}; echo $? >{tmp_path}/code) {redirect}"
    ended = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    code = int((tmp_path / "code").read_text())
    return code, done.is_file(), ended.stderr


@pytest.mark.parametrize(
    ("redirect", "said"),
    [
        ("| head -1", "stdout can't be written (Broken pipe); the program goes on"),
        (">/dev/full", "stdout can't be written (No space left on device)"),
        (">&-", ""),
        (">&- 2>&-", ""),
        ("2>/dev/full | head -1", ""),
    ],
)
def test_a_program_goes_on_without_its_readers(tmp_path, redirect, said):
    code, went_on, stderr = run(tmp_path, redirect)
    assert (code, went_on) == (0, True)
    assert said in stderr and "Traceback" not in stderr and "Exception" not in stderr


def test_a_program_that_only_prints_ends_with_its_reader(tmp_path):
    code, went_on, stderr = run(tmp_path, "| head -1", "streams.end_when_lost()")
    assert (code, went_on, stderr) == (0, False, "")


def test_what_libraries_log_shows_no_secret(tmp_path):
    """They warn of a request that they try again, with its whole URL."""
    log = "import logging; logging.getLogger('http').warning('retrying h://h/a?token=%s', 'ab')"
    _, _, stderr = run(tmp_path, "| cat >/dev/null", log)
    assert stderr == "retrying h://h/a?token=***\n"


def test_a_glyph_that_the_terminal_lacks_is_spelt(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from jaxsft.terminal import streams\nstreams.protect()\nprint('a \\u2192 b')\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", str(script)],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "a \\u2192 b\n" and done.returncode == 0, done.stderr
