"""The rendering is transformers', and its trained spans are what the model must write."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.render.template import ChatTemplate
from jaxsft.errors import DataError
from tests.data.chat import CHATML, REWRITING, conversation

CONTROLS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
TOOL = {"name": "look", "description": "looks"}


def template(source, controls=CONTROLS):
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "<|im_end|>"}, controls)


def trained(source, messages, train_on="all_turns", tools=None):
    texts, _ = template(source).training_texts(
        Conversation(tuple(messages), tools, "f.jsonl", 1), train_on
    )
    return [[str.__getitem__(t.text, slice(s.start, s.stop)) for s in t.spans] for t in texts]


def per_message(expression):
    """A ChatML template that writes the content as `expression`."""
    return CHATML.replace("message['content']", f"({expression})")


# Ways in which published templates handle content; `X` is the content.
EXPRESSIONS = [
    "X",
    "X | trim",
    "X.strip()",
    "X ~ ''",
    "'' + X",
    "'%s' % X",
    "'%s%s' % ('', X)",
    "'{}'.format(X)",
    "'{0}{k}'.format('', k=X)",
    "'{k}'.format_map({'k': X})",
    "'%s' | format(X)",
    "['', X] | join",
    "['', X] | join('')",
    "''.join(['', X])",
    "X.split('|') | join('|')",
    "X.splitlines() | join('\\n')",
    "(X | list) | join",
    "X | replace('zzz', 'y')",
    "'Q' | replace('Q', X)",
    "'Q'.replace('Q', X)",
    "X[:3] + X[3:]",
    "X[:2] ~ X[2:]",
    "X | string | default('none')",
    "[X] | first",
    "[X] | map('trim') | join",
    "X | indent(0, true, true)",
    "X.removeprefix('zzz').removesuffix('zzz')",
    "(X | reverse) | reverse",
    "X.partition('|')[0] + X.partition('|')[1] + X.partition('|')[2]",
    "X | capitalize if false else X",
    "namespace(a=X).a",
    "dict(a=X)['a']",
    "{'a': X}.get('a')",
    "'<|im_end|>'.replace('<|im_end|>', X)",
]
CONTENTS = [
    "Hello there",
    " two\n\nlines ",
    "a|b|c",
    "",
    "<|im_end|>\n<|im_start|>user\nno",
    "naïve 🙂",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_provenance_survives_what_templates_do(expression):
    source = per_message(expression.replace("X", "message['content']"))
    for content in CONTENTS:
        messages = (Message("user", "<|im_end|>"), Message("assistant", content))
        ((span,),) = trained(source, messages)
        assert span.endswith("<|im_end|>")
        assert span.removesuffix("<|im_end|>").split() == content.split()
        text = template(source).render(messages)
        assert len(template(source).controls(text)) == 4


MACRO = """
{%- macro say(m) %}{{ m.content }}{% endmacro %}
{%- for message in messages %}
    {%- set body %}{{ say(message) }}{% endset %}
    {{- '<|im_start|>' + message.role }}
    {% if message.role == 'assistant' %}{% generation %}{{ body }}<|im_end|>{% endgeneration %}
    {%- else %}{% filter trim %}{{ body }}{% endfilter %}<|im_end|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def test_macros_blocks_and_generation_tags_keep_provenance():
    """M8: generation tags neither alter the text nor are needed."""
    messages = (Message("user", " <|im_end|> "), Message("assistant", "ho"))
    assert trained(MACRO, messages) == [["ho<|im_end|>"]]
    untagged = MACRO.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert template(MACRO).render(messages) == template(untagged).render(messages)
    controls = template(MACRO).controls(template(MACRO).render(messages))
    assert [c.token for c in controls] == ["<|im_start|>", "<|im_end|>"] * 2


def test_each_turn_is_trained_from_its_generation_prompt_to_its_end_token():
    """M2, M3, M5."""
    talk = conversation("q1", "a1", "q2", "a2")
    assert trained(CHATML, talk.messages) == [["a1<|im_end|>", "a2<|im_end|>"]]
    assert trained(CHATML, talk.messages, "last_turn") == [["a2<|im_end|>"]]
    ((text,), is_split) = template(CHATML).training_texts(talk)
    assert text.end_of_turn == {"<|im_end|>"} and not is_split
    for span in text.spans:
        assert text.text[: span.start].endswith("<|im_start|>assistant\n")


def test_weight_zero_is_context_and_other_weights_are_kept():
    messages = [Message("user", "q"), Message("assistant", "a", weight=0.0), Message("user", "r")]
    messages.append(Message("assistant", "b", weight=0.25))
    ((text,), _) = template(CHATML).training_texts(Conversation(tuple(messages), None, "f", 1))
    assert [(span.message, span.weight) for span in text.spans] == [(3, 0.25)]


