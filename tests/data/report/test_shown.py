"""What is written down of the data names no secret of a path, and moves no cursor."""

import io
import json

import pytest
from rich.console import Console

from jaxsft.config import Config, Data, Model, Optim, Source, Train
from jaxsft.data.cache.prepare import prepare, source_names
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.report import inspect, inspect_html, warnings
from jaxsft.data.report import text as report_text
from jaxsft.files import records
from jaxsft.training.inputs import PreparedData as SetupData
from tests.data.made_tokenizers import LLAMA2, make_sentencepiece

SECRET = "hf_" + "SeCrEt" * 4


@pytest.fixture
def data(tmp_path, tokenizer_dir):
    """A file whose name holds a token, with a row that is bad and one that is seen twice."""
    path = tmp_path / f"{SECRET}.jsonl"
    said = [{"role": "user", "content": "q @ a.bc"}, {"role": "assistant", "content": "\x1b[2J"}]
    rows = [{"messages": said, "id": 1}, {"messages": said}, {"messages": []}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(
        train=(Source(path=str(path)),),
        sequence_length=64,
        cache_dir=str(tmp_path / "cache"),
        bad_rows="skip",
    )


def test_neither_the_cache_nor_its_report_has_it(data, tokenizer_dir):
    cache = prepare(data.train, data, tokenizer_dir)
    for file in cache.directory.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file.name
    whole = warnings.whole_report(cache.report, {}, {}, None)
    assert SECRET not in json.dumps(records.to_json(whole))
    terminal = Console(file=io.StringIO(), width=80, highlight=False)
    report_text.print_report(whole, terminal)
    said = terminal.file.getvalue()
    assert "columns and fields that nothing reads (rows that have them): id (1)" in said
    assert SECRET not in said.replace("\n", "") and "\x1b" not in said
    assert cache.source_of(0) == (data.train[0].path, 1)  # who asks for a row gets the file


@pytest.mark.parametrize("is_terminal", [False, True])
def test_neither_has_what_inspection_shows(data, tokenizer, is_terminal):
    rows = inspect.InspectedRows(data.train, data, tokenizer)
    lines, page, shown = io.StringIO(), io.StringIO(), io.StringIO()
    inspect.write_jsonl(rows, tokenizer, lines)
    inspect_html.write_page(rows, tokenizer, page, "title")
    inspect.show(
        rows, tokenizer, Console(file=shown, force_terminal=is_terminal, color_system=None)
    )
    for output in (lines, page, shown):
        text = output.getvalue().replace("\n", "")  # a terminal's lines are cut at its width
        assert "***.jsonl" in text and SECRET not in text
    assert "\u241b" in shown.getvalue() and "\x1b" not in shown.getvalue()


def test_the_report_page_shows_tokens_with_their_spaces(data, tmp_path):
    """A word alone loses the space before it in decoders such as Llama's."""
    from jaxsft.report import finished_run

    directory = make_sentencepiece(tmp_path / "llama", "LlamaTokenizer", chat_template=LLAMA2)
    path = tmp_path / "spaced.jsonl"
    path.write_text(json.dumps({"prompt": "hello world", "completion": "the fox says hello"}))
    cache = prepare((Source(path=str(path)),), data, directory)
    made = SetupData(directory, cache, {})
    config = Config(
        model=Model(source="m"), data=data, optim=Optim(peak_lr=1.0), train=Train(batch_size=1)
    )
    (shown,) = finished_run.trained_examples(config, made, tmp_path)
    (ids, weights) = cache.examples([0])[0]
    whole = ChatTokenizer(directory).decode(ids.tolist())
    assert "".join(text for text, _ in shown.tokens) == whole and "the fox says hello" in whole
    assert sum(weight > 0 for _, weight in shown.tokens) == (weights > 0).sum()


def test_the_name_of_a_signed_url_is_its_files():
    urls = ("https://h/d/x.jsonl?sig=ab/cd.ef", "gs://b/y*.jsonl", f"https://h/{SECRET}")
    assert source_names([Source(path=url) for url in urls]) == ["x", "y*", "***"]
