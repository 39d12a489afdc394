"""All that messages say is in the rendering, by provenance; or the row says what is lost."""

import importlib.util
import json
from pathlib import Path

import pytest
from pages.template_check import control_tokens, special_tokens

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.render.template import ChatTemplate
from tests.data.chat import CHATML, conversation

CONTROLS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<think>' + c.function.name }}"
    "{% for k, v in c.function.arguments.items() %}{{ ' ' + k + '=' }}{{ VALUE }}{% endfor %}"
    "{{ '</think>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HARD = [
    "It\u2019s late.\nBye",
    "C:\\\u7528\u6237",
    "\U0001f600\n\"a\" 'b' <&>",
    "\u2028\x7f\t\\n",
    " e\n",
]


def template(source):
    return ChatTemplate(source, {"eos_token": "<|im_end|>"}, CONTROLS)


def trained(source, messages, tools=None):
    row = Conversation(tuple(messages), tools, "f", 1)
    texts, _ = template(source).training_texts(row)
    return [str.__getitem__(t.text, slice(s.start, s.stop)) for t in texts for s in t.spans]


def calling(**arguments):
    function = {"name": "say", "arguments": arguments}
    return [Message("user", "q"), Message("assistant", "", tool_calls=({"function": function},))]


@pytest.mark.parametrize("argument", HARD)
@pytest.mark.parametrize(
    "value",
    [
        "v | tojson",
        "v | tojson(ensure_ascii=true)",
        "c.function.arguments | tojson(indent=2)",
        "{'a': [c.function.arguments]} | string",
        "v | tojson | tojson",
        "v | e",
        "v | tojson | replace('<', '\\\\u003c') | replace('>', '\\\\u003e')",
        "v | replace('\\\\', '\\\\\\\\') | replace(\"'\", \"\\\\'\") | replace('\n', '\\\\n')",
        "'%s' % [v]",
    ],
)
def test_arguments_are_found_through_any_escape(value, argument):
    """Escaped and other characters side by side."""
    (span,) = trained(CALLS.replace("VALUE", value), calling(text=argument))
    assert span.startswith("<think>say text=") and span.endswith("</think><|im_end|>")


@pytest.mark.parametrize(
    "value, match",
    [
        ("v[:-1]", r"tool_calls\[0\].function.arguments.text loses '.'"),
        ("'v'", r"tool_calls\[0\].function.arguments.text is left out"),
        ("v | replace('a', 'b')", "arguments.text loses 'a'"),
        ("v | upper", "arguments.text is changed: 'it a.b' is 'IT A.B'"),
        ("v.split() | join('  ')", r"arguments.text is changed: '  ' stands where it has ' '"),
        ("(v | tojson)[:-2]", "arguments.text loses 'b'"),
    ],
)
def test_an_argument_that_is_not_whole_is_refused(value, match):
    with pytest.raises(RowError, match=rf"messages\[1\]: its .*{match}"):
        trained(CALLS.replace("VALUE", value), calling(text="it a.b"))


def test_a_value_deep_inside_and_a_second_call_are_missed():
    deep = calling(text=[{"k": ["x"]}])
    assert trained(CALLS.replace("VALUE", "v | tojson"), deep) == [
        '<think>say text=[{"k": ["x"]}]</think><|im_end|>'
    ]
    with pytest.raises(RowError, match=r"arguments.text\[0\].k\[0\] is left out: 'x'"):
        trained(CALLS.replace("VALUE", "v[0].keys() | list | tojson"), deep)
    twice = Message("assistant", "", tool_calls=deep[1].tool_calls * 2)
    one = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]").replace("VALUE", "v")
    with pytest.raises(RowError, match=r"messages\[1\]: its tool_calls\[1\].function.name is left"):
        trained(one, [deep[0], twice])


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_short_message_that_is_left_out_is_not_found_in_another(role):
    """They, "ok" and "42", stand everywhere."""
    source = CHATML.replace("{{ '<|im_start|>' +", "{% if m != 'ROLE' %}{{ '<|im_start|>' +")
    source = source.replace("'\\n' }}{% endfor", "'\\n' }}{% endif %}{% endfor")
    source = source.replace("m != 'ROLE'", f"message.role != '{role}'")
    talk = conversation(
        "ok 42", "ok 42", "ok", "42", roles=("user", "assistant", role, "assistant")
    )
    with pytest.raises(RowError, match=rf"messages\[2\]: its content is left out \(role '{role}'"):
        template(source).training_texts(talk)


