"""What is shown is what is trained."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from jaxsft.config import Config, Data, Model, Optim, Source, Train
from jaxsft.data import inspect
from jaxsft.data.prepare import prepare
from jaxsft.data.tokenize import ChatTokenizer

ROOT = Path(__file__).parents[2]
ROWS = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "né 🙂"}]},
    {"messages": []},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a" * 99}]},
]


@pytest.fixture
def config(tmp_path, tokenizer_dir):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = Source(path=str(path))
    data = Data(
        train=(source,), sequence_length=40, tokenizer=tokenizer_dir, cache_dir=str(tmp_path)
    )
    model = Model(source="unused")
    return Config(model=model, data=data, optim=Optim(peak_lr=1.0), train=Train(batch_size=1))


@pytest.fixture
def tokenizer(tokenizer_dir):
    return ChatTokenizer(tokenizer_dir)


def test_jsonl_has_one_object_for_each_example_or_lost_row(config, tokenizer):
    output = io.StringIO()
    rows = inspect.training_outcomes(config.data, tokenizer, None)
    inspect.write_jsonl(rows, tokenizer, output)
    kept, bad, long = map(json.loads, output.getvalue().splitlines())
    assert kept["supervised"] == ["né 🙂<|im_end|>"]
    assert kept["row"] == 1 and len(kept["ids"]) == len(kept["weights"])
    assert bad == {"file": config.data.train[0].path, "row": 2, "dropped": bad["dropped"]}
    assert "messages=[]" in bad["dropped"]
    assert long["row"] == 3 and "> sequence_length=40" in long["dropped"]


def test_the_limit_counts_rows(config, tokenizer):
    assert len(list(inspect.training_outcomes(config.data, tokenizer, None, limit=1))) == 1


def test_an_id_beyond_the_model_is_shown_as_dropped(config, tokenizer):
    first = next(inspect.training_outcomes(config.data, tokenizer, vocab_size=5))
    assert "vocab_size=5" in inspect.why_dropped(first)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_terminal_marks_what_is_supervised(config, tokenizer, is_terminal):
    output = io.StringIO()
    colours = "truecolor" if is_terminal else None
    console = Console(file=output, width=200, force_terminal=is_terminal, color_system=colours)
    inspect.show(inspect.training_outcomes(config.data, tokenizer, None), tokenizer, console)
    text = output.getvalue()
    assert "3 rows, 1 examples" in text and "train.jsonl:2: dropped: messages=[]" in text
    if is_terminal:
        assert "\x1b[1;4;3" in text  # underlined
    else:
        assert "sistant|\u21b5\n[[n|é| |🙂|<|im_end|>]]\u21b5\n" in text
        assert "\x1b" not in text


def test_the_report_is_a_table(config, tokenizer_dir):
    import dataclasses

    data = dataclasses.replace(config.data, bad_rows="skip")
    report = prepare(data.train, data, tokenizer_dir).report
    output = io.StringIO()
    inspect.print_report(report, Console(file=output, width=120))
    text = output.getvalue()
    assert "rows_in" in text and "rows dropped: no messages" in text and "train.jsonl:2" in text


CONFIG = """
from jaxsft.config import Config, Data, Model, Optim, Source, Train

def get_config():
    data = Data(train=(Source(path={path!r}),), sequence_length=40, tokenizer={tokenizer!r},
                cache_dir={cache!r})
    return Config(model=Model(source={model!r}), data=data, optim=Optim(peak_lr=1.0),
                  train=Train(batch_size=1, epochs=1))
"""


def run(tool, config, tmp_path, *flags):
    path = tmp_path / "config.py"
    data = config.data
    path.write_text(
        CONFIG.format(
            path=data.train[0].path,
            tokenizer=data.tokenizer,
            cache=data.cache_dir,
            model=str(ROOT / "configs" / "debug_model"),
        )
    )
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), f"--config={path}", *flags],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "150"},
        capture_output=True,
        text=True,
    )


def test_the_programs_show_and_refuse(config, tmp_path):
    """D4: bad rows give exit status 65 and file:line."""
    out = tmp_path / "out.jsonl"
    shown = run("inspect_data.py", config, tmp_path, "--format=jsonl", f"--output={out}")
    assert shown.returncode == 0, shown.stderr
    assert len(out.read_text().splitlines()) == 3
    refused = run("prepare_data.py", config, tmp_path)
    assert refused.returncode == 65
    assert "train.jsonl:2: messages=[]" in refused.stderr
    done = run("prepare_data.py", config, tmp_path, "--config.data.bad_rows=skip")
    assert done.returncode == 0, done.stderr
    assert "tokens supervised" in done.stdout
