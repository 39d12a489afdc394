"""A process that fails where the others wait for it inside a library takes them along at once."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest

from jaxsft import errors
from jaxsft.devices import coordinator, peers
from tests.faults import fault

# The one that does not fail waits in a collective, where no exception reaches it.
PROGRAM = """
import sys
from pathlib import Path
from jaxsft import errors
from jaxsft.devices import distributed, peers

address, me, failing, folder = sys.argv[1], *map(int, sys.argv[2:4]), Path(sys.argv[4])
distributed.connect(address, 2, me, 60, print)
distributed.gather({"both": "are there"})

def write(error):
    (folder / f"left{me}").write_text(str(error))

with peers.listening(write, peers.Patience()) as listener:
    try:
        if me == failing:
            raise [errors.DataError, RuntimeError][me]("row 7 is cut")
        distributed.gather({})
    except BaseException as error:
        listener.leave(error)
"""


@fault(
    "processes",
    "one process fails by itself, in a step or a write",
    "the others end within seconds, with its words",
    lost="the steps since the last checkpoint",
    code="its own, or 76",
)
@pytest.mark.parametrize(
    ("failing", "codes"),
    [(0, [errors.BAD_DATA, errors.BAD_DATA]), (1, [errors.LOST_PEER, errors.INTERNAL])],
)
def test_the_others_end_within_seconds_with_its_words(failing, codes, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-c", PROGRAM, address]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen(
            [*command, str(number), str(failing), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    ended = []
    said = []
    for process in processes:
        said.append(process.communicate(timeout=120)[1])
        ended.append(time.monotonic())
    assert [process.returncode for process in processes] == codes, said
    assert abs(ended[0] - ended[1]) < 20  # jax takes a minute and more
    other = 1 - failing
    assert f"error: process {failing} (host" in said[other] and "row 7 is cut" in said[other]
    assert "row 7 is cut" in (tmp_path / "left0").read_text()
    assert "row 7 is cut" in (tmp_path / "left1").read_text()


def test_a_process_says_who_it_is_before_anything_else(monkeypatch):
    put = []
    monkeypatch.setattr(peers.jax, "process_count", lambda: 2)
    monkeypatch.setattr(peers.jax, "process_index", lambda: 1)
    monkeypatch.setattr(coordinator, "put", lambda key, text: put.append((key, text)))
    monkeypatch.setattr(coordinator, "below", lambda folder: {})
    monkeypatch.setattr(coordinator, "instead_of_aborting", lambda act: contextlib.nullcontext())
    with peers.Peers(lambda error: None, peers.Patience())._threads():
        (key, text) = put[0]
        assert "/1/" in key and socket.gethostname() in text
