"""No sink shows a password, a token or a signature, whatever says the text."""

import dataclasses
import json
import sys
import time

import pytest
import rich.console

from jaxsft.cli import flags
from jaxsft.config import Config, Data, Model, Optim, Source, Train
from jaxsft.data.report.data_report import DataReport, DataWarning
from jaxsft.errors import DataError
from jaxsft.report import endings, failure_record
from jaxsft.report.page import write as report
from jaxsft.rundir import run_files
from jaxsft.terminal.console import Console
from jaxsft.terminal.redact import redacted, redacted_values

SECRET = "hf_" + "SeCrEt" * 4
URL = f"https://me:{SECRET}@host/a.jsonl?X-Amz-Date=1&X-Amz-Signature={SECRET}"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("https://me:pw@h/a.jsonl:3: bad", "https://***@h/a.jsonl:3: bad"),
        ("https://tok@h/a", "https://***@h/a"),
        ("db://me:p@ss@h:54/a", "db://***@h:54/a"),
        ("s3://ME:pa/ss+x@bucket/a", "s3://***@bucket/a"),
        (
            "h://h/a?X-Amz-Date=1&X-Amz-Signature=ab%2F/c",
            "h://h/a?X-Amz-Date=1&X-Amz-Signature=***",
        ),
        ("h://h/a?X-Amz-Security-Token=a&b=1", "h://h/a?X-Amz-Security-Token=***&b=1"),
        ("h://h/a.jsonl?sv=1&sig=a+b=:7: bad", "h://h/a.jsonl?sv=1&sig=***:7: bad"),
        ("('h://h/a?token=ab', 3)", "('h://h/a?token=***', 3)"),
        ("h://h/a?access_token=ab: no file", "h://h/a?access_token=***: no file"),
        (
            "h://h/a?x=1&amp;Signature=ab&amp;Key-Pair-Id=K",
            "h://h/a?x=1&amp;Signature=***&amp;Key-Pair-Id=***",
        ),
        ("h://h/a?AWSAccessKeyId=ab\\u0026x=1", "h://h/a?AWSAccessKeyId=***\\u0026x=1"),
        ("h://h/a#access_token=ab", "h://h/a#access_token=***"),
        (f"token {SECRET} is bad", "token *** is bad"),
        ("Authorization: Bearer abcdef.ghi-jkl", "Authorization: Bearer ***"),
        ('{"api_key": "ab", "x": 1}', '{"api_key": "***", "x": 1}'),
        # As a path is made of a URL.
        ("No such file: '/d/https:/me:pw@h/a'", "No such file: '/d/https:/***@h/a'"),
        (
            "h://h/a?sslpassword=ab&pw=cd&user[token]=ef",
            "h://h/a?sslpassword=***&pw=***&user[token]=***",
        ),
        ("OTHERS_API_KEY=ab --hub_token=cd", "OTHERS_API_KEY=*** --hub_token=***"),
        ("Authorization: Token abcdef.ghi", "Authorization: Token ***"),
        ("AccountKey=ab==;Endpoint=x", "AccountKey=***;Endpoint=x"),
        ("AKIA" + "A1" * 8, "***"),
    ],
)
def test_a_secret_is_hidden_and_the_rest_stays(text, shown):
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert redacted_values({text: [text, 1, None]}) == {shown: [shown, 1, None]}


@pytest.mark.parametrize(
    "text",
    [
        *("abfss://container@account.x/a", "/d/file:/a/b@c", "gs://bucket/a@b.jsonl", "C:/a/b@c"),
        *(
            "http://host:80/a@b/c",
            "a secretary: x",
            "mistoken=3",
            "h://h/a?max_tokens=3",
            "http://host:8080?q=a@b.c",
        ),
        *("config.data.trusted_control_tokens=('<think>',)", "config.eval.max_new_tokens=0: must"),
        *("tokenizer=/x, 5 tokens=3", "https://h/a?keyword=x&design=y", "me@mail.org"),
        *("a.jsonl:3: token '<|x|>' has id 9", "--config.model.new_tokens='[\"<|a|>\"]'"),
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


@pytest.mark.parametrize("unit", ["x://a:", "%26a", "eyJ-", "a_", "?a=", "secret:"])
def test_twice_the_text_takes_little_more_than_twice_the_time(unit):
    """In answers and rows, which are as long as others make them."""

    def seconds(count: int) -> float:
        started = time.process_time()
        redacted(unit * count + " @ = %3")
        return time.process_time() - started

    assert min(seconds(20_000) for _ in range(2)) < 10 * seconds(5_000) + 0.02


@pytest.mark.parametrize("error", [DataError(f"{URL}: no such file"), RuntimeError(URL)])
def test_error_lines_and_tracebacks(error, capsys):
    def fail():
        raise error

    assert flags._exit_code(fail) in (65, 70)
    said = capsys.readouterr().err
    assert "error: " in said and "https://***@host/a.jsonl" in said and SECRET not in said


def test_an_error_line_moves_no_cursor(capsys):
    def fail():
        raise DataError("row \x1b[2J and \x9b1m\n\tgone \u202e")

    flags._exit_code(fail)
    assert capsys.readouterr().err == "error: row \u241b[2J and <U+009B>1m\n\tgone <U+202E>\n"


def test_error_json(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])

    try:
        raise DataError(f"{URL}: no such file")
    except DataError as error:
        failure_record.write(tmp_path, error)
    value = json.loads((tmp_path / "error.json").read_text())
    assert value["message"].startswith("https://***@host/") and "DataError" in value["traceback"]
    assert SECRET not in (tmp_path / "error.json").read_text()


def test_the_console(capsys):
    console = Console()
    console.say("data", f"reading {URL} \x1b[2J")
    console.table(URL, ("", "x"), [(URL, "1")])
    console.show(lambda terminal: rich.console.Console.print(terminal, "shown"))
    said = capsys.readouterr().out
    assert "https://***@host" in said and "shown" in said
    assert SECRET not in said.replace("\n", "") and "\x1b" not in said


def test_files_of_a_run_and_its_page(tmp_path):
    config = Config(
        model=Model(source="m"),
        data=Data(train=(Source(path=URL),), sequence_length=8),
        optim=Optim(peak_lr=1.0),
        train=Train(batch_size=1, steps=1),
    )
    run_files.write_inputs(config, DataReport([DataWarning(URL)]), tmp_path)
    path = json.loads((tmp_path / "config.json").read_text())["data"]["train"][0]["path"]
    assert path == redacted(URL)
    # Files that an older version wrote are shown without it too.
    values = dataclasses.asdict(config)
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "error.json").write_text(json.dumps({"message": URL}))
    (tmp_path / "summary.json").write_text(json.dumps({"command": URL, "data": {URL: {}}}))
    sample = {"step": 0, "phase": "before", "prompt": URL, "answer": URL, "reference": ""}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    page = report.write_report(tmp_path).read_text()
    assert SECRET not in page and page.count("https://***@host") > 5
    (tmp_path / "summary.json").unlink()
    (tmp_path / "data_report.json").write_text(json.dumps({"train": {}, "eval": {URL: {}}}))
    page = report.write_report(tmp_path).read_text()
    assert SECRET not in page and page.count("https://***@host") > 3


def test_a_note_of_what_could_not_be_left(capsys):
    def fails():
        raise OSError(28, f"No space left for {URL}")

    endings.attempt("report.html", fails)
    said = capsys.readouterr().err
    assert said.startswith("note: report.html: ") and "https://***@" in said and SECRET not in said
