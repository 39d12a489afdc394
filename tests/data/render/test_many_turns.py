"""A conversation of many turns costs as much per turn as one of few; so does every check of it."""

import dataclasses
import time

import pytest

from jaxsft.config import Data
from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.encode.outcomes import outcome_of
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.render import views
from jaxsft.data.render.template import ChatTemplate
from tests.data.chat import CHATML, REWRITING, conversation

CONTROLS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


def talk(num_turns, answer="a"):
    contents = (f"{who}{n}" for n in range(num_turns) for who in ("q", answer))
    return conversation(*contents).messages


def loop(num_turns):
    """One question, then calls and their results without end."""
    messages = [Message("user", "go")]
    for n in range(num_turns):
        call = {"function": {"name": "f", "arguments": {"x": f"v{n}\n\u00e9"}}}
        messages += [Message("assistant", "", tool_calls=(call,)), Message("tool", f"r{n}")]
    return (*messages, Message("assistant", "done"))


def alone(num_turns):
    return (Message("user", "go"), *(Message("assistant", f"a{n}") for n in range(num_turns)))


CALLS = "(message.tool_calls | tojson if message.tool_calls else '') + '<|im_end|>'"
CALLING = CHATML.replace("'<|im_end|>'", CALLS)
ALL = "{{ '' if '50' in message.content and messages | length }}{% endfor"  # from then on
KINDS = {
    "one that asks for all": (talk, CHATML.replace("{% endfor", ALL, 1), {}),
    "exchanges": (talk, CHATML, {}),
    "calls": (loop, CALLING, {}),
    "answers": (alone, CHATML, {}),
    "parts": (talk, CHATML, {"train_parts": ("content",)}),
    "truncated": (talk, CHATML, {"overlong": "truncate", "sequence_length": 500}),
    "last turn": (talk, REWRITING, {"train_on": "last_turn"}),
    "other characters": (lambda n: talk(n, "\u4f60"), CHATML, {}),
}


def seconds(chat, messages, options):
    row = Conversation(tuple(messages), None, "f", 1)
    data = Data(**{"train": (), "sequence_length": 10**7, **options})
    start = time.thread_time()
    outcome = outcome_of(chat, row, data, None)
    assert len(outcome.kept) == 1, outcome
    return time.thread_time() - start


@pytest.mark.parametrize("kind", KINDS)
def test_twice_as_many_turns_cost_twice_as_much(kind, tmp_path, tokenizer_dir):
    make, source, options = KINDS[kind]
    path = tmp_path / "t.jinja"
    path.write_text(source)
    chat = ChatTokenizer(tokenizer_dir, str(path))
    seconds(chat, make(30), options)  # learns
    few, many = (min(seconds(chat, make(turns), options) for _ in range(2)) for turns in (100, 400))
    assert many < 4 * 1.5 * few + 0.02


def spans(source, messages):
    texts, is_split = ChatTemplate(source, {}, CONTROLS).training_texts(
        Conversation(tuple(messages), None, "f", 1)
    )
    found = [str.__getitem__(t.text, slice(s.start, s.stop)) for t in texts for s in t.spans]
    return found, is_split


@pytest.mark.parametrize("way", ["resumed", "near"])
def test_turns_seen_in_part_are_those_seen_with_all_before(monkeypatch, way):
    cases = (talk(50), loop(50), alone(50), (Message("system", "s"), *talk(45)))
    if way == "near":
        monkeypatch.setattr(views, "_resumed", lambda *_: None)
    found = [spans(CALLING, messages) for messages in cases]
    monkeypatch.setattr(views, "_FEW", 1000)
    monkeypatch.setattr(views, "_MANY", 1000)
    assert found == [spans(CALLING, messages) for messages in cases]
    assert found[0] == ([f"a{n}<|im_end|>" for n in range(50)], False)


# What a user says decides how one prompt begins, twelve messages later; the answers are rendered
# without.
DELAYED = (
    CHATML.replace("{% for", "{% set n = namespace(age=99) %}{% for", 1)
    .replace(
        "{% endfor %}",
        "{% set n.age = 0 if '/off' in message.content else n.age + 1 %}{% endfor %}",
    )
    .replace("assistant\\n' }}", "assistant\\n' }}{{ '<think></think>' if n.age == 12 }}")
)


@pytest.mark.parametrize("turn", range(1, 61, 6))
def test_one_prompt_of_many_that_differs_by_what_was_said_long_before_is_noticed(turn):
    messages = list(talk(40))
    messages[turn - 1] = Message("user", "q /off")
    with pytest.raises(RowError, match=rf"messages.{turn + 12}.: its generation prompt goes on"):
        spans(DELAYED, messages)
    assert len(spans(DELAYED, talk(40))[0]) == 40


@pytest.mark.parametrize("num_turns, num_near", [(40, 0), (50, 37)])
def test_turns_that_are_seen_near_by_only_are_counted(tmp_path, tokenizer_dir, num_turns, num_near):
    """For a template that tells each message how many there are, and so does the same for all."""
    path = tmp_path / "t.jinja"
    path.write_text(CHATML.replace("{% endfor", "{{ '' if messages | length else '' }}{% endfor"))
    chat = ChatTokenizer(tokenizer_dir, str(path))
    (example,) = chat.encode(Conversation(talk(num_turns), None, "f", 1))
    assert len(example.turns) == num_turns and example.near_turns == num_near
    path.write_text(CHATML)
    (example,) = ChatTokenizer(tokenizer_dir, str(path)).encode(
        Conversation(talk(num_turns), None, "f", 1)
    )
    assert len(example.turns) == num_turns and not example.near_turns


@pytest.mark.parametrize("turn", [1, 41, 43, 77])
def test_one_turn_of_many_that_is_rewritten_later_is_noticed(turn):
    """Only this one has a thought, which the template shows while nothing follows."""
    messages = list(talk(40))
    messages[turn] = dataclasses.replace(messages[turn], reasoning="hm")
    found, is_split = spans(REWRITING, messages)
    assert is_split and len(found) == 40
    assert [i for i, span in enumerate(found) if "<think>hm</think>" in span] == [turn // 2]


def test_a_template_that_numbers_rounds_or_folds_the_system_prompt_needs_no_more():
    numbered = CHATML.replace("message['content']", "'[' ~ loop.index ~ ']' ~ message['content']")
    found, is_split = spans(numbered, talk(30))
    assert found == [f"[{2 * n + 2}]a{n}<|im_end|>" for n in range(30)] and not is_split
