"""A chat in a terminal, of scripted lines with a model that answers by rule."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from jaxsft.config import Source
from jaxsft.data.read.sources import read_source
from jaxsft.errors import ConfigError
from jaxsft.generation.chat import Tokens
from jaxsft.generation.dialogue import Dialogue
from jaxsft.generation.sampling import Sampling
from jaxsft.generation.session import Session

TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {}}}]
CALL = '<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}</tool_call>'


class Rule:
    """Answers in pieces with the number of messages and the last one's first word."""

    def __init__(self, mark=""):
        self.mark, self.asked = mark, []

    def answer(self, messages, tools=None, *, on_text, **sampling):
        self.asked.append((messages, tools, sampling))
        last = messages[-1]["content"]
        if last.startswith("time"):
            answer = CALL
        else:
            answer = f"{self.mark}{len(messages)} {last.split()[0]} {sampling['seed']}"
        for piece in (answer[:3], answer[3:]):
            on_text(piece)
            if last.startswith("stop"):
                raise KeyboardInterrupt
        return answer

    def tokens(self, messages, tools=None):
        return Tokens(np.asarray([4, 7]), np.asarray([0.0, 1.0]), ["a", "b"])


def talk(lines, tmp_path, others=(), tools=None):
    models = {"m": Rule(), **{name: Rule(f"{name} ") for name in others}}
    sessions = {name: Session(model, tools, Sampling()) for name, model in models.items()}
    left, shown = iter(lines), io.StringIO()

    def read(mark):
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    console = Console(file=shown, width=80, soft_wrap=True)
    Dialogue(sessions, read, console, tmp_path / "rows.jsonl").run()
    assert next(left, None) is None, "all lines are taken"
    return shown.getvalue(), sessions["m"], models


def test_a_conversation_grows_and_begins_anew(tmp_path):
    shown, session, models = talk(["/system Be brief", "hi you", "again", "/reset", "x"], tmp_path)
    assert "m> 2 hi 0\n" in shown and "m> 4 again 0\n" in shown and "m> 2 x 0\n" in shown
    assert [m["content"] for m in session.messages] == ["Be brief", "x", "2 x 0"]
    assert models["m"].asked[1][0][0] == {"role": "system", "content": "Be brief"}


def test_a_line_goes_on_behind_a_backslash(tmp_path):
    _, session, _ = talk(["first\\", "second"], tmp_path)
    assert session.messages[0]["content"] == "first\nsecond"


def test_another_answer_has_the_next_seed(tmp_path):
    shown, session, _ = talk(["/set temperature=1", "hi", "/retry", "/retry"], tmp_path)
    assert "1 hi 1" in shown and [m["content"] for m in session.messages] == ["hi", "1 hi 2"]


def test_what_is_corrected_and_saved_is_a_row_to_train_on(tmp_path):
    file = tmp_path / "kept" / "rows.jsonl"
    lines = ["hi", "/edit Hello there!", f"/save {file}", "/reset", "time", "noon", f"/save {file}"]
    shown, *_ = talk(lines, tmp_path, tools=TOOLS)
    assert f"{file} has 1 row\n" in shown and f"{file} has 2 rows\n" in shown
    first, second = read_source(Source(path=str(file)))
    assert [m.content for m in first.messages] == ["hi", "Hello there!"]
    assert [m.role for m in second.messages] == ["user", "assistant", "tool", "assistant"]
    assert second.messages[1].tool_calls[0]["function"]["arguments"] == {"zone": "UTC"}
    assert second.tools is not None and second.tools[0]["function"]["name"] == "now"


def test_a_row_begins_on_a_line_of_its_own(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": []}')
    talk(["hi", "/save"], tmp_path)
    assert [list(json.loads(line)) for line in file.read_text().splitlines()] == [["messages"]] * 2


def test_calls_are_shown_and_their_results_asked_for(tmp_path):
    shown, session, _ = talk(["time", "12:00"], tmp_path, tools=TOOLS)
    assert "calls now(zone='UTC')" in shown and "m> 3 12:00 0" in shown
    assert session.messages[2] == {"role": "tool", "name": "now", "content": "12:00"}


def test_settings_are_shown_and_changed(tmp_path):
    shown, session, models = talk(["/set temperature=0.7 top_p=0.9 seed=5", "/set", "x"], tmp_path)
    assert session.sampling == Sampling(temperature=0.7, top_p=0.9, seed=5)
    assert "temperature=0.7" in shown and models["m"].asked[0][2]["top_p"] == 0.9


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/sett x=1", "error: /sett: no such command; /help lists them"),
        ("/set warmth=1", "error: /set warmth: no such setting; there are max_new_tokens, temper"),
        ("/set temperature=hot", "error: /set temperature=hot: expected a number"),
        ("/set top_k=3", "error: top_k=3: must be given with a temperature"),
        ("/retry", "error: there is no answer yet"),
        ("hi\n/retry", "error: at temperature 0 the answer stays"),
        ("/save", "error: there is no answer yet"),
        ("/edit x", "error: there is no answer yet"),
        ("/edit", "error: there is no answer yet"),
    ],
)
def test_what_is_wrong_is_said_and_the_chat_goes_on(line, said, tmp_path):
    shown, session, _ = talk([*line.split("\n"), "/reset", "hi", "/quit"], tmp_path)
    assert said in shown and "m> 1 hi 0" in shown


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(tmp_path):
    _, session, _ = talk(["stop it", "go on"], tmp_path)
    assert [m["content"] for m in session.messages][:3] == ["stop it", "1 s", "go on"]


def test_two_models_are_asked_the_same_and_stand_side_by_side(tmp_path):
    shown, session, models = talk(["hi"], tmp_path, others=["other"])
    assert "m> 1 hi 0\n" in shown and "other> other 1 hi 0\n" in shown
    assert any("1 hi 0" in line and "other 1 hi 0" in line for line in shown.splitlines()[3:])
    assert [one[0] for one in models["m"].asked] == [one[0] for one in models["other"].asked]


def test_tokens_are_shown_with_what_would_be_trained(tmp_path):
    shown, *_ = talk(["hi", "/tokens ids"], tmp_path)
    assert "4 0 'a'\n7 1 'b'\n" in shown and "2 tokens, 1 would be trained" in shown


def test_the_editor_is_asked_where_no_text_is_given(tmp_path, monkeypatch):
    editor = tmp_path / "editor.sh"
    editor.write_text('#!/bin/sh\nprintf "Right." > "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    _, session, _ = talk(["hi", "/edit"], tmp_path)
    assert session.messages[-1]["content"] == "Right."
    monkeypatch.setenv("VISUAL", "false")
    shown, *_ = talk(["hi", "/edit"], tmp_path)
    assert "error: /edit: false: " in shown


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    session = Session(Rule(), None, Sampling())  # pyright: ignore
    session.ask("hi")
    with pytest.raises(ConfigError, match="/save"):
        session.save(tmp_path / "file" / "rows.jsonl")
