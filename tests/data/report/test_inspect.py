"""What is shown is what is trained."""

import dataclasses
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jaxsft.config import Config, Data, Model, Optim, Source, Train
from jaxsft.data.encode.tokenize import ChatTokenizer, Example
from jaxsft.data.report import inspect, inspect_html
from jaxsft.errors import ConfigError
from tests import programs

ROOT = Path(__file__).resolve().parents[3]
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


@pytest.fixture
def rows(config, tokenizer):
    return inspect.InspectedRows(config.data.train, config.data, tokenizer)


def test_jsonl_has_one_object_for_each_example_or_lost_row(rows, config, tokenizer):
    output = io.StringIO()
    inspect.write_jsonl(rows, tokenizer, output)
    kept, bad, long = map(json.loads, output.getvalue().splitlines())
    assert kept["supervised"] == ["n\u00e9 \U0001f642<|im_end|>"]
    assert kept["row"] == 1 and len(kept["ids"]) == len(kept["weights"])
    assert bad == {"file": config.data.train[0].path, "row": 2, "dropped": bad["dropped"]}
    assert "messages=[]" in bad["dropped"]
    assert long["row"] == 3 and "> sequence_length=40" in long["dropped"]


@pytest.fixture
def two_sources(config):
    """Three rows each."""
    (source,) = config.data.train
    return dataclasses.replace(source, name="one"), dataclasses.replace(source, name="two")


@pytest.mark.parametrize(
    ("limit", "shown", "is_cut"),
    [
        (1, "1", True),
        (4, "1122", True),
        (5, "11122", True),
        (6, "111222", False),
        (None, "111222", False),
    ],
)
def test_the_limit_is_shared_by_the_sources(config, tokenizer, two_sources, limit, shown, is_cut):
    rows = inspect.InspectedRows(two_sources, config.data, tokenizer, limit=limit)
    names = [name for name, _ in rows]
    assert names == [{"1": "one", "2": "two"}[char] for char in shown]
    assert rows.is_cut == is_cut


def test_one_source_is_chosen_by_name(config, tokenizer, two_sources):
    rows = inspect.InspectedRows(two_sources, config.data, tokenizer, name="two")
    assert [name for name, _ in rows] == ["two"] * 3
    with pytest.raises(ConfigError, match=r"--source=three: .* only \['one', 'two'\]"):
        inspect.InspectedRows(two_sources, config.data, tokenizer, name="three")


def test_an_id_beyond_the_model_is_shown_as_dropped(config, tokenizer):
    rows = inspect.InspectedRows(config.data.train, config.data, tokenizer, vocab_size=5)
    _, first = next(iter(rows))
    assert "vocab_size=5" in inspect.why_dropped(first)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_terminal_marks_what_is_supervised(rows, tokenizer, is_terminal):
    output = io.StringIO()
    colours = "truecolor" if is_terminal else None
    console = Console(file=output, width=200, force_terminal=is_terminal, color_system=colours)
    inspect.show(rows, tokenizer, console)
    text = output.getvalue()
    assert "3 rows, 1 examples" in text and "train.jsonl:2: dropped: messages=[]" in text
    if is_terminal:
        assert "\x1b[1;4;3" in text  # underlined
    else:
        assert "sistant|\u21b5\n[[n|\u00e9| |\U0001f642|<|im_end|>]]\u21b5\n" in text
        assert "\x1b" not in text


def test_other_weights_than_0_and_1_are_shown(config, tokenizer):
    ids = tokenizer.encode_prompt([{"role": "user", "content": "abc"}])[:6]
    weights = np.array([0, 0, 1, 0.5, 0.5, 0], np.float32)
    example = Example(np.array(ids, np.int32), weights, "f", 1, ())
    plain = inspect.example_text(example, tokenizer, is_terminal=False).plain
    coloured = inspect.example_text(example, tokenizer, is_terminal=True).plain
    words = [tokenizer.decode([i]).replace("\n", "\u21b5\n") for i in ids]
    assert plain == "{}|{}[[{}]][[\u00d70.5|{}|{}]]{}\n".format(*words)
    assert coloured == "{}{}{}(\u00d70.5){}{}{}\n".format(*words)


# --- the page

HOSTILE = (
    "</script><script>alert(1)</script><!--<script>]]><img src=x onerror=alert(2)>"
    "\u2028\u2029 &lt;&amp; \\u003c {{ 7 * 7 }} {% raw %} \"' \t <|im_end|>"
)