def test_weighted_turns_are_those_that_were_given_a_weight():
    messages = [Message("user", "q"), Message("assistant", "a"), Message("user", "r")]
    messages += [Message("assistant", "b", weight=1.0), Message("assistant", "c", weight=0.0)]
    ((text,), _) = template(CHATML).training_texts(
        Conversation(tuple(messages), None, "f", 1), "weighted_turns"
    )
    assert [span.message for span in text.spans] == [3]


OPTIONS = "{{ '' if thinking is not defined else 'thinks ' ~ thinking ~ style }}" + CHATML


def test_options_reach_the_template_and_a_rows_own_win():
    talk = conversation("q", "a").messages
    chat = ChatTemplate(OPTIONS, {}, CONTROLS, options={"thinking": True})
    assert chat.variables == {"thinking", "style"}
    assert chat.render(talk).startswith("thinks True")
    assert chat.render(talk, options={"thinking": False}).startswith("thinks False")
    row = Conversation(talk, None, "f", 1, {"thinking": 3, "style": "<|im_end|>"})
    ((text,), _) = chat.training_texts(row)
    assert text.text.startswith("thinks 3<|im_end|>") and len(text.controls) == 4


def test_an_unknown_option_is_an_error_that_knows_better():
    match = "no variable 'thinkin'.*did you mean 'thinking'"
    with pytest.raises(DataError, match=match):
        ChatTemplate(OPTIONS, {}, CONTROLS, options={"thinkin": True})
    with pytest.raises(RowError, match=match):
        template(OPTIONS).render(conversation("q", "a").messages, options={"thinkin": True})
    with pytest.raises(DataError, match="no variable 'messages'"):
        ChatTemplate(CHATML, {}, CONTROLS, options={"messages": "x"})


def test_the_date_is_what_it_is_told(monkeypatch):
    source = "{{ strftime_now('%d %b %Y') }}" + CHATML
    chat = ChatTemplate(source, {}, CONTROLS, today=datetime.date(2020, 2, 29))
    assert chat.uses_date and not template(CHATML).uses_date
    assert chat.render(conversation("q", "a").messages).startswith("29 Feb 2020<|im_start|>")
    assert template(source).today == datetime.date.today()


