"""Tool calls as models spell them."""

import pytest

from jaxsft.generation.called import tool_calls, words_before

ADD = {"name": "add", "arguments": {"x": 1, "y": [2, {"z": "}"}]}}
JSON = '{"name": "add", "arguments": {"x": 1, "y": [2, {"z": "}"}]}}'
NOW = {"name": "now", "arguments": {}}


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"<tool_call>\n{JSON}\n</tool_call>", [ADD]),
        (
            f'Let me see.\n<tool_call>{JSON}</tool_call>\n<tool_call>{{"name": "now", '
            '"arguments": {}}</tool_call>',
            [ADD, NOW],
        ),
        (f"[TOOL_CALLS][{JSON}]", [ADD]),
        (f'[TOOL_CALLS] [{JSON}, {{"name": "now", "arguments": {{}}}}]', [ADD, NOW]),
        ("[TOOL_CALLS]now{}", [NOW]),
        ("[TOOL_CALLS]now[ARGS]{}", [NOW]),
        (JSON.replace("arguments", "parameters"), [ADD]),
        (f"<|python_tag|>{JSON}", [ADD]),
        ('<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}}', [NOW]),
        ("The answer is {x}.", []),
        ('{"answer": 4}', []),
        ("<tool_call>not JSON</tool_call>", []),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', []),
        ('<tool_call>{"name": "cut", "argum', []),
        ("", []),
    ],
)
def test_calls_are_found(text, calls):
    assert tool_calls(text) == [{"type": "function", "function": call} for call in calls]


def test_what_is_said_before_a_call():
    assert words_before(f"Let me see.\n<tool_call>{JSON}") == "Let me see."
    assert words_before(JSON) == ""