class Elements(html.parser.HTMLParser):
    """What a browser sees: the elements, and the text of the scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def page_of(rows, tokenizer, title="Training data") -> str:
    output = io.StringIO()
    inspect_html.write_page(rows, tokenizer, output, title)
    return output.getvalue()


def hostile_rows(config, tokenizer, tmp_path):
    path = tmp_path / "<b>&hostile.jsonl"
    messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
    lines = [{"messages": messages}, {"messages": [{"role": HOSTILE, "content": "x"}]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = dataclasses.replace(config.data, sequence_length=2000)
    return inspect.InspectedRows((Source(path=str(path), name=HOSTILE),), data, tokenizer)


def test_hostile_text_stays_text(config, tokenizer, tmp_path):
    page = page_of(hostile_rows(config, tokenizer, tmp_path), tokenizer, HOSTILE)
    elements = Elements(page)
    tags = [tag for tag, _ in elements.tags]
    assert tags.count("script") == 2 and "img" not in tags
    assert not re.search("[<>&\u2028\u2029]", elements.scripts[0])
    kept, lost = json.loads(elements.scripts[0])
    assert kept["source"] == HOSTILE and kept["file"].endswith("<b>&hostile.jsonl")
    assert "".join(text for text, _, _ in kept["tokens"]).count(HOSTILE) == 2
    assert "</script>" in lost["dropped"]


def test_the_page_needs_nothing_but_itself(rows, tokenizer):
    page = page_of(rows, tokenizer)
    for tag, attributes in Elements(page).tags:
        assert tag not in ("link", "img", "iframe", "object", "base"), tag
        assert not {"src", "href", "srcset", "onclick", "onload"} & attributes.keys()
    assert not re.search(r"https?://|url\(|@import|innerHTML|document\.write|eval\(", page)
    assert "default-src 'none'" in page


def test_the_page_has_what_jsonl_has(rows, tokenizer):
    output = io.StringIO()
    inspect.write_jsonl(rows, tokenizer, output)
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    items = json.loads(Elements(page_of(rows, tokenizer)).scripts[0])
    assert [item["source"] for item in items] == ["train"] * 3
    for line, item in zip(lines, items, strict=True):
        assert (line["file"], line["row"]) == (item["file"], item["row"])
        assert line.get("dropped") == item.get("dropped")
    tokens = items[0]["tokens"]
    assert [i for _, ids, _ in tokens for i in ids] == lines[0]["ids"]
    assert [w for _, ids, w in tokens for _ in ids] == lines[0]["weights"]
    assert "".join(text for text, _, _ in tokens) == tokenizer.decode(lines[0]["ids"])
    assert items[0]["length"] == len(lines[0]["ids"])
    assert items[0]["supervised"] == sum(lines[0]["weights"])
    assert [len(ids) for _, ids, _ in tokens if len(ids) > 1] == [2, 4]  # é, the face


def test_a_page_of_some_rows_says_so(config, tokenizer):
    for limit, is_said in ((2, True), (3, False)):
        rows = inspect.InspectedRows(config.data.train, config.data, tokenizer, limit=limit)
        page = page_of(rows, tokenizer)
        assert ("There are more rows than these" in page) == is_said


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
    return programs.tool(tool, f"--config={path}", *flags)


def test_the_programs_show_and_refuse(config, tmp_path, monkeypatch):
    """Bad rows give exit status 65 and file:line."""
    monkeypatch.setenv("COLUMNS", "150")
    out = tmp_path / "out.jsonl"
    shown = run("inspect_data", config, tmp_path, "--format=jsonl", f"--output={out}")
    assert shown.returncode == 0, shown.stderr
    assert len(out.read_text().splitlines()) == 3
    page = run("inspect_data", config, tmp_path, "--format=html", "--source=train", "--limit=1")
    assert page.returncode == 0 and "There are more rows than these" in page.stdout
    for flags, said in (
        (("--split=eval",), "--split=eval: config.data.eval is empty"),
        (("--source=nosuch",), "--source=nosuch: there is no such source"),
        ((f"--output={tmp_path}",), f"--output={tmp_path}: can't be written: Is a directory"),
    ):
        wrong = run("inspect_data", config, tmp_path, *flags)
        assert wrong.returncode == 64 and said in wrong.stderr
    refused = run("prepare_data", config, tmp_path)
    assert refused.returncode == 65
    assert "train.jsonl:2: messages=[]" in refused.stderr
    done = run("prepare_data", config, tmp_path, "--config.data.bad_rows=skip")
    assert done.returncode == 0, done.stderr
    assert "supervised" in done.stdout
    flags = ("--config.data.bad_rows=skip", "--config.optim.warmup_steps=9")  # as train refuses it
    refused = run("prepare_data", config, tmp_path, *flags)
    assert refused.returncode == 64
    assert "warmup_steps=9: the run has 1 steps" in refused.stderr
