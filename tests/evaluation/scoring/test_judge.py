"""A judge behind a URL: what it is sent, what its words are worth, and what its failures cost."""

import json
from collections.abc import Iterator

import pytest

from jaxsft.config import Eval, scorers
from jaxsft.errors import ConfigError
from jaxsft.evaluation import endpoint
from jaxsft.evaluation.scoring import registry, scored
from jaxsft.evaluation.scoring.case import Case, NotScored, ScorerIsAway
from tests.chat_server import Server, said

KEY = "a-key-that-nobody-may-see"
CASE = Case("four", "4", {"messages": [{"role": "user", "content": "2 + 2?"}]})


def made(url: str, **fields) -> registry.Scorer:
    settings = scorers.Judge(url=url, model="m", **fields)
    return registry.scorers_of(Eval(prompts=1, scorers=(settings,)))[0]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> Iterator[list[float]]:
    waits: list[float] = []
    monkeypatch.setattr(endpoint.time, "sleep", waits.append)
    monkeypatch.setenv("JUDGE", KEY)
    yield waits


def test_it_is_sent_question_reference_and_answer_with_the_key():
    with Server(said("It is right.\nScore: 8")) as server:
        assert made(server.url + "/", key_variable="JUDGE").score(CASE) == 0.8
        assert made(server.url).score(CASE) == 0.8
    (path, headers, body), (_, without, _) = server.asked
    assert path == "/v1/chat/completions" and body["model"] == "m" and body["temperature"] == 0
    sent = json.dumps(body)
    assert all(one in sent for one in ("2 + 2?", "<reference>\\n4\\n", "<answer>\\nfour\\n"))
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in without and KEY not in sent


@pytest.mark.parametrize(
    ("text", "expected"),
    [("**Score: 10**", 1.0), ("score = 7.5/10", 0.75), ("Score: 1 ... no, Score: 0", 0.0)],
)
def test_the_last_score_counts(text, expected):
    with Server(said(text)) as server:
        assert made(server.url).score(CASE) == expected


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (said("Score: 11"), "no score from 0 to 10: 'Score: 11'"),
        (said("good"), "no score from 0 to 10: 'good'"),
        (said(None), "has no text"),
        ((200, "[]", {}), "no chat completion"),
        ((200, "[" * 100_000, {}), "no chat completion"),
        ((200, "<html>", {}), "no chat completion"),
    ],
)
def test_a_reply_without_a_score_is_none(reply, why):
    with Server(reply) as server:
        with pytest.raises(NotScored, match=why):
            made(server.url).score(CASE)
    assert len(server.asked) == 1


def test_what_may_pass_is_tried_again(no_waiting):
    busy = said("", status=429, Retry_After="7")
    with Server(busy, said("", status=503), said("Score: 5")) as server:
        assert made(server.url, retries=2).score(CASE) == 0.5
        assert no_waiting == [7.0, 2.0]
    with pytest.raises(ScorerIsAway, match="could not be asked: URLError"):
        made(server.url, retries=1).score(CASE)  # nobody is there any more
    assert no_waiting[2:] == [1.0]


def test_a_refusal_is_final_and_does_not_tell_the_key():
    with Server((401, f"wrong key {KEY}", {})) as server:
        with pytest.raises(ScorerIsAway, match=r"judge refused: HTTP 401 wrong key \*\*\*"):
            made(server.url, key_variable="JUDGE").score(CASE)
        assert len(server.asked) == 1


@pytest.mark.parametrize("status", [302, 307, 308])
def test_another_host_is_not_sent_the_key(status):
    with Server(said("Score: 9")) as other:
        moved = said("", status=status, Location=f"{other.url}/chat/completions")
        with Server(moved) as server:
            with pytest.raises(ScorerIsAway, match=f"HTTP {status}"):
                made(server.url, key_variable="JUDGE").score(CASE)
    assert not other.asked


@pytest.mark.parametrize("length", ["100", "9999999"])
def test_a_reply_that_is_cut_short_or_never_ends_is_a_failure(length, monkeypatch):
    monkeypatch.setattr(endpoint, "_MOST_BYTES", 1000)
    text = "x" * (5000 if length == "9999999" else 10)
    with Server((200, text, {"Content-Length": length})) as server:
        with pytest.raises(NotScored):
            made(server.url, retries=0).score(CASE)


def test_a_judge_that_is_away_costs_scores_and_little_time():
    with Server(said("", status=500)) as server:
        found = scored.scored(made(server.url, retries=0, workers=2), [CASE] * 30)
    assert found.scores == [None] * 30 and len(server.asked) < 10
    assert found.notes[0].startswith(
        "judge: 30 of 30 answers have no score, such as for: the judge"
    )


@pytest.mark.parametrize(
    ("url", "fields", "why"),
    [
        ("https://host/v1", {"key_variable": "NONE"}, "key_variable=NONE: the environment has no"),
        ("http://host/v1", {"key_variable": "JUDGE"}, "url=http://host/v1: would send the key"),
        ("https://me:pw@host/v1", {}, "holds a secret"),
        ("ftp://host/v1", {}, "url=ftp://host/v1: expected a URL"),
        ("https://host:x/v1", {}, "url=https://host:x/v1: expected a URL"),
        ("host/v1", {}, "url=host/v1: expected a URL"),
        ("https://host/v1?key=1", {}, "expected a URL"),
        ("https://host/v1", {"timeout_seconds": 0.0}, "timeout_seconds=0.0"),
        ("https://host/v1", {"workers": 0}, "workers=0"),
        ("https://host/v1", {"retries": -1}, "retries=-1"),
    ],
)
def test_what_is_wrong_with_a_judge_is_said_at_the_start(url, fields, why):
    with pytest.raises(ConfigError, match=why):
        made(url, **fields)
