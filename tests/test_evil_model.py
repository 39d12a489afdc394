"""A model that was made to do harm, given to a run: nothing of it is run, and it says why."""

import json
import pickle
import shutil
import time

import pytest

from tests import programs
from tests.faults import fault

MODEL = programs.ROOT / "configs" / "debug_model"
MAX_SECONDS = 60  # ten on a machine that does nothing else


class Evil:
    """What a pickle does when it is read."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def set_in(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def code_of_the_model(model, canary):
    (model / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    set_in(model / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil"})


def code_of_the_tokenizer(model, canary):
    (model / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    auto_map = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    set_in(model / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Evil")


def pickled_weights(model, canary):
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(canary)))


def a_pickle_as_safetensors(model, canary):
    (model / "model.safetensors").write_bytes(pickle.dumps(Evil(canary)))


def an_index_that_leads_out(model, canary):
    index = {"weight_map": {"model.norm.weight": "../../x.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def template(text):
    def plant(model, canary):
        (model / "chat_template.jinja").write_text(text)

    return plant


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GLOBALS = "{{ raise_exception.__globals__['__builtins__']['open']('canary', 'w') }}"


@fault(
    "models and security",
    "a model with code, pickled weights, an index that leads out of it, or a template that looks"
    " for a way out, never ends or fills memory",
    "none of it is run or followed; refused with the reason",
    lost="nothing",
    code="65, 66",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "plant, code, said",
    [
        (code_of_the_model, 66, "code that comes with a model is not run"),
        (code_of_the_tokenizer, None, ""),  # the class that transformers has is taken, or refused
        (pickled_weights, 66, "has pickled weights only (pytorch_model.bin)"),
        (a_pickle_as_safetensors, 66, "is not a whole safetensors file"),
        (an_index_that_leads_out, 66, "'../../x.safetensors' is not a plain name"),
        (template(GLOBALS), 65, "__globals__"),
        (template(LOOP), 65, "takes too many steps"),
        (template("{{ 'a' * 10**9 }}"), 65, "makes too much text"),
    ],
)
def test_nothing_of_an_evil_model_is_run(plant, code, said, tmp_path):
    model, canary = shutil.copytree(MODEL, tmp_path / "model"), tmp_path / "canary"
    plant(model, canary)
    flags = [f"--config.model.source={model}", "--config.train.steps=1"]
    has_weights = code == 66 and plant is not code_of_the_model
    flags += ["--config.model.weights=pretrained"] * has_weights
    started = time.process_time()
    done = programs.train(tmp_path / "run", *flags, check=False)
    assert not canary.exists() and not (programs.ROOT / "canary").exists()
    assert done.returncode in ((code,) if code else (0, 65, 66)), done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert code is None or time.process_time() - started < MAX_SECONDS


def test_the_canary_sings(tmp_path):
    """What is planted would do what it says."""
    pickled_weights(tmp_path, tmp_path / "canary")
    pickle.loads((tmp_path / "pytorch_model.bin").read_bytes()).close()
    assert (tmp_path / "canary").exists()
