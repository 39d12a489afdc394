"""A run on one machine can be reached from that machine alone."""

import ipaddress
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxsft.devices.listening import bind_address
from tests.devices.test_distributed import finish, start
from tests.faults import fault

LISTENS = "0A"


@pytest.mark.parametrize(
    "address, bound",
    [
        ("localhost:8476", "localhost:8476"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("127.3.2.1:1", "127.3.2.1:1"),
        ("[::1]:9", "[::1]:9"),
        ("10.1.2.3:8476", None),
        ("[fd00::1]:8476", None),
        ("localhost.example.org:8476", None),
        ("host-0.headless:8476", None),
        (None, None),
    ],
)
def test_the_coordinator_listens_beyond_this_machine_only_for_others(address, bound):
    assert bind_address(address) == bound


def listeners(pid: int) -> Iterator[str]:
    """Address of each socket on which a process listens, by Linux's own tables."""
    folder = Path(f"/proc/{pid}")
    try:
        links = [str(link.readlink()) for link in (folder / "fd").iterdir()]
        tables = [(folder / "net" / name).read_text() for name in ("tcp", "tcp6")]
    except OSError:  # it has ended
        return
    for line in (line for table in tables for line in table.splitlines()[1:]):
        fields = line.split()
        if fields[3] == LISTENS and f"socket:[{fields[9]}]" in links:
            address = fields[1].partition(":")[0]
            words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
            found = ipaddress.ip_address(b"".join(words))
            yield str(getattr(found, "ipv4_mapped", None) or found)


def family(pid: int) -> list[int]:
    """A process and those that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


@fault(
    "models and security",
    "another machine that tries to reach a run of this one",
    "nothing of it listens but on the loopback address; gloo, which adds up what CPUs computed, on"
    " the address that the host's own name has",
    lost="nothing",
    code="goes on",
)
@pytest.mark.slow
def test_processes_of_one_machine_listen_on_loopback_alone(tmp_path):
    processes = start(tmp_path, 2, "--config.train.steps=2")
    seen = set[str]()
    while any(process.poll() is None for process in processes):
        seen.update(
            one for process in processes for pid in family(process.pid) for one in listeners(pid)
        )
        time.sleep(0.2)
    assert [code for code, _, _ in finish(processes)] == [0, 0]
    own = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None)}
    beyond = {one for one in seen if not ipaddress.ip_address(one).is_loopback}
    assert seen and beyond <= own
    if "127.0.0.1" in own:
        assert not beyond
