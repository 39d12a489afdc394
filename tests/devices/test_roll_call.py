"""Processes that wait for each other know who has not come, and take no stranger's word."""

import contextlib
import socket
import time

import pytest

from jaxsft.devices import roll_call
from jaxsft.devices.coordinator import Place
from jaxsft.devices.roll_call import RollCall


@pytest.fixture
def address(monkeypatch):
    """Where a coordinator listens, which nobody is for datagrams yet."""
    monkeypatch.setattr(roll_call, "_EVERY_SECONDS", 0.05)
    with socket.create_server(("localhost", 0)) as server:
        yield f"localhost:{server.getsockname()[1]}"


def soon(call: RollCall, missing: str) -> bool:
    until = time.monotonic() + 20
    while call.missing() != missing and time.monotonic() < until:
        time.sleep(0.02)
    return call.missing() == missing


@contextlib.contextmanager
def taken(address: str, count: int, *numbers: int):
    with contextlib.ExitStack() as stack:
        calls = [RollCall(lambda n=n: Place(n, count, address)) for n in numbers]
        yield [stack.enter_context(call.taken()) for call in calls]


@pytest.mark.parametrize(
    ("count", "numbers", "missing"),
    [
        (3, (0, 2), "process 1"),
        (6, (0, 2, 4), "processes 1, 3 and 5"),
        (2, (0, 1), ""),
        (2, (0,), "process 1"),
    ],
)
def test_all_that_came_know_who_did_not(count, numbers, missing, address):
    with taken(address, count, *numbers) as calls:
        assert all(soon(call, missing) for call in calls)


def test_of_many_the_first_are_named(address):
    with taken(address, 40, 0, 1) as calls:
        named = ", ".join(map(str, range(2, 22)))
        assert all(soon(call, f"processes {named} and 18 more") for call in calls)


def test_one_that_went_again_is_missing(address, monkeypatch):
    monkeypatch.setattr(roll_call, "_AWAY_SECONDS", 1.0)
    with taken(address, 3, 0, 1) as (call, _):
        with taken(address, 3, 2):
            assert soon(call, "")
        assert soon(call, "process 2")


def test_where_no_datagram_comes_through_nobody_is_named(address):
    with taken(address, 3, 2) as (call,):
        time.sleep(0.3)
        assert call.missing() == ""  # its coordinator answers, so it is there
    with taken(address, 3, 0) as (call,):
        time.sleep(0.3)
        assert call.missing() == ""
    with socket.create_server(("localhost", 0)) as closed:
        nobody = f"localhost:{closed.getsockname()[1]}"
    with taken(nobody, 3, 2) as (call,):
        assert soon(call, "process 0")
    with RollCall(lambda: None).taken() as call:
        assert call.missing() == ""


def test_a_strangers_datagrams_change_nothing(address):
    with taken(address, 3, 0, 2) as (first, other):
        assert soon(first, "process 1")
        host, _, port = address.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for text in (
                b"",
                b"\xff",
                b"[]",
                b"[3, 1]",
                b"[3, [7, -1]]",
                b"[4, [1]]",
                b"[3, [[]]]",
            ):
                stranger.sendto(text, (socket.gethostbyname(host), int(port)))
        time.sleep(0.3)
        assert first.missing() == other.missing() == "process 1"
