"""The pipe to another trainer, and ratios of rates by hand."""

import dataclasses
import shutil
import sys
from pathlib import Path

import jax
import pytest
from bench import peer, peer_job, peer_turns
from bench.ours import Ours, Step
from bench.peer import PeerStep

from jaxsft.cli.config_file import load
from jaxsft.config import Config, Data, Lora, Model, Optim, Source, Train
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.errors import ConfigError
from jaxsft.training.inputs import open_model

COUNTING = """
import json, sys
from serving import say, serve
job = json.load(open(sys.argv[1]))
print("a library says hello")
say({"versions": job})
number = 0
def step():
    global number
    number += 1
    print("and more")
    did = {"seconds": 0.5, "supervised_tokens": 3, "tokens": 4, "loss": number}
    return did if number < 3 else {"done": True}
serve(step)
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    shutil.copy(peer.PROGRAMS / "serving.py", tmp_path)
    monkeypatch.setattr(peer, "PROGRAMS", tmp_path)
    return tmp_path


def test_steps_are_taken_when_asked_for(programs):
    (programs / "trl_steps.py").write_text(COUNTING)
    with peer.Peer("trl", sys.executable, {"a": 1}) as other:
        assert other.about == {"versions": {"a": 1}}
        assert [other.step(), other.step(), other.step()] == [
            *(PeerStep(0.5, 3, 4, loss) for loss in (1, 2)),
            None,
        ]
        assert 1e6 < other.stop() < 1e9


def test_a_missing_package_is_named_with_what_is_needed(programs):
    (programs / "trl_steps.py").write_text("import no_such_package")
    with pytest.raises(ConfigError, match="No module named 'no_such_package'.*trl==1.16.0"):
        peer.Peer("trl", sys.executable, {})


def test_a_peer_that_dies_says_why(programs):
    body = COUNTING.replace("number += 1", "raise MemoryError('at step 1')")
    (programs / "trl_steps.py").write_text(body)
    with peer.Peer("trl", sys.executable, {}) as other:
        with pytest.raises(ConfigError, match="MemoryError: at step 1"):
            other.step()


def test_a_python_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=f"--peer_python={tmp_path}/python: No such file"):
        peer.Peer("trl", f"{tmp_path}/python", {})


def test_ratios_by_hand():
    """Ours 100 and 300 tokens/s, theirs 50 and 200; in all 70 in 0.3 s to 30 in 0.3 s."""

    def ours(supervised, seconds):
        return Step(seconds, 0.0, BatchCounts(0, 0, {}, 0), supervised, 0.0)

    theirs = [PeerStep(0.2, 10, 10, 0.0), PeerStep(0.1, 20, 20, 0.0)]
    found = peer_turns.ratios([ours(10, 0.1), ours(60, 0.2)], theirs, None)
    assert found.median_of_rounds == pytest.approx((2 + 1.5) / 2)
    assert found.of_totals == pytest.approx(70 / 30)
    assert found.rounds == 2


def config(*paths):
    return Config(
        model=Model(source="none"),
        data=Data(train=tuple(Source(path=str(path)) for path in paths), sequence_length=8),
        optim=Optim(peak_lr=1.0),
        train=Train(batch_size=1, steps=1),
    )


def test_what_a_peer_cannot_read_is_refused(tmp_path):
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "?", "answer": "!"}\n')
    with pytest.raises(ConfigError, match="asked.jsonl:1: --peer=trl needs rows with messages"):
        peer_job._conversations(config(asked), "trl")
    with pytest.raises(ConfigError, match="reads one local .jsonl file .* there are 2 sources"):
        peer_job._conversations(config(asked, asked), "trl")
    with pytest.raises(ConfigError, match="--synthetic_segments=4: --peer=tunix reads"):
        peer_job.write(config(asked), "tunix", tmp_path, 4, 1)


def test_adapters_that_a_peer_does_not_train_are_refused(tmp_path):
    def asked(lora, name):
        peer_job.write(dataclasses.replace(config("a.jsonl"), lora=lora), name, tmp_path, None, 1)

    with pytest.raises(ConfigError, match="config.lora.rank=3: --peer=trl trains all weights"):
        asked(Lora(rank=3), "trl")
    with pytest.raises(ConfigError, match=r"config.lora.targets=\('mlp',\): --peer=transformers"):
        asked(Lora(targets=("mlp",)), "transformers")


@pytest.mark.slow  # loads torch and peft
def test_peft_trains_what_we_train(tmp_path):
    """From the same weights, on the same rows, as many parameters: the first loss is the same."""
    pytest.importorskip("peft")
    debug = load(str(Path(__file__).parents[2] / "configs" / "debug.py"))
    asked = dataclasses.replace(debug, lora=Lora(rank=3))
    job = peer_job.write(asked, "transformers", tmp_path, None, 2)
    job |= {"compile": False}
    assert job["lora"] == {"r": 3, "lora_alpha": 32.0, "use_rslora": False, "use_dora": False}
    base = open_model(asked, lambda topic, line: None, weights=False)
    ours = Ours(asked, base, None)
    mine = ours.run(2)
    with peer.Peer("transformers", sys.executable, job) as other:
        theirs = [other.step(), other.step()]
        trained = other.about["trained"]
    assert trained == sum(leaf.size for leaf in jax.tree.leaves(ours.program.shapes.trained))
    assert mine[0].loss == pytest.approx(theirs[0].loss, abs=1e-5)
    assert mine[1].supervised_tokens == theirs[1].supervised_tokens
