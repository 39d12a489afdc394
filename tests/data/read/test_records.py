"""A message, its tool calls and its tools are checked, and read alike however they are written."""

import pickle

import pytest

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.read.messages import parse_message
from jaxsft.data.read.tool_calls import check_required, parse_tools, required_of

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "ho"}
FUNCTION = {"name": "f", "arguments": {"a": [1, "b"], "c": None}}
AS_TEXT = {"name": "f", "arguments": '{"a": [1, "b"], "c": null}'}
CALL = {"type": "function", "function": FUNCTION}


def test_what_a_message_says_is_kept():
    message = {**ASSISTANT, "thinking": "hm", "weight": 0.5, "name": "n", "mood": "fine"}
    expected = Message("assistant", "ho", "hm", (), "n", 0.5, {"mood": "fine"})
    assert parse_message(message) == expected
    result = {"role": "tool", "content": "4", "name": "f", "tool_call_id": "7"}
    assert parse_message(result) == Message("tool", "4", name="f", fields={"tool_call_id": "7"})


def test_null_is_missing_but_not_within_arguments():
    nulls = dict.fromkeys(("name", "weight", "train", "thinking", "tool_calls", "refusal"))
    assert parse_message({**ASSISTANT, **nulls}) == Message("assistant", "ho")
    (call,) = parse_message({**ASSISTANT, "tool_calls": [CALL]}).tool_calls
    assert call["function"]["arguments"] == {"a": [1, "b"], "c": None}


@pytest.mark.parametrize("role, known", [("developer", "system"), ("function", "tool")])
def test_openai_has_two_names_for_a_role(role, known):
    assert parse_message({"role": role, "content": "x"}).role == known


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    assert parse_message({"role": "user", "content": parts}).content == "a b"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "value": "a"},
        {"type": "text", "content": "a", "text": None},
        {"type": "output_text", "text": "a"},
    ],
)
def test_a_text_part_has_other_names(part):
    assert parse_message({"role": "user", "content": [part]}).content == "a"
    part["type"] = "tool_use"
    with pytest.raises(RowError, match=r"type 'tool_use' and \w+ 'a' .*only text"):
        parse_message({"role": "user", "content": [part]})


def test_a_part_has_no_image_beside_its_text_and_may_be_empty():
    part = {"type": "text", "text": ""}
    assert parse_message({**ASSISTANT, "content": [part]}).content == ""
    with pytest.raises(RowError, match=r"content\[0\] has image 'a.png'; only text"):
        parse_message({**ASSISTANT, "content": [{**part, "image": "a.png"}]})


def text_parts(*said):
    return [{"type": "text", "text": text, **fields} for text, fields in said]


@pytest.mark.parametrize(
    "message, weight, parts",
    [
        ({"content": text_parts(("ab", {}), ("c", {}))}, None, ()),
        ({"content": text_parts(("ab", {"train": False}), ("c", {}))}, 1.0, ((2, 0.0), (3, None))),
        ({"content": text_parts(("ab", {"weight": 0}))}, 0.0, ((2, 0.0),)),
        ({"content": text_parts(("ab", {"loss": False})), "thinking": "hm"}, 1.0, ((2, 0.0),)),
        ({"content": text_parts(("ab", {"weight": 2})), "weight": 0.5}, 0.5, ((2, 2.0),)),
    ],
)
def test_a_part_of_a_content_has_a_weight(message, weight, parts):
    """Where all of it is untrained, the end of its turn is not trained either."""
    message = parse_message({"role": "assistant", **message})
    assert (message.weight, message.part_weights) == (weight, parts)


@pytest.mark.parametrize(
    "message, part, match",
    [
        ({"role": "user"}, {"train": True}, "role 'user' and is to be trained"),
        ({"role": "assistant", "weight": 0}, {"train": True}, "weight 0 and a part of 1; keep one"),
        ({"role": "assistant"}, {"train": "no"}, r"content\[0\] has train 'no'; expected true or"),
        ({"role": "assistant"}, {"mask": True}, r"content\[0\] has mask True, which is not read"),
        ({"role": "assistant", "weight": 1e-9}, {"weight": 1e-9}, "make 1e-18; expected a number"),
    ],
)
def test_a_weight_of_a_part_that_cannot_be_honoured_is_named(message, part, match):
    with pytest.raises(RowError, match=match):
        parse_message({**message, "content": text_parts(("ab", part))})


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_three_names(key):
    assert parse_message({**ASSISTANT, key: "hm"}).reasoning == "hm"
    assert parse_message({**ASSISTANT, key: "hm", "thinking": "hm"}).reasoning == "hm"
    assert parse_message({**USER, key: ""}).reasoning is None


