"""Every hint and check costs time in proportion to what it looks at: no text can hang it."""

import gc
import json
import time

import numpy as np
import pytest

from jaxsft.data.conversation import Conversation, Message, RawRow
from jaxsft.data.encode.account import Outcome
from jaxsft.data.encode.tokenize import Example
from jaxsft.data.quality import hints, measures, near_duplicates, row_statistics
from jaxsft.data.read import formats
from jaxsft.data.report import inspect
from jaxsft.terminal.redact import redacted

DOUBLING = 2.7  # the most that twice the input may cost; what is quadratic costs 4
TIMES = 16  # four doublings: what is quadratic costs 256 times as much, far beyond any noise


def cpu_seconds(work, given):
    times = []
    for _ in range(3):
        start = time.process_time()
        work(given)
        times.append(time.process_time() - start)
    return min(times)


@pytest.fixture(autouse=True)
def _without_collections():
    """A collection looks at all objects of the process, however small the work is."""
    gc.disable()
    yield
    gc.enable()


def grows(work, make, size):
    """By how much each doubling multiplies the time, from `size` on."""
    small, large = make(size), make(TIMES * size)
    work(small)  # what is made once is made
    floor = 2e-4  # seconds: the clock, and what any call costs
    ratio = cpu_seconds(work, large) / max(cpu_seconds(work, small), floor)
    return ratio ** (1 / 4)


def talk(*contents):
    roles = ("user", "assistant") * len(contents)
    said = (Message(role, text) for role, text in zip(roles, contents, strict=False))
    return Conversation(tuple(said), None, "a.jsonl", 1)


# What each pattern could read over and over: its letters, and the beginnings of a match.
PIECES = (
    *("a1", "a.", "_", "a@", "@", "a@a.", "@a.", "+1", "(1", "1.", "0 11 ", "202-456-", "1 "),
    *("A1", "DE89 ", "4111 ", "4111 1111 1111 1112 ", "1.1.1.1a", "93.184.216.", "sk-", "AKIA"),
    *("hf_", "xoxb-", "-----BEGIN A", "<|a", "&#1", "### ", "\n\nHuman:", "```", "\n", " ", "â€"),
    *("Ã", "\ufffd", "\x07", "中", "Hello. word ", "a, "),
)


@pytest.mark.parametrize("end", ["", "\n@property x", "!@a.bc"])
def test_hints(end):
    def worst(make):
        return max(
            (grows(lambda r: list(hints.of_conversation(r)), make(p), 4000), p) for p in PIECES
        )

    def repeated(piece):
        return lambda size: talk("q", piece * (size // len(piece)) + end)

    ratio, piece = worst(repeated)
    assert ratio < DOUBLING, repr(piece)


def example(size):
    weights = np.resize(np.array([0, 0, 1, 1], np.float32), size)
    return Example(np.resize(np.arange(9, 200, dtype=np.int32), size), weights, "f", 1, ())


def outcome(size=4):
    return Outcome("f", 1, (example(size),))


def gathered(number):
    part = row_statistics.shard_facts([talk("a", "b")] * 50, [outcome()] * 50)

    def gather(_):
        gathering = row_statistics.Gathering()
        for _ in range(number):
            gathering.add(part)
        assert len(gathering.merged()) == 50 * number

    return gather


def rows(size):
    said = [talk(f"q{i // 2}", "w " * 20 + str(i // 3)) for i in range(size)]
    return row_statistics.shard_facts(said, [outcome()] * size)


def raw(value):
    return RawRow("f", 1, value if isinstance(value, bytes) else json.dumps(value).encode())


def with_calls(size):
    calls = [{"name": f"f{i}"} for i in range(size)]
    tools = [{"name": f"f{i}", "parameters": {"required": []}} for i in range(size)]
    said = {"role": "assistant", "tool_calls": calls}
    return raw({"messages": [said], "tools": tools})


def with_parts(size):
    parts = [{"type": "text", "text": "ab", "train": bool(i % 2)} for i in range(size)]
    return raw({"messages": [{"role": "assistant", "content": parts}]})


def twice(size):
    """A key that stands twice, the last of many."""
    return raw(("{" + "".join(f'"k{i}": 1,' for i in range(size)) + f'"k{size - 1}": 2}}').encode())


def read(row):
    return formats.record_of(row, "messages", {})


CHECKS = {
    "facts of turns": (
        lambda r: row_statistics.shard_facts([r], [outcome()]),
        lambda n: talk(*"ab" * n),
        300,
    ),
    "facts of shards": (lambda gather: gather(None), gathered, 64),
    "quality": (measures.quality_of, rows, 200),
    "overlap": (lambda f: measures.overlap_of(f, f), rows, 200),
    "near duplicates of words": (near_duplicates.signatures, lambda n: ["a b "] * n, 500),
    "near duplicates of a text": (near_duplicates.signatures, lambda n: ["a1@" * n], 4000),
    "near duplicates of ids": (near_duplicates.signatures, lambda n: [np.arange(n)], 4000),
    "redaction": (redacted, lambda n: "eyJsk-" * n, 1000),
    "calls": (read, with_calls, 200),
    "parts": (read, with_parts, 300),
    "keys": (read, lambda n: raw({f"k{i}": 1 for i in range(n)}), 500),
    "a key twice": (read, twice, 500),
    "roles": (read, lambda n: raw({"messages": [{"role": "user", "content": "a"}] * n}), 300),
    "a role of many letters": (read, lambda n: raw({"messages": [{"role": "a" * n}]}), 20000),
}


@pytest.mark.parametrize("work, make, size", CHECKS.values(), ids=CHECKS)
def test_checks(work, make, size):
    assert grows(work, make, size) < DOUBLING


@pytest.mark.parametrize("is_terminal", [False, True])
def test_inspection(tokenizer, is_terminal):
    def show(given):
        inspect.example_text(given, tokenizer, is_terminal)

    assert grows(show, example, 200) < DOUBLING
