"""Every form of a row stands for the conversation that it means."""

import copy
import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsft.data.conversation import BadRow, Conversation, Message, PlainText, RawRow
from jaxsft.data.read import formats

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "ho"}


def record(row, form=None, columns=None, arrow=False):
    columns = columns or {}
    form = form or formats.detect(row, columns)
    data = row if arrow else json.dumps(row).encode()
    return formats.record_of(RawRow("f.jsonl", 3, data), form, columns)


def said(row, **options):
    """(role, content) of each message."""
    result = record(row, **options)
    assert isinstance(result, Conversation), result
    return [(message.role, message.content) for message in result.messages]


# One dialogue, written in every form that can hold it.

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
SOME_TEXT = TEXT.filter(bool)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
ARGUMENTS = st.dictionaries(TEXT, VALUE, max_size=3)
CALL = st.builds(
    lambda name, arguments: {
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    SOME_TEXT,
    ARGUMENTS,
)
STEP = st.tuples(st.lists(CALL, min_size=1, max_size=2), TEXT)  # calls and what tools answer
TURN = st.tuples(TEXT, st.lists(STEP, max_size=2), TEXT)
TOOLS = st.lists(st.builds(lambda name: {"name": name, "parameters": {}}, SOME_TEXT), max_size=2)


@st.composite
def dialogues(draw, steps=True):
    """Messages in OpenAI's form, and tools."""
    messages = []
    system = draw(st.none() | SOME_TEXT)
    if system is not None:
        messages.append({"role": "system", "content": system})
    for asked, calls, answer in draw(st.lists(TURN, min_size=1, max_size=3)):
        messages.append({"role": "user", "content": asked})
        for parallel, result in calls if steps else ():
            messages.append({"role": "assistant", "content": "", "tool_calls": parallel})
            for call in parallel:
                name = call["function"]["name"]
                messages.append({"role": "tool", "content": result, "name": name})
        messages.append({"role": "assistant", "content": answer})
    return messages, draw(TOOLS) if steps else []


def as_openai_text(messages, tools):
    """Arguments and tools as JSON text, contents as parts, roles by their other names."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
        if message.get("tool_calls"):
            message["content"] = None
        elif message["content"]:
            half = len(message["content"]) // 2
            halves = message["content"][:half], message["content"][half:]
            message["content"] = [{"type": "text", "text": text} for text in halves]
        other = {"system": "developer", "tool": "function"}
        message["role"] = other.get(message["role"], message["role"])
    return {"messages": messages, "tools": json.dumps(tools)}


def as_json_text(messages, tools):
    tools = [{"type": "function", "function": tool} for tool in tools]
    return {"messages": json.dumps(messages), "tools": [json.dumps(tool) for tool in tools]}


def as_prompt_completion(messages, tools):
    first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return {"prompt": messages[:first], "completion": messages[first:], "functions": tools}


def as_sharegpt(messages, tools):
    speakers = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
    items = []
    for message in messages:
        calls = [call["function"] for call in message.get("tool_calls", ())]
        if calls:
            said = json.dumps(calls if len(calls) > 1 else calls[0])
            items.append({"from": "function_call", "value": said})
        else:
            items.append({"from": speakers[message["role"]], "value": message["content"]})
    return {"conversations": items, "tools": json.dumps(tools)}


def with_system_beside(row):
    """The row with its first message, if that is the system's, as a key of the row."""
    for key in ("messages", "conversations", "prompt"):
        first = row[key][0] if key in row else {}
        if "system" in (first.get("role"), first.get("from")):
            content = first.get("content", first.get("value"))
            return {**row, key: row[key][1:], "system": content}
    return row


@given(dialogues())
def test_one_dialogue_is_the_same_conversation_in_every_form(dialogue):
    messages, tools = dialogue
    rows = [
        {"messages": messages, "tools": tools},
        as_openai_text(messages, tools),
        as_json_text(messages, tools),
        as_prompt_completion(messages, tools),
        as_sharegpt(messages, tools),
    ]
    rows += [with_system_beside(rows[i]) for i in (0, 3, 4)]
    first, *others = [record(row) for row in rows]
    assert isinstance(first, Conversation), first
    assert [message.role for message in first.messages] == [said["role"] for said in messages]
    for other in others:
        assert other == first


@given(dialogues(steps=False), st.booleans())
def test_one_plain_dialogue_is_the_same_in_the_older_forms(dialogue, has_input):
    messages, _ = dialogue
    asked = messages[-2]["content"]
    messages[-2]["content"] = f"{asked}\n\nx" if has_input else asked
    beside = {"system": messages[0]["content"]} if messages[0]["role"] == "system" else {}
    turns = [said["content"] for said in messages if said["role"] != "system"]
    history = [turns[i : i + 2] for i in range(0, len(turns) - 2, 2)]
    alpaca = {"instruction": asked, "output": turns[-1], "history": history, **beside}
    expected = record({"messages": messages})
    assert record({**alpaca, "input": "x" if has_input else ""}) == expected
    if not history:
        question, answer = turns
        assert record({"prompt": question, "completion": answer, **beside}) == expected
        assert record({"question": question, "answer": answer, **beside}) == expected


# What each form adds.


def test_a_prompt_s_own_answers_are_not_trained():
    row = {"prompt": [USER, ASSISTANT, {**ASSISTANT, "weight": 2}, USER], "completion": "ha"}
    assert [m.weight for m in record(row).messages] == [None, 0.0, 2.0, None, None]


def test_sharegpt_speakers_and_their_other_names():
    speakers = ["system", "human", "user", "gpt", "chatgpt", "tool", "assistant"]
    row = {"conversations": [{"from": speaker, "value": "x"} for speaker in speakers]}
    roles = ["system", "user", "user", "assistant", "assistant", "tool", "assistant"]
    assert said(row) == [(role, "x") for role in roles]


def test_sharegpt_messages_keep_what_else_they_say():
    item = {"from": "gpt", "value": "x", "train": False, "thinking": "hm", "mood": "fine"}
    (message,) = record({"conversations": [item]}).messages
    assert message == Message("assistant", "x", "hm", weight=0.0, fields={"mood": "fine"})


def test_the_same_system_text_twice_is_one_message():
    row = {"messages": [{"role": "system", "content": "s"}, ASSISTANT], "system": "s"}
    assert said(row) == [("system", "s"), ("assistant", "ho")]
    assert said({**row, "system": ""}) == said({**row, "system": None}) == said(row)


def test_a_row_s_template_options_are_kept():
    kwargs = {"enable_thinking": False, "effort": "low"}
    for given_as in (kwargs, json.dumps(kwargs)):
        row = {"messages": [ASSISTANT], "chat_template_kwargs": given_as}
        assert record(row).template_options == kwargs
    assert record({"messages": [ASSISTANT]}).template_options == {}


def test_text_is_plain():
    assert record({"text": "plain"}) == PlainText("plain", "f.jsonl", 3)


def test_arrow_s_nulls_are_no_arguments():
    """Arrow gives each object the keys of all the others."""

    def row(**arguments):
        call = {"id": None, "function": {"name": "f", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "tool_calls": [call], "name": None}
        schema = {"properties": {"a": {"type": "string", "enum": None}, "b": None}}
        tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        return {"messages": [{**USER, "tool_calls": None}, message], "tools": tools, "x": None}

    first = record(row(a={"c": 1, "d": None}, b=None, e=[None, {"g": None}]), arrow=True)
    assert "None" not in repr(first.tools)
    (call,) = first.messages[1].tool_calls
    assert call == {"function": {"name": "f", "arguments": {"a": {"c": 1}, "e": [None, {}]}}}
    (call,) = record(row(b=None)).messages[1].tool_calls
    assert call["function"]["arguments"] == {"b": None}  # in JSON it stands because it is meant


# Columns and detection.


@pytest.mark.parametrize(
    "keys, form",
    [
        ("messages prompt prompt_id text", "messages"),
        ("conversations tools system", "sharegpt"),
        ("instruction input output text", "alpaca"),
        ("prompt completion text", "prompt_completion"),
        ("question answer input_ids", "question_answer"),
        ("input_ids labels text", "tokenized"),
        ("text id", "text"),
    ],
)
def test_the_form_is_found_by_the_keys(keys, form):
    assert formats.detect(keys.split(), {}) == form


def test_columns_name_the_keys_of_rows_and_of_messages():
    columns = {"messages": "dialog", "role": "speaker", "content": "text"}
    row = {"dialog": [{"speaker": "user", "text": "a"}, {"speaker": "assistant", "text": "b"}]}
    assert said(row, columns=columns) == [("user", "a"), ("assistant", "b")]
    columns = {"prompt": "question", "completion": "answer"}
    assert formats.detect(["question", "answer", "text"], columns) == "prompt_completion"
    row = {"question": "a", "answer": "b", "prompt": "not this"}
    assert said(row, columns=columns) == [("user", "a"), ("assistant", "b")]
    swapped = {"question": "answer", "answer": "question"}
    assert said(row, columns=swapped) == [("user", "b"), ("assistant", "a")]
    columns = {"conversations": "c", "from": "who", "system": "s"}
    row = {"c": [{"who": "gpt", "value": "b"}], "s": None}
    assert said(row, columns=columns) == [("assistant", "b")]


@pytest.mark.parametrize(
    "keys, columns, match",
    [
        (["query", "reply"], {}, r"keys \['query', 'reply'\]; the formats and .*question, answer"),
        (["query"], {"promt": "query"}, r"columns={'promt': 'query'}; did you mean 'prompt'\?"),
        (["messages", "q"], {"question": "q"}, r"\['messages', 'q'\] and columns={'question'"),
    ],
)
def test_keys_that_fit_no_form_are_listed(keys, columns, match):
    with pytest.raises(formats.FormatError, match=re.compile(match, re.DOTALL)):
        formats.detect(keys, columns)


def test_a_key_that_the_form_does_not_have_is_refused():
    match = r"columns={'complet': 'x'}: format 'prompt_completion' has no key 'complet'; did you "
    with pytest.raises(formats.FormatError, match=match + "mean 'completion'"):
        formats.check_columns("prompt_completion", {"complet": "x"})
    formats.check_columns("prompt_completion", {"completion": "x", "role": "y"})


ONE = {"messages": [ASSISTANT]}
GPT = {"from": "gpt", "value": "x"}
DEFECTS = [
    ("messages", {"message": []}, {}, r"format 'messages' needs; its keys are \['message'\]; did"),
    ("messages", {"a": []}, {"messages": "b"}, r"no column 'b', which columns maps to 'messages';"),
    ("alpaca", {"instruct": "x"}, {"instruction": "instrct"}, "did you mean 'instruct'"),
    (
        "messages",
        {"messages": [{"rol": "user"}]},
        {"role": "who"},
        r"messages\[0\] has no 'who', which columns maps to 'role'; its keys are \['rol'\]",
    ),
    ("messages", {"messages": ["x"]}, {"role": "who"}, r"messages\[0\] is 'x'; expected an object"),
    ("messages", {"messages": "[1"}, {}, "messages is not JSON: .* at column 3"),
    ("messages", {**ONE, "tools": [], "functions": []}, {}, "both 'tools' and 'functions'"),
    ("messages", {**ONE, "tools": 3}, {}, "tools is 3; expected a list"),
    ("messages", {**ONE, "system": 3}, {}, "system is 3; expected a string"),
    (
        "messages",
        {"messages": [{"role": "system", "content": "a"}, ASSISTANT], "system": "b"},
        {},
        "has system 'b' and a first message of role system; keep one",
    ),
    ("messages", {**ONE, "chat_template_kwargs": 3}, {}, "kwargs is 3; expected an object"),
    ("messages", {**ONE, "chat_template_kwargs": "{"}, {}, "chat_template_kwargs is not JSON: "),
    ("messages", {**ONE, "chat_template_kwargs": {"tools": ""}}, {}, "sets 'tools', which is not"),
    ("messages", {**ONE, "chat_template_kwargs": [1]}, {}, r"kwargs is \[1\]; expected an object"),
    (
        "messages",
        {**ONE, **dict.fromkeys(map(str, range(30)), 1), "messages": None},
        {},
        r"its keys are \['0', '1', .*\] and 10 more",
    ),
    ("prompt_completion", {"prompt": 3, "completion": "x"}, {}, "prompt is 3; expected a list"),
    ("prompt_completion", {"prompt": "x", "completion": []}, {}, r"completion=\[\]: there is no"),
    (
        "prompt_completion",
        {"prompt": [ASSISTANT], "completion": [USER]},
        {},
        r"completion has roles \['user'\]; none is assistant",
    ),
    ("alpaca", {"instruction": 3, "output": "x"}, {}, "instruction is 3; expected a string"),
    ("alpaca", {"instruction": "x", "output": "x", "input": 3}, {}, "input is 3"),
    (
        "alpaca",
        {"instruction": "x", "output": "x", "history": [["a"]]},
        {},
        r"history\[0\] is \['a'\]; expected \[instruction, output\]",
    ),
    ("alpaca", {"instruction": "x", "output": "x", "history": "ab"}, {}, r"history\[0\] is 'ab'"),
    ("question_answer", {"question": "x", "answer": 3}, {}, "answer is 3; expected a string"),
    ("text", {"text": 3}, {}, "text is 3; expected a string"),
    ("sharegpt", {"conversations": ["x"]}, {}, r"conversations\[0\] is 'x'; expected an object"),
    (
        "sharegpt",
        {"conversations": [USER]},
        {},
        "has 'role', not 'from'; set format='messages' and columns={'messages': 'conversations'}",
    ),
    ("sharegpt", {"conversations": [{**GPT, "from": "bot"}]}, {}, "from 'bot'; expected human"),
    ("sharegpt", {"conversations": [{**GPT, "value": 3}]}, {}, "value 3; expected a string"),
    (
        "sharegpt",
        {"conversations": [{"from": "function_call", "value": "{x"}]},
        {},
        r"conversations\[0\]: function_call is not JSON: .* at column 2",
    ),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "[]"}]}, {}, "is []: there"),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "3"}]}, {}, "is 3; exp"),
]


@pytest.mark.parametrize("form, row, columns, match", DEFECTS, ids=range(len(DEFECTS)))
def test_a_row_that_does_not_fit_its_form_says_so(form, row, columns, match):
    bad = record(row, form=form, columns=columns)
    assert isinstance(bad, BadRow), bad
    assert re.search(match if "[]: there" not in match else re.escape(match), str(bad))
    assert str(bad).startswith("f.jsonl:3: ")


def test_characters_that_json_text_may_not_have_are_refused_from_arrow_too():
    bad = record({"text": "a\0b", "other": "\0"}, arrow=True)
    assert bad.detail == r"has a NUL character in 'a\x00b'"
    assert record({"text": "ab", "other": "\0"}, arrow=True).text == "ab"


def test_the_work_can_be_sent_to_another_process():
    work, row = pickle.loads(pickle.dumps((formats.record_of, RawRow("f", 1, b'{"text": ""}'))))
    assert work(row, "text", {}) == PlainText("", "f", 1)