def test_the_end_of_a_question_that_is_cut_off_is_missed():
    source = CHATML.replace("message['content']", "message['content'][:3]")
    with pytest.raises(RowError, match=r"messages\[0\]: its content loses 'd'"):
        template(source).training_texts(conversation("abcd", "abc"))


@pytest.mark.parametrize(
    "expression, shown",
    [
        ("X.split() | join(' ')", r"' ' stands where it has '\\n    '"),
        ("X | replace('\\n', ' ')", "' ' stands where it has"),
        ("X | indent(4)", r"'\\n    ' stands where it has '\\n'"),
        ("X | replace('    ', '')", "'' stands where it has '    '"),
        ("X.splitlines() | map('trim') | join('\\n')", "stands where it has"),
        ("X[:3] + ' ' + X[3:]", "' ' stands where it has ''"),
        ("X | title", "is changed: 'a:"),
    ],
)
def test_white_space_inside_an_answer_is_its_own(expression, shown):
    """What stands inside an answer is trained as it was said, or not at all."""
    said = "a:\n    if b\nc"
    source = CHATML.replace("message['content']", f"({expression.replace('X', 'message.content')})")
    with pytest.raises(RowError, match=rf"messages\[1\]: its content .*{shown}"):
        template(source).training_texts(conversation("q", said))
    trimmed = CHATML.replace("message['content']", "message['content'].strip()")
    assert trained(trimmed, conversation("q", f" {said}\n").messages) == [said + "<|im_end|>"]


def test_a_tool_that_is_left_out_is_named():
    source = "{{ tools[0] | tojson }}" + CHATML
    tools = tuple({"type": "function", "function": {"name": name}} for name in ("a", "b"))
    with pytest.raises(RowError, match=r"leaves out tools\[1\]"):
        trained(source, conversation("q", "b").messages, tools)


ROOT = importlib.util.find_spec("trl")
STOCK = Path(ROOT.submodule_search_locations[0]) / "chat_templates" if ROOT else None
NAMES = ("qwen2_5", "qwen3", "qwen3_6", "llama3_1", "gptoss", "glm4moe", "gemma4_v5", "lfm2_v2")


@pytest.mark.parametrize("name", NAMES)
def test_published_templates_train_hard_arguments(name):
    if STOCK is None or not (STOCK / f"{name}.jinja").is_file():
        pytest.skip(f"the package trl with {name}.jinja is not installed")
    source = (STOCK / f"{name}.jinja").read_text(encoding="utf-8")
    special = special_tokens(source)
    chat = ChatTemplate(source, special, control_tokens(source, special))
    for argument in HARD:
        messages = (*calling(text=argument, deep=[{argument: argument}]),)
        ((text, *_), _) = chat.training_texts(Conversation(messages, None, "f", 1))
        (span,) = text.spans
        said = str.__getitem__(text.text, slice(span.start, span.stop))
        forms = [
            argument,
            json.dumps(argument)[1:-1],
            json.dumps(argument, ensure_ascii=False)[1:-1],
        ]
        assert any(form in said for form in [*forms, forms[0].replace("\n", "\\n")])


@pytest.mark.parametrize(
    "written, shown",
    [
        ("(m ~ m)", "'hello'"),
        ("(m[2:] ~ m[:2])", "'he'"),
        ("m | reverse", "'l'"),
        ("(m | sort | join)", "'h'"),
        ("(m ~ '<|im_end|>' ~ m)", "'hello'"),
    ],
)
def test_an_answer_is_written_once_and_in_its_order(written, shown):
    source = (
        "{% for message in messages %}{% set m = message.content %}" + CHATML.partition("%}")[2]
    )
    source = source.replace("message['content']", written)
    with pytest.raises(RowError, match=rf"messages\[1\]: its content is written again.*: {shown}"):
        trained(source, conversation("q", "hello").messages)
