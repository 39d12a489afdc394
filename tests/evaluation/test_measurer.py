"""Which questions are asked before and after training, and what becomes of the answers."""

import types
from typing import Any

import jax
import pytest

from jaxsft import config
from jaxsft.config import Source
from jaxsft.devices import mesh
from jaxsft.evaluation import measurer
from jaxsft.generation.generate import Answer
from jaxsft.generation.sampling import Sampling
from jaxsft.rundir.metric_lines import JsonLines

ROW = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]}\n'
IDS = {"r": [1], "s": [2]}


class Tokenizer:
    """Knows an answer by its one id; keeps what it was asked."""

    eos_id = 0

    def __init__(self):
        self.asked: list[list[tuple[str, str]]] = []

    def encode_prompt(self, messages, tools, options):
        self.asked.append([(message.role, str(message.content)) for message in messages])
        return [len(messages)]

    def decode(self, ids):
        return next(text for text, its in IDS.items() if its == ids)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A measurer of one question whose model is right only when it is instructed."""
    (tmp_path / "held.jsonl").write_text(ROW)
    tokenizer = Tokenizer()

    def generate(graphdef, params, prompts, sampling, *, stop_ids):
        assert sorted(stop_ids) == [0, 9] and sampling == Sampling(max_new_tokens=5)
        return [Answer([*IDS["r" if prompt == [2] else "s"], 9], True) for prompt in prompts]

    monkeypatch.setattr(measurer, "generate", generate)
    monkeypatch.setattr(measurer, "open_tokenizer", lambda *_: tokenizer)
    held = Source(path=str(tmp_path / "held.jsonl"))
    asks = config.Config(
        model=config.Model(source="x"),
        data=config.Data(train=(Source(path="x"),), eval=(held,), sequence_length=8),
        optim=config.Optim(peak_lr=1.0),
        train=config.Train(batch_size=1, steps=3),
        eval=config.Eval(prompts=1, max_new_tokens=5, match="exact", instruction="do it"),
    )
    over = mesh.make_mesh(config.Mesh(data=1, fsdp=1), jax.devices()[:1])
    recipe = types.SimpleNamespace(graphdef=None)
    program = types.SimpleNamespace(eval_step=None, recipe=recipe, mesh=over)
    job: Any = types.SimpleNamespace(program=program, eval_batches={}, num_steps=3)
    cache = types.SimpleNamespace(manifest=types.SimpleNamespace(end_of_turn_ids=[9]))
    data: Any = types.SimpleNamespace(train=cache, tokenizer_directory="none")
    samples = JsonLines(tmp_path / "samples.jsonl")
    return measurer.Measurer(asks, job, data, samples, lambda *_: None), samples, tokenizer


def test_the_untrained_model_is_asked_again_with_the_instruction(made):
    one, samples, tokenizer = made
    assert one.measure({}, "before") == {
        "eval/held/match": 0.0,
        "eval/held/match_with_instruction": 1.0,
    }
    assert tokenizer.asked == [[("user", "q")], [("system", "do it"), ("user", "q")]]
    found = [
        (line["step"], line["phase"], line["answer"], line["ended"]) for line in samples.read()
    ]
    assert found == [(0, "before", "s", True), (0, "before_with_instruction", "r", True)]


def test_the_trained_model_is_asked_once_and_its_answers_replace_those_of_an_earlier_end(made):
    one, samples, tokenizer = made
    samples.append({"step": 0, "phase": "before", "answer": "kept"})
    samples.append({"step": 3, "phase": "after", "answer": "stale"})
    assert one.measure({}, "after") == {"eval/held/match": 0.0}
    assert tokenizer.asked == [[("user", "q")]]
    assert [line["answer"] for line in samples.read()] == ["kept", "s"]
