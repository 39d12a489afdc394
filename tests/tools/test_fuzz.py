"""The fuzzer: a fixed few of its cases, that it notices what it is for, and what it has found."""

import json
import random

import fuzz
import pytest
from fuzzing import kinds, record, worker

from jaxsft.convert.families import config_json
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.data.encode import spelling
from jaxsft.errors import ConversionError, DataError, UserError
from jaxsft.files import records
from tests import programs

CASES = 8


@pytest.fixture
def no_clock(monkeypatch):
    """Nothing ends this process where the machine is slow."""
    monkeypatch.setattr(worker, "CPU_SECONDS", 0)


@pytest.mark.parametrize("name", sorted(kinds.KINDS))
def test_good_files_are_read_and_changed_ones_read_or_refused(name, no_clock, tmp_path):
    kind = kinds.KINDS[name]
    kind.seeds(tmp_path / "seeds")
    good = sorted((tmp_path / "seeds").iterdir())
    for seed in good[:2]:
        kind.read(worker.copied(seed, tmp_path / "case"))
    for number in range(CASES):
        kind.make(tmp_path / "seeds", tmp_path / "case", random.Random(f"test {name} {number}"))
        assert worker.judged(kind.read, tmp_path / "case") == "", f"{name} {number}"


def test_a_case_follows_from_its_number(tmp_path):
    kind = kinds.KINDS["jsonl"]
    kind.seeds(tmp_path / "seeds")
    made = []
    for _ in range(2):
        kind.make(tmp_path / "seeds", tmp_path / "case", random.Random("0 jsonl 7"))
        made.append((tmp_path / "case" / "rows.jsonl").read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "error, said",
    [
        (UserError("file.json: is broken"), ""),
        (UserError(" "), "UserError without a message"),
        (KeyError("x"), "KeyError in broken"),
        (MemoryError(), "MemoryError in broken"),
        (RecursionError(), "RecursionError in broken"),
    ],
)
def test_only_a_message_is_an_answer(error, said, no_clock, tmp_path):
    def broken(case):
        raise error

    assert worker.judged(broken, tmp_path).partition("\t")[0] == said


DYING = """
import os, signal
print("case 41", flush=True)
print("case 42", flush=True)
os.kill(os.getpid(), signal.{signal})
"""


@pytest.mark.parametrize(
    "signal, said", [("SIGSEGV", "ended with -11"), ("SIGPROF", "takes too long")]
)
def test_what_kills_a_process_is_kept(signal, said, tmp_path, monkeypatch):
    (tmp_path / "worker.py").write_text(DYING.format(signal=signal))
    (tmp_path / "case" / "gguf").mkdir(parents=True)
    (tmp_path / "case" / "gguf" / "model.gguf").write_text("deadly")
    monkeypatch.setattr(worker, "__file__", str(tmp_path / "worker.py"))
    monkeypatch.setattr(fuzz, "_SEED", type("Flag", (), {"value": 0}))
    known = record.Record({"gguf": record.Tried()})
    fuzz._try("gguf", tmp_path, known, float("inf"))
    assert (known.tried["gguf"].cases, known.tried["gguf"].next) == (2, 43)
    (name,) = known.found
    assert said in name and (tmp_path / "found" / "gguf-0-42" / "model.gguf").exists()
    records.write(tmp_path / "fuzz.json", known)
    assert records.read(record.Record, tmp_path / "fuzz.json") == known
    assert "| gguf | 2 |" in record.table(known)


# What it has found, each as small as it could be made.


def llama(**changes):
    config = json.loads((programs.ROOT / "configs/debug_model/config.json").read_text())
    return {**config, **changes}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"model_type": "qwen2", "layer_types": [[], "full_attention"]},
            r"layer_types=\[\[\], 'full_attention'\] is not supported",
        ),
        ({"model_type": "smollm3", "no_rope_layers": [{}, 1]}, r"no_rope_layers=\[\{\}, 1\]"),
        ({"num_hidden_layers": 2**31}, "num_hidden_layers=2147483648 is too large"),
        ({"hidden_size": 10**30}, f"hidden_size={10**30} is too large"),
    ],
)
def test_values_of_a_config_that_no_model_has(changes, message):
    config = llama(**changes)
    if changes.get("model_type") in ("qwen2", "smollm3"):
        config["architectures"] = None
    with pytest.raises(ConversionError, match=message):
        config_json.settings_from_config(config, "config.json")


def test_an_integer_that_no_float_holds(tmp_path):
    """Written out it has more digits than float64 goes to."""
    done = programs.train(tmp_path, f"--config.train.batch_size={10**400}", check=False)
    assert done.returncode == 64 and "config.train.batch_size=1000" in done.stderr
    assert "Traceback" not in done.stderr


def test_code_that_is_named_by_something_else_than_names():
    _, told = config_json.settings_from_config(llama(auto_map=[7]), "config.json")
    assert "auto_map=[7] is not followed" in told[0]


def test_an_index_that_names_no_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(llama()))
    index = tmp_path / "model.safetensors.index.json"
    for shard in ([], {}, None, 1):
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
        with pytest.raises(ConversionError, match="is not a plain name in this directory"):
            Directory(tmp_path)


def test_a_tokenizer_whose_merges_make_what_it_has_not():
    """As the library writes one that it has read with one id for two tokens, now and then."""
    described = json.loads((programs.ROOT / "configs/debug_model/tokenizer.json").read_text())
    del described["model"]["vocab"]["\u01207"]
    with pytest.raises(DataError, match="the tokenizer contradicts itself: .*out of vocabulary"):
        spelling._variant_of(described, [], {})
