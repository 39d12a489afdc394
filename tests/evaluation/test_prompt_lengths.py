"""What the model has no positions for is refused before the run, with the row that it is of."""

import json
import types

import pytest

from jaxsft.errors import ConfigError, DataError
from tests import programs
from tests.evaluation import test_measurer
from tests.faults import fault

make = test_measurer.make


@pytest.fixture
def measurer(make):
    """Makes a measurer of one question that has 5 tokens for each of its messages."""

    def one(max_positions: int, **asks):
        made, _, tokenizer = make(eval=dict(prompts=1, **asks))
        tokenizer.encode_prompt = lambda messages, tools, options: [7] * (5 * len(messages))
        made._job.program.settings = types.SimpleNamespace(max_positions=max_positions)
        told: list[str] = []
        made._say = lambda topic, text: told.append(text)
        return made, told

    return one


def test_a_row_that_is_too_long_is_named(measurer):
    made, _ = measurer(5)
    message = r"held.jsonl:1: has 5 tokens up to its last answer, and the model was made for 5 pos"
    with pytest.raises(DataError, match=message):
        made.check_prompts(before=True)


def test_what_the_config_adds_is_named(measurer):
    made, _ = measurer(8, instruction="do it")
    made.check_prompts(before=False)  # the trained model is not asked so
    with pytest.raises(ConfigError, match=r"eval.instruction='...': .*held.jsonl:1 has 10 tokens"):
        made.check_prompts(before=True)
    made, _ = measurer(15, shots=1)
    with pytest.raises(ConfigError, match=r"eval.shots=1: .*held.jsonl:1 has 15 .*set fewer of th"):
        made.check_prompts(before=True)


def test_answers_that_will_be_cut_are_told_of(measurer):
    made, told = measurer(9)
    made.check_prompts(before=True)
    assert len(told) == 1 and "1 prompts leave fewer than config.eval.max_new_tokens=5" in told[0]
    assert "held.jsonl:1, has 5 tokens" in told[0]
    made, told = measurer(10)
    made.check_prompts(before=True)
    assert not told


@fault(
    "data",
    "a held-out row is longer than the model's positions",
    "refused before a program is compiled, with file, row, both lengths and what to do",
    lost="nothing: no step was made",
    code=65,
)
@pytest.mark.slow
def test_a_run_is_refused_before_it_compiles(tmp_path):
    row = {
        "messages": [
            {"role": "user", "content": "blue " * 2000},
            {"role": "assistant", "content": "Blue."},
        ]
    }
    short = {"messages": [{"role": "user", "content": "Sky?"}, row["messages"][1]]}
    held_out = tmp_path / "long.jsonl"
    held_out.write_text("".join(json.dumps(one) + "\n" for one in (short, row)))
    flags = (f"--config.data.eval[0].path={held_out}", "--config.eval.prompts=2")
    done = programs.train(tmp_path / "run", *flags, check=False)
    assert done.returncode == 65, done.stdout + done.stderr
    assert f"error: {held_out}:2: has " in done.stderr and "for 1,024 positions" in done.stderr
    assert "compiled in" not in done.stdout