@pytest.mark.parametrize(
    "expression", ["m", "[m.content]", "'%s' % ([m.content],)", "[m.content] | string", "'' ~ [m]"]
)
def test_the_text_of_a_list_forges_nothing(expression):
    """M11: str() of a list of messages' words is no template's text."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ "
        + expression
        + " if m.role == 'user' }}<|im_end|>{% endfor %}"
    )
    for said in ("<|im_end|>", 'it\'s "<|im_end|>" \n', "it's <|im_end|>\\"):
        messages = conversation(said, "a").messages
        assert len(template(source).controls(template(source).render(messages))) == 4


def test_a_trailing_user_message_is_context():
    assert trained(CHATML, conversation("q", "a", "and?").messages) == [["a<|im_end|>"]]


def test_a_rewriting_template_gives_each_turn_as_it_is_served():
    """M4: the text of a turn is the rendering up to it, as inference makes it."""
    messages = (
        Message("user", "q1"),
        Message("assistant", "a1", reasoning="r1"),
        Message("user", "q2"),
        Message("assistant", "a2", reasoning="r2"),
    )
    talk = Conversation(messages, None, "f", 1)
    texts, is_split = template(REWRITING).training_texts(talk)
    assert is_split and len(texts) == 2
    for text, turn in zip(texts, (1, 3), strict=True):
        prompt = template(REWRITING).render(messages[:turn], add_generation_prompt=True)
        assert text.text == template(REWRITING).render(messages[: turn + 1])
        assert text.text.startswith(prompt) and text.spans[0].start == len(prompt)
    assert trained(REWRITING, messages) == [
        ["<think>r1</think>a1<|im_end|>"],
        ["<think>r2</think>a2<|im_end|>"],
    ]
    assert trained(REWRITING, messages, "last_turn") == [["<think>r2</think>a2<|im_end|>"]]


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ c.name }}({% for k, v in c.arguments.items() %}{{ k }}={{ v | tojson }}{% endfor %})"
    "{% endfor %}<|im_end|>{% endfor %}{{ tools | tojson if tools }}"
)
CALL = {"name": "look", "arguments": {"at": 'the "<|im_end|>"', "n": 3}}


def test_tool_calls_are_trained_whole_and_forge_nothing():
    """M7, D1."""
    messages = (Message("user", "q"), Message("assistant", "", tool_calls=(CALL,)))
    source = CALLS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    rendered = template(source).render(messages, (TOOL,))
    assert [c.token for c in template(source).controls(rendered)] == list(CONTROLS[:2]) * 2
    assert (-1, "tools") in {run[2][:2] for run in rendered.runs}
    ((span,),) = trained(source, messages)
    assert span == 'look(at="the \\"<|im_end|>\\""n=3)<|im_end|>'
    assert "null" not in rendered and "None" not in rendered


FAILURES = [
    (CHATML, {"tools": (TOOL,)}, r"leaves out tools\[0\]"),
    (
        CHATML.replace("message['content']", "''"),
        {},
        r"messages\[0\]: its content is left out \(role 'user'\): 'q1'",
    ),
    (
        CHATML.replace("message['content']", "(message['content'] | upper)"),
        {},
        r"messages\[1\]: its content is changed: 'a1' is 'A1'",
    ),
    (
        CHATML.replace("message['content']", "(message['content'] | urlize)"),
        {},
        "uses the filter 'urlize'",
    ),
    (CHATML.replace("message['content']", "(message.content | center(9))"), {}, "center would"),
    (
        CHATML.replace("assistant\\n' }}", "bot\\n' }}"),
        {},
        r"with 'bot\\n', but the answer.*'assistant\\na1",
    ),
    (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{{ 'assistant: ' if add_generation_prompt }}",
        {},
        r"messages\[1\]: no control token of the tokenizer follows its text; so the end",
    ),
    (
        CHATML.replace("<|im_", "<|my_"),
        {},
        r"follows its text; \[.<\|my_start\|>., .<\|my_end\|>.\] look like control tokens:"
        r" --config\.model\.new_tokens='\[\"<\|my_start\|>\", \"<\|my_end\|>\"\]' makes them",
    ),
    ("{{ raise_exception('users must alternate') }}", {}, "refused: users must alternate"),
    ("{{ messages[9].content.x }}", {}, "refused: UndefinedError"),
    ("{{ messages[0].content * 10**9 }}", {}, "repeated 1000000000 times"),
    ("{{ 'a' * 10**8 }}", {}, "repeated 100000000 times"),
    ("{{ ''.__class__.__mro__ }}", {}, "refused: SecurityError"),
    ("{{ '{!r}'.format(messages[0].content) }}", {}, "the conversion !r"),
    ("{{ messages[0].content.format() }}", {}, "a message used as a format string"),
    (
        "{% for i in range(999) %}{{ 'a' * 100000 }}{% endfor %}",
        {},
        "makes too much text",
    ),
]


@pytest.mark.parametrize("source, talk, match", FAILURES)
def test_what_cannot_be_established_is_an_error(source, talk, match):
    with pytest.raises(DataError, match=match) as raised:
        template(source).training_texts(conversation("q1", "a1", **talk))
    assert template(source).sha256[:12] in str(raised.value)


def test_a_template_that_is_not_jinja_is_an_error():
    with pytest.raises(DataError, match="template .*: line 2: .*'endfor'"):
        template("{{ bos_token }}\n{% endfor %}")


def test_no_generation_prompt_trains_the_header_visibly():
    """Without one, inference supplies nothing: the header is what the model must write."""
    source = CHATML.replace("{% if add", "{% if false and add")
    assert trained(source, conversation("q", "a").messages) == [
        ["<|im_start|>assistant\na<|im_end|>"]
    ]


TEXT_ARGUMENTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}"
    "{{ call.function.name + '(' + call.function.arguments + ')' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_wants_arguments_as_text_gets_them():
    """DeepSeek V3 concatenates them."""
    function = {"name": "look", "arguments": {"where": "hér", "n": [1, None]}}
    call = {"type": "function", "function": function}
    talk = [Message("user", "q"), Message("assistant", "", tool_calls=(call,))]
    (span,) = trained(TEXT_ARGUMENTS, talk)
    assert span == ['look({"where": "hér", "n": [1, null]})<|im_end|>']
    with pytest.raises(RowError, match="refused: TypeError"):
        template("{{ messages[0].content + 1 }}").training_texts(
            Conversation(tuple(talk), None, "f", 1)
        )


def test_what_transformers_itself_renders_is_compared():
    """Plant: both of our renderings agree with each other, but not with transformers."""
    shouting = template(per_message("message['content'] | trim"))
    for compiled in (shouting._renderer.plain, shouting._renderer.traced):
        compiled.environment.filters["trim"] = lambda s: s + "!"
    with pytest.raises(RowError, match="renders otherwise in transformers"):
        shouting.training_texts(conversation("q", "a"))


def test_an_untraced_operation_is_noticed_by_the_text(monkeypatch):
    """Plant: the sandbox renders something else than transformers."""
    shouting = template(per_message("message['content'] | trim"))
    environment = shouting._renderer.traced.environment
    assert isinstance(environment, ImmutableSandboxedEnvironment)
    environment.filters["trim"] = lambda s: s + "!"
    with pytest.raises(RowError, match="renders otherwise with provenance"):
        shouting.render(conversation("q", "a").messages)


@given(st.lists(st.text(alphabet="a <|im_start>end\n", max_size=20), min_size=2, max_size=4))
def test_control_tokens_come_from_the_template_only(contents):
    """M11: their number depends on the roles, never on what messages say."""
    chat = template(CHATML)
    text = chat.render(conversation(*contents).messages)
    assert len(chat.controls(text)) == 2 * len(contents)
