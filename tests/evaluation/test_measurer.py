"""Which questions are asked before and after training, and what becomes of the answers."""

import types
from typing import Any

import jax
import numpy as np
import pytest

from jaxsft import config
from jaxsft.config import Source, scorers
from jaxsft.devices import mesh
from jaxsft.errors import ConfigError
from jaxsft.evaluation import measurer
from jaxsft.generation.generate import Answer, Interrupted
from jaxsft.generation.sampling import Sampling
from jaxsft.rundir.metric_lines import JsonLines

ROW = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]}\n'
SHOT = ROW.replace('"q"', '"u"')
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
def made(make):
    """A measurer of one question whose model is right only when it is instructed."""
    return make(eval=dict(prompts=1, match="exact", instruction="do it"))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a measurer with these fields of sections, whose model needs two messages."""
    (tmp_path / "held.jsonl").write_text(ROW)
    (tmp_path / "train.jsonl").write_text(ROW + SHOT + ROW.replace('"q"', '"t"') + SHOT)
    tokenizer = Tokenizer()

    def generate(graphdef, params, prompts, sampling, *, stop_ids, stopped):
        if stopped is not None and stopped():
            raise Interrupted
        assert sorted(stop_ids) == [0, 9] and sampling == Sampling(max_new_tokens=5)
        return [Answer([*IDS["r" if prompt[0] > 1 else "s"], 9], True) for prompt in prompts]

    monkeypatch.setattr(measurer, "generate", generate)
    monkeypatch.setattr(measurer, "open_tokenizer", lambda *_: tokenizer)
    held, train = (Source(path=str(tmp_path / f"{name}.jsonl")) for name in ("held", "train"))
    over = mesh.make_mesh(config.Mesh(data=1, fsdp=1), jax.devices()[:1])
    recipe = types.SimpleNamespace(graphdef=None)
    program = types.SimpleNamespace(eval_step=None, recipe=recipe, mesh=over)
    epochs = types.SimpleNamespace(is_due=lambda every, times, step: step % every == 0)
    batches = types.SimpleNamespace(epochs=epochs)
    job: Any = types.SimpleNamespace(program=program, eval_batches={}, num_steps=3, batches=batches)
    data: Any = types.SimpleNamespace(train=Cache(train.path), tokenizer_directory="none")
    samples = JsonLines(tmp_path / "samples.jsonl")

    def one(sets=(held,), best=None, **sections):
        asks = config.Config(
            checkpoint=config.Checkpoint(best=best),
            model=config.Model(source="x"),
            data=config.Data(train=(train,), eval=sets, sequence_length=8),
            optim=config.Optim(peak_lr=1.0),
            train=config.Train(batch_size=1, steps=3),
            eval=config.Eval(max_new_tokens=5, **sections["eval"]),
        )
        said: list[str] = []
        made = measurer.Measurer(asks, job, data, samples, lambda _, line: said.append(line))
        return made, samples, tokenizer

    return one


class Cache:
    """Four training examples, a row each; the first asks what is held out."""

    manifest = types.SimpleNamespace(end_of_turn_ids=[9])
    sources = np.zeros(4, int)

    def __init__(self, file: str):
        self._file = file

    def __len__(self) -> int:
        return 4

    def source_of(self, index: int) -> tuple[str, int]:
        return self._file, index + 1


def test_the_untrained_model_is_asked_again_with_the_instruction(made):
    one, samples, tokenizer = made
    assert one.measure({}, "before") == {
        "eval/held/match": 0.0,
        "eval_low/held/match": 0.0,
        "eval_high/held/match": pytest.approx(0.7935, abs=1e-4),
        "eval_count/held/match": 1,
        "eval/held/match_with_instruction": 1.0,
        "eval_low/held/match_with_instruction": pytest.approx(0.2065, abs=1e-4),
        "eval_high/held/match_with_instruction": 1.0,
        "eval_count/held/match_with_instruction": 1,
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
    assert one.measure({}, "after")["eval/held/match"] == 0.0
    assert tokenizer.asked == [[("user", "q")]]
    assert [line["answer"] for line in samples.read()] == ["kept", "s"]


def test_the_untrained_model_is_asked_again_after_examples_of_the_training_data(make):
    """Never one that asks what is held out, nor two that ask the same."""
    one, samples, tokenizer = make(eval=dict(prompts=1, match="exact", shots=2))
    values = one.measure({}, "before")
    assert values["eval/held/match"] == 0.0 and values["eval/held/match_with_shots"] == 1.0
    _, shown = tokenizer.asked
    assert sorted(shown[:-1:2]) == [("user", "t"), ("user", "u")] and shown[-1] == ("user", "q")
    assert [line["phase"] for line in samples.read()] == ["before", "before_with_shots"]
    roles = [message["role"] for message in samples.read()[1]["messages"]]
    assert roles == ["user", "assistant"] * 2 + ["user"]
    asked = tokenizer.asked.copy()
    assert one.measure({}, "before") == values and tokenizer.asked[2:] == asked
    with pytest.raises(ConfigError, match="shots=3: the first 4 training examples have 2 conv"):
        make(eval=dict(prompts=1, shots=3))[0].measure({}, "before")


def test_a_stop_among_the_answers_leaves_the_evaluation_to_the_next_start(make):
    asks = dict(prompts=1, scorers=("exact",), every_steps=2, answer_every_steps=2)
    one, samples, _ = make(eval=asks)
    known = iter([False, True])  # before the answers, and while they are written
    assert one.on_the_way(lambda: next(known), {}, 2) is None
    assert not samples.read() and next(known, None) is None


def test_answers_on_the_way(make):
    """At the first evaluation from each multiple of 4 on."""
    asks = dict(prompts=1, scorers=("exact",), every_steps=2, answer_every_steps=4)
    one, samples, _ = make(eval=asks)
    found = [one.on_the_way(lambda: False, {}, step) for step in (2, 4, 6, 8)]
    assert ["eval/held/exact" in values for values in found] == [False, True, False, True]
    assert [(line["phase"], line["step"]) for line in samples.read()] == [
        ("during", 4),
        ("during", 8),
    ]
    # A later start came back to step 2.
    one.on_the_way(lambda: False, {}, 4)
    assert [line["step"] for line in samples.read()] == [4]
    rest = dict(prompts=1, every_steps=3, answer_every_steps=4)
    one, *_ = make(eval=rest | {"scorers": ("exact",)})
    found = [one.on_the_way(lambda: False, {}, step) for step in (3, 6, 9, 12)]
    assert [bool(values) for values in found] == [False, True, True, True]
    assert one.on_the_way(lambda: True, {}, 12) is None


def test_each_set_has_its_scores(make, tmp_path):
    sets = [Source(path=str(tmp_path / "held.jsonl"), name=name) for name in ("a", "b")]
    both = (scorers.Contains(text="s"), scorers.Exact(sets=("b",)))
    one, samples, _ = make(sets=tuple(sets), eval=dict(prompts=1, scorers=both))
    values = one.measure({}, "after", 3)
    assert {name: value for name, value in values.items() if name.startswith("eval/")} == {
        "eval/a/contains": 1.0,
        "eval/b/contains": 1.0,
        "eval/b/exact": 0.0,
    }
    lines = samples.read()
    assert [line["scores"] for line in lines] == [
        {"contains": True},
        {"contains": True, "exact": False},
    ]
    assert lines[0]["answer_tokens"] == 2 and lines[0]["messages"] == [
        {"role": "user", "content": "q"}
    ]
    with pytest.raises(ConfigError, match="'exact' is for the set 'c', which has no prompts"):
        make(eval=dict(prompts=1, scorers=(scorers.Exact(sets=("c",)),)))


def test_a_run_may_follow_a_score_that_every_evaluation_has(make):
    asks = dict(prompts=1, scorers=("exact",), every_steps=2, answer_every_steps=1)
    one, *_ = make(eval=asks, best="eval/held/exact")
    assert one.followed({}, 3)["eval/held/exact"] == 0.0
    assert one.watch.add(2, {"eval/held/exact": 0.1}) and one.watch.add(4, {"eval/held/exact": 0.2})
    assert not one.watch.add(6, {"eval/held/exact": None}) and one.watch.best.step == 4
    with pytest.raises(ConfigError, match="best=eval/held/exact: .* no such figure"):
        make(eval=asks | {"answer_every_steps": 2}, best="eval/held/exact")
