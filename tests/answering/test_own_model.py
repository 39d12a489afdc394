"""A model that is opened here as the one that answers."""

import json

import adapted
import pytest

from jaxsft import errors
from jaxsft.answering import own_model
from jaxsft.answering.own_model import OwnModel
from jaxsft.answering.questions import HeldOut, questions, survey
from jaxsft.config import Source
from jaxsft.generation.chat import Chat
from jaxsft.generation.sampling import Sampling
from tests import programs

SAMPLING = Sampling(max_new_tokens=40, temperature=1.0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return adapted.debug_base(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def chat(directory):
    return Chat(directory)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = ["What is 1 + 1?", "b " * 20_000, *(f"Is {n} more than 3?" for n in range(4))]
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    source = Source(path=str(file))
    return list(questions(source, survey(source, HeldOut([]), False), None))


def test_an_answer_is_the_same_whenever_it_is_written(chat, asked):
    """So a run that goes on writes what it would have written at once."""
    model = OwnModel(chat, SAMPLING, 3)
    found = [one for block in model.answered(asked) for one in block]
    assert [question for question, _ in found] == asked
    later = [one for block in model.answered(asked[3:]) for one in block]
    assert later == found[3:]
    texts = [answer.message["content"] for _, answers in found[2:] for answer in answers]
    assert len(set(texts)) == len(texts) == 12
    ((_, (long,)),) = [one for one in found if len(one[1]) == 1]
    assert long.why == own_model.TOO_LONG and "20," in long.detail


def test_it_is_what_chat_answers(chat, asked):
    greedy = Sampling(max_new_tokens=12)
    ((_, (answer,)),) = next(OwnModel(chat, greedy, 1).answered(asked[:1]))
    assert answer.tokens <= 12 and answer.why is not None
    said = chat.answer(asked[0].prompt.messages, max_new_tokens=12)
    assert answer.message["content"] == said.strip()


def test_the_digest_is_of_what_the_model_is(directory, tmp_path):
    first = own_model.digest_of(str(directory))
    assert first == own_model.digest_of(str(directory)) and len(first) == 64
    other = adapted.debug_base(tmp_path / "other", seed=1)
    assert own_model.digest_of(str(other)) != first


def test_rows_by_the_program(directory, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{n}?"}) + "\n" for n in range(5)))
    flags = (f"--model={directory}", f"--prompts={prompts}", "--samples=2", "--temperature=1.0")
    flags += (f"--output={tmp_path}/rows.jsonl", "--max_new_tokens=300", "--seed=3")
    done = programs.tool("answer", *flags)
    assert done.returncode == errors.DONE, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    by = rows[0]["answered_by"]  # of ten answers of 300 tokens some end
    assert by["model"] == str(directory) and by["sha256"] == own_model.digest_of(str(directory))
    assert by["sampling"]["seed"] == 3 and by["dtype"] == "float32" and by["template"]
    asked_of = rows[0]["messages"][0]["content"]
    assert by["where"] == f"{prompts}:{int(asked_of[:-1]) + 1}" and by["of"] == 2
    none = programs.tool("answer", *flags, "--template=/no.jinja")
    assert none.returncode != errors.DONE and "/no.jinja" in none.stderr
