"""Held-out figures: losses that no batch size changes, prompts, and how answers are compared."""

import dataclasses
import types
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.config import Data, Source
from jaxsft.devices import mesh
from jaxsft.errors import ConfigError
from jaxsft.evaluation import answers
from jaxsft.evaluation.losses import figures_of, mean_losses
from jaxsft.evaluation.measurer import Measurer
from jaxsft.model import state
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.training import over_mesh
from jaxsft.training.loader import Batches
from jaxsft.training.loss_settings import loss_form


class InMemory:
    def __init__(self, lengths):
        self._made = tiny.conversations(lengths)
        self.lengths = [len(ids) for ids, _ in self._made]
        self.supervised = np.array([np.count_nonzero(weights) for _, weights in self._made])
        self.sources = np.zeros(len(lengths), int)

    def examples(self, indices):
        return [self._made[i] for i in indices]


WAYS = [
    # batch size, devices, sequence length: other packings
    (1, tiny.ONE_DEVICE, 32),
    (3, tiny.ONE_DEVICE, 64),
    (8, config.Mesh(), 32),
    (4, config.Mesh(data=1, fsdp=4, context=2), 64),
]


def test_the_losses_depend_neither_on_batch_size_nor_on_packing_nor_on_devices():
    cache = InMemory([5, 9, 20, 3, 14, 11, 27, 7, 30])
    cache.sources = np.array([0] * 5 + [1] * 4)
    values = []
    for batch_size, sizes, length in WAYS:
        devices = jax.devices()[:1] if sizes == tiny.ONE_DEVICE else jax.devices()
        over = mesh.make_mesh(sizes, devices)
        graphdef, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
        placement = state.shardings(shapes, axes, over)
        batches = Batches(
            cache,
            sequence_length=length,
            batch_size=batch_size,
            seed=0,
            sharding=over_mesh.batch_sharding(over),
            apart=["x", "y"],
        )
        with jax.set_mesh(over):
            form = loss_form(tiny.SETTINGS)
            eval_step = over_mesh.jit_eval_step(graphdef, form, placement, over, 2)
            params = jax.device_put(tiny.host_params(), placement)
            values.append(mean_losses(eval_step, params, {"a": batches}))
            assert values[-1] == mean_losses(eval_step, params, {"a": batches})
    for other in [*values, of_each_alone(cache)]:
        assert other == pytest.approx(values[0], rel=1e-6)
    assert values[0].keys() == of_each_alone(cache).keys()


def of_each_alone(cache: InMemory) -> dict[str, float]:
    """The figures by their definition: of each conversation's logits, in float64."""
    graphdef, *_ = state.abstract(tiny.SETTINGS, "float32", "none")
    model = state.model_of(graphdef, tiny.host_params())
    nll, weight, right, entropy, first, source = [], [], [], [], [], []
    for (ids, weights), its in zip(cache.examples(range(9)), cache.sources, strict=True):
        logits_TV = np.asarray(model(ids[None]), np.float64)[0, :-1]
        logs_TV = logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))
        nll += (-logs_TV[np.arange(len(ids) - 1), ids[1:]]).tolist()
        right += (logits_TV.argmax(axis=1) == ids[1:]).tolist()
        entropy += (-(np.exp(logs_TV) * logs_TV).sum(axis=1)).tolist()
        weight += weights[1:].tolist()
        first += ((weights[1:] > 0) & (weights[:-1] == 0)).tolist()
        source += [its] * (len(ids) - 1)
    weight, first, source = np.array(weight), np.array(first), np.array(source)

    def mean(of, where):
        return float(np.average(np.asarray(of, np.float64)[where], weights=weight[where]))

    every = weight > 0
    loss = mean(nll, every)
    means = (loss, mean(right, every), float(np.exp(loss)), mean(entropy, every), mean(nll, first))
    return dict(zip(figures_of(["a"]), means, strict=True)) | {
        f"eval/a/{name}/{kind}": mean(nll, (source == index) & those)
        for index, name in enumerate("xy")
        for kind, those in (("loss", every), ("first_token_loss", first))
    }


ROW = '{"messages": [%s{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]}\n'


def test_prompts_stop_before_the_last_answer(tmp_path):
    text, chat = tmp_path / "text.jsonl", tmp_path / "chat.jsonl"
    text.write_text('{"text": "prose"}\n')
    chat.write_text(ROW % "" + ROW % '{"role": "system", "content": "s"}, ')
    sources = Source(path=str(text)), Source(path=str(chat), name="held")
    data = Data(train=(), eval=sources, sequence_length=8)
    first, second = answers.held_out_prompts(data, 5)
    assert [answers.held_out_prompts(data, 1)] == [[first]]
    twice = dataclasses.replace(data, eval=(sources[1], dataclasses.replace(sources[1], name="b")))
    assert [(p.source, p.row) for p in answers.held_out_prompts(twice, 2)] == [
        *(("held", 1), ("held", 2), ("b", 1), ("b", 2))
    ]
    assert (first.source, first.row, first.reference) == ("held", 1, "r")
    assert [message.role for message in second.messages] == ["system", "user"]
    asked = answers.with_instruction(second, "do it")
    assert [str(message.content) for message in asked.messages] == ["do it", "q"]
    shot = [message for prompt in (first,) for message in prompt.messages]
    assert [m.role for m in answers.with_shots(second, shot).messages] == ["system", "user", "user"]
    with pytest.raises(ConfigError, match="prompts=3"):
        answers.held_out_prompts(dataclasses.replace(data, eval=sources[:1]), 3)


def test_answers_of_an_earlier_start_are_gone_though_this_one_asks_nothing(tmp_path):
    samples = JsonLines(tmp_path / "samples.jsonl")
    samples.append({"step": 0, "phase": "before", "answer": "stale"})
    plan: Any = types.SimpleNamespace(
        program=types.SimpleNamespace(eval_step=None), eval_batches={}, num_steps=3
    )
    asks_nothing = config.Config(
        model=config.Model(source="x"),
        data=config.Data(train=(Source(path="x"),), sequence_length=8),
        optim=config.Optim(peak_lr=1.0),
        train=config.Train(batch_size=1, steps=3),
    )
    data: Any = None
    measurer = Measurer(asks_nothing, plan, data, samples, lambda *_: None)
    assert measurer.measure({}, "before") == {} and samples.read() == []