@pytest.mark.parametrize(
    "fields, weight",
    [
        ({"weight": 2}, 2.0),
        ({"loss_weight": 0.5}, 0.5),
        ({"train": True}, 1.0),
        ({"loss_scale": 3}, 3.0),
        ({"train": False, "weight": 0}, 0.0),
        ({"loss": False}, 0.0),
        ({}, None),
    ],
)
def test_weight_has_four_names(fields, weight):
    assert parse_message({**ASSISTANT, **fields}).weight == weight


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_calls": [{"type": "function", "function": {**FUNCTION}}]},
        {"tool_calls": [FUNCTION]},
        {"tool_calls": [{"type": "function", "function": AS_TEXT}]},
        {"function_call": AS_TEXT},
        {"function_call": FUNCTION, "tool_calls": []},
    ],
)
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {"content": []}, {}])
def test_a_call_is_the_same_however_it_is_written(fields, content):
    """D2."""
    message = parse_message({"role": "assistant", **content, **fields})
    assert message == Message("assistant", "", tool_calls=(CALL,))


def test_a_call_keeps_its_id_and_may_have_no_arguments():
    calls = [{"id": "7", "name": "f"}, {"id": "8", "function": {"name": "g", "arguments": " "}}]
    first, second = parse_message({**ASSISTANT, "tool_calls": calls}).tool_calls
    assert first == {"type": "function", "id": "7", "function": {"name": "f", "arguments": {}}}
    assert second == {"id": "8", "function": {"name": "g", "arguments": {}}}


@pytest.mark.parametrize(
    "call",
    [
        {"type": "function", "function": {"name": "f", "parameters": {"q": "oslo"}}},
        {"type": "function", "function": {"name": "f"}, "arguments": {"q": "oslo"}},
        {"type": "tool_call", "name": "f", "args": {"q": "oslo"}},
        {"name": "f", "input": '{"q": "oslo"}'},
        {"name": "f", "arguments": None, "tool_input": {"q": "oslo"}},
    ],
)
def test_arguments_under_another_key_are_the_arguments(call):
    (read,) = parse_message({"role": "assistant", "tool_calls": [call]}).tool_calls
    assert read == {"type": "function", "function": {"name": "f", "arguments": {"q": "oslo"}}}


def test_a_call_of_a_function_that_needs_arguments_has_some():
    tools = parse_tools([{"name": "f", "parameters": {"required": ["q"]}}, {"name": "g"}])
    calls = [{"type": "function", "function": {"name": n, "arguments": {}}} for n in "gf"]
    required = required_of(tools)
    check_required((calls[0],), required, "messages[1]")
    with pytest.raises(RowError, match=r"messages\[1\] calls 'f' without arguments.*\['q'\]"):
        check_required(tuple(calls), required, "messages[1]")


TOOL = {"name": "f", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": TOOL}],
        [TOOL],
        [{"type": "function", **TOOL}],
        '[{"name": "f", "parameters": {"type": "object"}}]',
        ['{"name": "f", "parameters": {"type": "object"}}'],
    ],
)
def test_a_tool_is_the_same_however_it_is_written(tools):
    assert parse_tools(tools) == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("tools", [None, [], "", " ", "[]"])
def test_no_tools_are_none(tools):
    assert parse_tools(tools) is None


def test_tools_of_another_kind_stay_as_they_are():
    tool = {"type": "retrieval", "name": "r"}
    assert parse_tools([tool]) == (tool,)


