"""Rows of any format as prompts, with and without an answer."""

import json

import pytest

from jaxsft.config import Source
from jaxsft.data.conversation import BadRow, LeftOut
from jaxsft.data.read.prompts import PromptRow, read_prompts
from jaxsft.errors import DataError

USER = {"role": "user", "content": "2 + 2?"}
ASSISTANT = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be short."}


def prompts(tmp_path, *rows, **fields):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_prompts(Source(path=str(file), **fields)))


@pytest.mark.parametrize(
    ("row", "roles", "answer"),
    [
        ({"messages": [SYSTEM, USER, ASSISTANT]}, "system user", "4"),
        ({"messages": [USER]}, "user", None),
        ({"messages": [USER, ASSISTANT, USER]}, "user assistant user", None),
        ({"messages": [USER], "system": "Be short."}, "system user", None),
        ({"conversations": [{"from": "human", "value": "2 + 2?"}]}, "user", None),
        (
            {"conversations": [{"from": a, "value": b} for a, b in [("human", "a"), ("gpt", "4")]]},
            "user",
            "4",
        ),
        ({"instruction": "Add.", "input": "2 2", "output": "4"}, "user", "4"),
        ({"instruction": "Add.", "input": "2 2"}, "user", None),
        ({"instruction": "Add.", "output": ""}, "user", None),
        ({"prompt": "2 + 2?", "completion": "4"}, "user", "4"),
        ({"prompt": "2 + 2?"}, "user", None),
        ({"prompt": [SYSTEM, USER]}, "system user", None),
        ({"question": "2 + 2?"}, "user", None),
        ({"question": "2 + 2?", "answer": "4"}, "user", "4"),
    ],
)
def test_a_row_is_asked_up_to_its_last_answer(tmp_path, row, roles, answer):
    (found,) = prompts(tmp_path, row)
    assert isinstance(found, PromptRow), found
    assert [message.role for message in found.asked.messages] == roles.split()
    assert (found.answer and found.answer.content) == answer
    assert found.asked.row == 1


def test_tools_calls_and_options_stay(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": None}}}
    turns = [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "4"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    row = {"messages": turns, "tools": tools, "chat_template_kwargs": {"enable_thinking": False}}
    with_answer, without = prompts(tmp_path, row | {"messages": [*turns, ASSISTANT]}, row)
    assert without.asked.messages == with_answer.asked.messages
    assert without.asked.messages[1].tool_calls == (call,)
    assert without.asked.tools == tuple(tools) and without.answer is None
    assert without.asked.template_options == {"enable_thinking": False}


def test_columns_have_their_own_names(tmp_path):
    (found,) = prompts(tmp_path, {"query": "2 + 2?"}, columns={"prompt": "query"})
    assert found.asked.messages[0].content == "2 + 2?" and found.answer is None


def test_what_is_no_prompt_is_said(tmp_path):
    rows = [{"messages": [ASSISTANT]}, {"messages": [USER], "train": False}, {"messages": []}]
    first, second, third = prompts(tmp_path, *rows)
    assert isinstance(first, BadRow) and "there is no prompt" in str(first)
    assert isinstance(second, LeftOut)
    assert isinstance(third, BadRow) and "there is no message" in str(third)
    with pytest.raises(DataError, match="finds no format: the first row has the keys .*'a'"):
        prompts(tmp_path, {"a": 1})
    (text,) = prompts(tmp_path, {"text": "Once."})
    assert isinstance(text, BadRow) and "is no conversation" in str(text)
