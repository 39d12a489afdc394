"""The parts of a turn: what is switched off carries no loss, what is on carries all of it."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.read.messages import parse_message
from tests.data.chat import make_tokenizer

# Reasoning and calls in the manner of Qwen3, history left as it is.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.reasoning_content %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}"
    "{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PARTS = ("content", "reasoning", "tool_calls", "tool_results", "end_of_turn")
LETTERS = {"content": "C", "reasoning": "R", "tool_calls": "K", "tool_results": "T"}


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatTokenizer(make_tokenizer(tmp_path_factory.mktemp("parts"), TEMPLATE))


def call(argument):
    return {"type": "function", "function": {"name": "look", "arguments": {"at": argument}}}


def assistant(content="", reasoning=None, *arguments, **fields):
    return Message("assistant", content, reasoning, tuple(map(call, arguments)), **fields)


def talk(*messages):
    return Conversation((Message("user", "q"), *messages), None, "f", 1)


WHOLE = talk(
    assistant("Let me see.", "hm", "here"), Message("tool", "sun"), assistant("It shines.", "so")
)


def trained(chat, conversation, *parts, train_on="all_turns"):
    (example,) = chat.encode(conversation, train_on, None, parts)
    assert sum(b - a for a, b in example.spans) == (example.weights != 0).sum()
    return [chat.decode(example.ids[a:b]) for a, b in example.spans]


CALL = '\n<tool_call>\n{"name": "look", "arguments": {"at": "here"}}\n</tool_call>'
FIRST, SECOND = "<think>\nhm\n</think>\n\nLet me see.", "<think>\nso\n</think>\n\nIt shines."
PICTURES = {
    ("content", "reasoning", "tool_calls", "end_of_turn"): [
        FIRST + CALL + "<|im_end|>",
        SECOND + "<|im_end|>",
    ],
    ("content", "reasoning", "end_of_turn"): [FIRST, "<|im_end|>", SECOND + "<|im_end|>"],
    ("content", "reasoning", "tool_calls"): [FIRST + CALL, SECOND],
    # The marks stay: the model still opens and closes its thinking.
    ("content", "end_of_turn"): [
        "<think>\n",
        "\n</think>\n\nLet me see.",
        "<|im_end|>",
        "<think>\n",
        "\n</think>\n\nIt shines.<|im_end|>",
    ],
    ("reasoning",): ["<think>\nhm\n</think>\n\n", "<think>\nso\n</think>\n\n"],
    ("tool_calls",): [CALL],
    ("tool_results",): ["sun"],
    ("end_of_turn",): ["<|im_end|>", "<|im_end|>"],
    PARTS: [FIRST + CALL + "<|im_end|>", "sun", SECOND + "<|im_end|>"],
}


@pytest.mark.parametrize("parts", PICTURES, ids="+".join)
def test_the_parts_of_a_turn(chat, parts):
    assert trained(chat, WHOLE, *parts) == PICTURES[parts]


def in_parts(*said, role="assistant", **fields):
    parts = [{"type": "text", "text": text, **own} for text, own in said]
    return parse_message({"role": role, "content": parts, **fields})


UNTRAINED = {"train": False}
PARTED = {
    "first untrained": ([("no", UNTRAINED), ("YES", {})], {}, [("YES<|im_end|>", 1)]),
    "middle": (
        [("YES", {}), ("no", UNTRAINED), ("AND", {"weight": 1})],
        {},
        [("YES", 1), ("AND<|im_end|>", 1)],
    ),
    "weights": (
        [("A", {"weight": 2}), ("B", {"weight": 2}), ("C", {})],
        {"weight": 0.5},
        [("AB", 1), ("C<|im_end|>", 0.5)],
    ),
    "all": ([("no", UNTRAINED), ("no", UNTRAINED)], {}, []),
    "reasoning stays": (
        [("no", UNTRAINED)],
        {"reasoning": "hm"},
        [("<think>\nhm\n</think>\n\n", 1), ("<|im_end|>", 1)],
    ),
}


@pytest.mark.parametrize("said, fields, expected", PARTED.values(), ids=PARTED)
def test_a_part_of_a_content_is_trained_by_its_own_weight(chat, said, fields, expected):
    (example,) = chat.encode(talk(in_parts(*said, **fields), assistant("Z")))
    spans = [(chat.decode(example.ids[a:b]), set(example.weights[a:b])) for a, b in example.spans]
    assert spans == [*((text, {weight}) for text, weight in expected), ("Z<|im_end|>", {1})]
    assert not example.boundary_tokens
    whole = assistant("".join(text for text, _ in said), fields.get("reasoning"))
    (plain,) = chat.encode(talk(whole, assistant("Z")))
    assert example.ids.tolist() == plain.ids.tolist()


def test_a_part_keeps_its_weight_where_the_template_strips_the_content(tmp_path):
    stripping = TEMPLATE.replace("m.content }}", "m.content | trim }}")
    chat = ChatTokenizer(make_tokenizer(tmp_path, stripping))
    (example,) = chat.encode(talk(in_parts(("  no", UNTRAINED), ("YES ", {}))))
    assert [chat.decode(example.ids[a:b]) for a, b in example.spans] == ["YES<|im_end|>"]


def test_parts_of_a_turn_that_is_not_trained_change_nothing(chat):
    said = in_parts(("A", {"weight": 0.5}), ("B", {"weight": 2}))
    spans = []
    for first in (said, assistant("AB")):
        row = talk(first, Message("user", "q"), assistant("Z"))
        assert trained(chat, row, *PARTS, train_on="last_turn") == ["Z<|im_end|>"]
        (example,) = chat.encode(row, "last_turn", None, PARTS)
        spans.append((example.spans, example.weights.tolist(), example.boundary_tokens))
    assert spans[0] == spans[1] and spans[0][2] == 0


def test_of_a_tools_message_its_content_alone_is_trained(tmp_path):
    naming = TEMPLATE.replace("{{ m.content }}", "{{ m.name or '' }}{{ m.content }}")
    chat = ChatTokenizer(make_tokenizer(tmp_path, naming))
    result = Message("tool", "SUN", fields={"name": "NAME"})
    row = talk(assistant("", None, "here"), result, assistant("Z"))
    assert trained(chat, row, "tool_results") == ["SUN"]
    (example,) = chat.encode(row)
    assert "NAMESUN" in chat.decode(example.ids)


def test_a_part_is_trained_whole_where_the_template_escapes_it(tmp_path):
    escaping = TEMPLATE.replace("m.content }}", "m.content | tojson }}")
    chat = ChatTokenizer(make_tokenizer(tmp_path, escaping))
    said = (("NO", UNTRAINED), ('Y\nE"', {}), ("\nNO\n", UNTRAINED), ('"S', {}))
    (example,) = chat.encode(talk(in_parts(*said)))
    found = [chat.decode(example.ids[a:b]) for a, b in example.spans]
    assert found == ['"', 'Y\\nE\\"', '\\"S"<|im_end|>']


def test_a_tools_result_is_trained_where_it_says_so_or_the_row_is_refused(chat):
    result = in_parts(("no", UNTRAINED), ("SUN", {"train": True}), role="tool")
    row = talk(assistant("", None, "here"), result, assistant("Z"))
    assert trained(chat, row, "tool_results") == ["SUN"]
    with pytest.raises(RowError, match=r"messages\[2\] has role 'tool' and is to .* no 'tool_res"):
        chat.encode(row)


def words(part):
    return st.text(alphabet=LETTERS[part], min_size=1, max_size=4)


@settings(max_examples=60)
@given(
    turns=st.lists(
        st.tuples(
            words("content") | st.just(""),
            words("reasoning") | st.none(),
            st.lists(words("tool_calls"), max_size=2),
            st.lists(words("tool_results"), max_size=2),
        ),
        min_size=1,
        max_size=3,
    ),
    parts=st.sets(st.sampled_from(PARTS), min_size=1),
)
def test_each_part_is_trained_wholly_or_not_at_all(chat, turns, parts):
    """No template writes capitals and the tokenizer merges none, so letters tell the parts."""
    messages = []
    for content, reasoning, arguments, results in turns:
        messages.append(assistant(content, reasoning, *arguments))
        messages += [Message("tool", result) for result in results]
    if messages[-1].role == "tool":
        messages.append(assistant("CC"))
    conversation = talk(*messages)
    text = "".join(trained(chat, conversation, *parts))
    (example,) = chat.encode(conversation, "all_turns", None, tuple(parts))
    whole = chat.decode(example.ids)
    for part, letter in LETTERS.items():
        assert text.count(letter) == (whole.count(letter) if part in parts else 0)
    num_turns = sum(message.role == "assistant" for message in messages)
    assert text.count("<|im_end|>") == (num_turns if "end_of_turn" in parts else 0)
    if "tool_calls" not in parts:
        assert "tool_call>" not in text and "look" not in text
    assert "<|im_start|>" not in text and "user" not in text


def test_parts_add_up(chat):
    """What two parts train together each of them trains, but for the frame that they share."""
    kept = [parts for n in (1, 2) for parts in itertools.combinations(PARTS, n)]
    masks = {}
    for parts in kept:
        (example,) = chat.encode(WHOLE, "all_turns", None, parts)
        masks[parts] = example.weights
    for one, two in itertools.combinations(PARTS, 2):
        together = masks[one, two].tolist()
        assert together == (masks[one,] + masks[two,]).clip(max=1).tolist()


def test_reasoning_without_content_still_closes(chat):
    silent = talk(assistant("", "hm"))
    assert trained(chat, silent, "content") == ["<think>\n", "\n</think>\n\n"]
    assert trained(chat, silent, "tool_calls") == []
    # Beside a call the closing mark belongs to the call's scaffolding.
    calling = talk(assistant("", "hm", "here"))
    assert trained(chat, calling, "reasoning") == ["<think>\nhm"]
    assert trained(chat, calling, "tool_calls") == ["\n</think>\n\n" + CALL]


@pytest.mark.parametrize("parts", [("content", "end_of_turn"), ("reasoning", "end_of_turn")])
@pytest.mark.parametrize("mark", ["</think>", "[/THINK]"])
def test_reasoning_inside_the_content_is_refused(chat, parts, mark):
    inline = talk(assistant(f"hm{mark}yes"))
    with pytest.raises(RowError, match=f"its content holds '{re.escape(mark)}'.*reasoning_content"):
        chat.encode(inline, "all_turns", None, parts)
    for both in (("content", "reasoning"), ("tool_calls",)):
        chat.encode(inline, "all_turns", None, both)
    earlier = talk(assistant(f"hm{mark}yes"), Message("user", "q"), assistant("yes"))
    assert trained(chat, earlier, *parts, train_on="last_turn") != []


def test_a_border_inside_a_token_is_counted(tmp_path):
    """The corpus has " hello" as one token: the space is the frame's, the word the reasoning's."""
    source = TEMPLATE.replace("'<think>\\n'", "'<think> '").replace("'\\n</think>", "'</think>")
    chat = ChatTokenizer(make_tokenizer(tmp_path, source))
    conversation = talk(assistant("fox", "hello"))
    (example,) = chat.encode(conversation, "all_turns", None, ("content", "end_of_turn"))
    assert example.boundary_tokens == 1
    assert trained(chat, conversation, "content", "end_of_turn") == [
        "<think>",
        "</think>\n\nfox<|im_end|>",
    ]


def test_results_are_trained_where_the_turn_that_reads_them_is(chat):
    results = (Message("tool", "one", weight=0.5), Message("tool", "two", weight=0.0))
    conversation = talk(
        *(assistant("", None, "a"), *results, assistant("so")),
        *(Message("user", "q"), assistant("", None, "b"), Message("tool", "three")),
        assistant("well"),
    )
    parts = ("tool_results", "content")
    assert trained(chat, conversation, *parts) == ["one", "so", "three", "well"]
    assert trained(chat, conversation, *parts, train_on="last_turn") == ["three", "well"]
    (example,) = chat.encode(conversation, "all_turns", None, parts)
    assert set(example.weights.tolist()) == {0.0, 0.5, 1.0}
    unread = talk(assistant("", None, "a"), Message("tool", "never read"))
    assert trained(chat, unread, "tool_results") == []


def test_results_of_rewritten_history_are_trained_once(tmp_path):
    """Each supervised turn is an example of its own there."""
    source = TEMPLATE.replace(
        "{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}"
    )
    chat = ChatTokenizer(make_tokenizer(tmp_path, source))
    messages = (assistant("", "hm", "a"), Message("tool", "sun"), assistant("so", "hm"))
    more = (Message("user", "q"), assistant("yes", "ok"))
    examples = chat.encode(talk(*messages, *more), "all_turns", None, PARTS)
    assert len(examples) == 3 and all(example.is_split for example in examples)
    texts = [[chat.decode(e.ids[a:b]) for a, b in e.spans] for e in examples]
    assert [text.count("sun") for text in texts] == [0, 1, 0]


def test_the_message_weight_holds_for_every_part(chat):
    conversation = talk(assistant("yes", "hm", weight=0.25))
    for parts in (PARTS, ("reasoning",), ("content", "end_of_turn")):
        (example,) = chat.encode(conversation, "all_turns", None, parts)
        assert set(example.weights.tolist()) == {0.0, 0.25}


def test_qwen3(published):
    chat = published("qwen3")
    said = {"role": "assistant", "content": "There.", "reasoning_content": "Look."}
    conversation = talk(parse_message(said))
    assert trained(chat, conversation, "content", "end_of_turn") == [
        "<think>\n",
        "</think>\n\nThere.<|im_end|>",
    ]
    assert trained(chat, conversation, "reasoning") == ["<think>\nLook.\n</think>\n\n"]
