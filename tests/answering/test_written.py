"""What a model wrote, as a message: what may be kept of it, and what may not."""

import pytest

from jaxsft.answering import written

CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'


def of(text, has_tools=False, ended=True, controls=lambda text: []):
    return written.of_text(
        text, has_tools=has_tools, ended=ended, seed=1, tokens=2, controls=controls
    )


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        (" Four.\n", None, "Four."),
        ("<think>\nTwo and two.\n</think>\n\nFour.", "Two and two.", "Four."),
        ("Two and two.</think>Four.", "Two and two.", "Four."),
        ("<think></think>Four.", None, "Four."),
        ("[THINK]hm[/THINK]Four.", "hm", "Four."),
        ("Write <think>a</think> so.", None, "Write <think>a</think> so."),
    ],
)
def test_reasoning_stands_in_its_own_field(text, reasoning, content):
    message = of(text).message
    assert message["content"] == content and message.get("reasoning_content") == reasoning
    assert of(text).why is None


def test_calls_are_calls_where_there_are_tools():
    answer = of(f"Let me see. {CALL}", has_tools=True)
    assert answer.message["content"] == "Let me see." and answer.why is None
    (call,) = answer.message["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": {"x": 1}}
    assert '"name": "f"' in answer.scored_text and "Let me see." in answer.scored_text
    assert of(CALL).message["content"] == CALL


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (of("Four", ended=False), written.CUT),
        (of(" \n"), written.EMPTY),
        (of("<think>hm</think> "), written.EMPTY),
        (of("<think>hm"), written.NOT_ENDED_THINKING),
        (of("a<|x|>", controls=lambda text: ["<|x|>"] if "<|x|>" in text else []), written.CONTROL),
        (of("a\0b"), written.NO_MESSAGE),
        (written.checked({"role": "assistant", "tool_calls": 7}, 1, 2), written.NO_MESSAGE),
    ],
)
def test_what_no_row_should_have_is_refused(answer, why):
    assert answer.why == why and answer.detail