DEFECTS = [
    ("hi", "^message is 'hi'; expected an object"),
    ({"content": "x"}, "role None; expected system, user, assistant or tool"),
    ({"role": "assitant", "content": ""}, "role 'assitant'; expected system, user"),
    ({"role": ["user"], "content": "x"}, r"role \['user'\]"),
    ({"role": "user", "content": None}, "content None; expected a string or a list of text"),
    ({"role": "assistant"}, "content None"),
    ({"role": "assistant", "content": []}, "content None"),
    ({"role": "assistant", "content": 4}, "content 4"),
    ({"role": "tool", "content": {"a": 1}}, r"content {'a': 1}"),
    ({"role": "user", "content": ["x"]}, r"content\[0\] is 'x'; expected {\"type\": \"text\""),
    (
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
        r"content\[1\] has type 'image_url' .its keys are \['type'\].; only text can be trained",
    ),
    ({"role": "user", "content": [{"type": "text", "text": 3}]}, "type 'text' and text 3"),
    ({**ASSISTANT, "name": 3}, "name 3"),
    ({**ASSISTANT, "thinking": 3}, "thinking 3"),
    ({**ASSISTANT, "thinking": "a", "reasoning": "b"}, "thinking 'a' and reasoning 'b'; keep one"),
    ({**USER, "thinking": "a"}, "role 'user' and thinking 'a'; only assistants reason"),
    ({**ASSISTANT, "weight": -1}, "weight -1; expected a number of 0"),
    ({**ASSISTANT, "weight": float("nan")}, "weight nan"),
    ({**ASSISTANT, "weight": True}, "weight True"),
    ({**ASSISTANT, "weight": 1e39}, r"weight 1e\+39; expected a number of 0, or from 1e-12 to 1e"),
    ({**ASSISTANT, "weight": 10**400}, "weight 1000000"),
    ({**ASSISTANT, "loss_weight": 1e-46}, "loss_weight 1e-46"),
    ({**ASSISTANT, "deleted": True}, r"deleted True, which is not read; say 'train'"),
    ({**ASSISTANT, "keep": "no"}, r"keep 'no', which is not read; say 'train'"),
    ({**ASSISTANT, "mask": [0, 1]}, r"mask \[0, 1\], which is not read; say 'train'"),
    ({**USER, "train": True}, r"role 'user' and is to be trained .weight 1., but only an assist"),
    ({"role": "system", "content": "x", "weight": 0.5}, "role 'system' and is to be trained"),
    ({**USER, "images": ["a.png"]}, r"images \['a.png'\]; only text can be trained"),
    ({**ASSISTANT, "loss_weight": "1"}, "loss_weight '1'"),
    ({**ASSISTANT, "train": 1}, "train 1; expected true or false"),
    ({**ASSISTANT, "loss": "no"}, "loss 'no'; expected true or false"),
    ({**ASSISTANT, "train": True, "weight": 0}, r"weights {'weight': 0.0, 'train': 1.0}; keep one"),
    ({**ASSISTANT, "tool_calls": "f"}, "tool_calls 'f'; expected a list"),
    ({**USER, "tool_calls": [CALL]}, "role 'user' and tool_calls; only an assistant"),
    ({**ASSISTANT, "tool_calls": [CALL], "function_call": FUNCTION}, "both function_call and tool"),
    ({**ASSISTANT, "tool_calls": [{"name": 1}]}, r"tool_calls\[0\] is {'name': 1}; expected"),
    ({**ASSISTANT, "tool_calls": ["f"]}, r"tool_calls\[0\] is 'f'"),
    (
        {**ASSISTANT, "function_calls": [CALL]},
        "function_calls .*; calls are read from 'tool_calls'",
    ),
    (
        {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": {}, "args": {"a": 1}}]},
        r"has arguments {} and args {'a': 1}; keep one",
    ),
    (
        {**ASSISTANT, "tool_calls": [{"function": {"name": "f", "body": {"a": 1}}}]},
        r"tool_calls\[0\] has no arguments but \['body'\]; they are read from arguments",
    ),
    ({**ASSISTANT, "tool_calls": [{"name": "f", "input": "{x"}]}, "input is not JSON"),
    (
        {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": "{x"}]},
        r"tool_calls\[0\]: arguments is not JSON: .* at column 2",
    ),
    ({**ASSISTANT, "tool_calls": [{"name": "f", "arguments": [1]}]}, r"arguments \[1\]; expected"),
    ({**ASSISTANT, "function_call": {"name": "f", "arguments": '"{}"'}}, "arguments '{}'; exp"),
]


@pytest.mark.parametrize("message, match", DEFECTS)
def test_a_defect_is_named(message, match):
    with pytest.raises(RowError, match=match):
        parse_message(message)


@pytest.mark.parametrize(
    "tools, match",
    [
        ([3], r"tools is \[3\]; expected a list of objects"),
        ({"name": "f"}, "tools is {'name': 'f'}; expected a list"),
        ("[{", "tools is not JSON: .* at column 3"),
        (["[{"], r"tools\[0\] is not JSON"),
        ('[{"name": "\\ud800"}]', "tools has the lone surrogate .ud800"),
    ],
)
def test_a_defect_of_tools_is_named(tools, match):
    with pytest.raises(RowError, match=match):
        parse_tools(tools)


def test_an_error_can_be_sent_between_processes():
    error = pickle.loads(pickle.dumps(RowError("unknown role", "role 'bot'")))
    assert (error.kind, str(error)) == ("unknown role", "role 'bot'")
