"""`jaxsft.Chat` as a user has it: from rendering to text, whole or piece by piece."""

import json

import adapted
import numpy as np
import pytest

import jaxsft
from jaxsft.errors import ConfigError
from jaxsft.generation import serving

QUESTION = [{"role": "user", "content": "What is 1 + 1?"}]
SAMPLING = {"max_new_tokens": 24, "temperature": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return adapted.debug_base(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def chat(directory):
    return jaxsft.Chat(directory)


def test_the_pieces_of_an_answer_are_the_answer(chat):
    pieces = []
    whole = chat.answer(QUESTION, on_text=pieces.append, **SAMPLING)
    assert "".join(pieces) == whole == chat.answer(QUESTION, **SAMPLING)
    assert len(pieces) > 5 and all(pieces)


def test_a_stop_string_ends_an_answer_and_is_not_shown(chat):
    whole = chat.answer(QUESTION, **SAMPLING)
    stop, pieces = whole[9:12], []
    answer = chat.answer(QUESTION, stop=[stop], on_text=pieces.append, **SAMPLING)
    assert answer == whole[: whole.index(stop)] == "".join(pieces)
    (reply,) = chat.answers([QUESTION], stop=[stop], **SAMPLING)
    assert reply.ended and reply.text == answer and len(reply.ids) < 24


def test_answers_end_where_the_template_ends_turns(chat, directory):
    config = json.loads((directory / "generation_config.json").read_text())
    trained = chat.tokens([*QUESTION, ANSWER])
    assert set(config["eos_token_id"]) <= chat.stop_ids
    assert int(trained.ids_T[trained.weights_T > 0][-1]) in chat.stop_ids


ANSWER = {"role": "assistant", "content": "Two."}


def test_tokens_are_those_that_are_read_or_trained(chat):
    asked = chat.tokens(QUESTION)
    assert asked.ids_T.tolist() == chat.tokenizer.encode_prompt(QUESTION)
    assert not asked.weights_T.any()
    answered = chat.tokens([*QUESTION, ANSWER])
    np.testing.assert_array_equal(answered.ids_T[: len(asked.ids_T)], asked.ids_T)
    trained = answered.ids_T[answered.weights_T > 0]
    assert chat.tokenizer.decode(trained[:-1].tolist()) == "Two."
    assert "".join(answered.texts) == chat.tokenizer.decode(answered.ids_T.tolist())


def test_a_wrong_field_and_a_long_conversation_are_refused(chat):
    with pytest.raises(TypeError, match="temprature"):
        chat.answer(QUESTION, temprature=1.0)
    with pytest.raises(ConfigError, match="top_p=2.0"):
        chat.answer(QUESTION, temperature=1.0, top_p=2.0)
    with pytest.raises(ConfigError, match="prompt 0 has .* tokens: it must have 1 at least"):
        chat.answer([{"role": "user", "content": "a " * 20_000}])


def test_a_run_is_rendered_with_the_options_of_its_training(tmp_path):
    config = {
        "model": {"source": "x"},
        "data": {
            "train": [{"path": "x.jsonl"}],
            "sequence_length": 8,
            "template_options": {"enable_thinking": False},
            "template_date": "2026-01-02",
        },
        "optim": {"peak_lr": 1e-3},
        "train": {"batch_size": 1, "steps": 1},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "export").mkdir()
    for source in (tmp_path, tmp_path / "export"):
        found = serving.as_trained(source)
        assert found == serving.AsTrained({"enable_thinking": False}, (), "2026-01-02")
    assert serving.as_trained(tmp_path / "other") == serving.AsTrained({}, (), None)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert serving.as_trained(tmp_path) == serving.AsTrained({}, (), None)
