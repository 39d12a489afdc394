"""A turn ends where the model must stop, whatever the template writes after it."""

import pytest

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.render.template import ChatTemplate
from tests.data.chat import conversation

CONTROLS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


def template(source):
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "<|im_end|>"}, CONTROLS)


def trained(source, messages, train_on="all_turns"):
    texts, _ = template(source).training_texts(
        Conversation(tuple(messages), None, "f.jsonl", 1), train_on
    )
    return [[str.__getitem__(t.text, slice(x.start, x.stop)) for x in t.spans] for t in texts]


HEADER = "{{ '<|im_start|>' + m.role + '\\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def loop(body, after=""):
    return "{% for m in messages %}" + HEADER + body + "{% endfor %}" + after + PROMPT


# What a template writes after an answer: the spans that are trained, and whether it is split.
ENDINGS = {
    "a token after the conversation is context (Phi-3)": (
        loop("{{ m.content }}<|im_end|>\n", "{{ eos_token if not add_generation_prompt }}"),
        [["a1<|im_end|>", "a2<|im_end|>"]],
    ),
    "an end of conversation instead of an end of turn (gpt-oss)": (
        loop("{{ m.content }}{{ '</think>' if loop.last and m.role != 'user' else '<|im_end|>' }}"),
        [["a1</think>"], ["a2</think>"]],
    ),
    "none but the next header, which is appended to the last (GLM)": (
        loop("{{ m.content }}"),
        [["a1<|im_start|>", "a2<|im_start|>"]],
    ),
    "two tokens (Command R7B)": (
        loop("{{ m.content }}</think><|im_end|>\n"),
        [["a1</think><|im_end|>", "a2</think><|im_end|>"]],
    ),
    "a generation prompt that nobody asked for (Llama 3)": (
        loop("{{ m.content }}<|im_end|>")[: -len(PROMPT)] + PROMPT[30:-11],
        [["a1<|im_end|>", "a2<|im_end|>"]],
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_turn_ends_where_the_model_must_stop(name):
    """M2, M3: learnt from what stands between a turn and one more message."""
    source, expected = ENDINGS[name]
    talk = conversation("q1", "a1", "q2", "a2").messages
    assert trained(source, talk) == expected
    assert trained(source, talk, "last_turn") == [expected[-1][-1:]]
    ((text, *_), _) = template(source).training_texts(Conversation(talk, None, "f", 1), "last_turn")
    rendered = template(source).render(talk)
    assert text.text == rendered + text.appended
    assert bool(text.appended) == ("header" in name)


GLM_CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' if m.role != 'tool' else '<|tool|>' }}{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<think>{{ c.name }}</think>{% endfor %}"
    "{% endfor %}" + PROMPT
)


def test_a_token_between_two_calls_ends_no_turn():
    """It stands where a turn of two calls goes on; so the next header ends this one."""
    calls = ({"name": "look", "arguments": {}},)
    messages = (Message("user", "q"), Message("assistant", "", tool_calls=calls))
    chat = ChatTemplate(GLM_CALLS, {"eos_token": "</s>"}, (*CONTROLS, "<|tool|>"))
    ((text,), _) = chat.training_texts(Conversation(messages, None, "f", 1))
    assert text.text.endswith("<think>look</think><|tool|>") and text.end_of_turn == {"<|tool|>"}
    closed = GLM_CALLS.replace("{{ m.content }}", "{{ m.content }}{{ '</s>' if not m.tool_calls }}")
    chat = ChatTemplate(closed, {"eos_token": "</s>"}, (*CONTROLS, "<|tool|>", "</s>"))
    with pytest.raises(
        RowError, match=r"messages\[1\]: it ends with '</think>', but other .*'</s>'"
    ):
        chat.training_texts(Conversation(messages, None, "f", 1))


def test_a_header_that_no_user_or_tool_message_has_ends_no_turn():
    """GLM: the model stops at <|user|> or <|observation|>, never at another answer's header."""
    source = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{{ '<|assistant|>' if add_generation_prompt }}"
    )
    roles = ("user", "assistant", "assistant", "user", "assistant")
    talk = conversation("q", "a", "b", "r", "c", roles=roles)
    chat = ChatTemplate(source, {}, ("<|user|>", "<|assistant|>", "<|tool|>"))
    texts, is_split = chat.training_texts(talk)
    assert is_split and [text.text for text in texts] == [
        "<|user|>q<|assistant|>a<|user|>",
        "<|user|>q<|assistant|>a<|assistant|>b<|user|>",
        "<|user|>q<|assistant|>a<|assistant|>b<|user|>r<|assistant|>c<|user|>",
    ]


PREFILLING = (
    "{% for m in messages %}" + HEADER + "{{ m.content.split('</think>')[-1] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_an_answer_goes_on_where_the_generation_prompt_left_off():
    """DeepSeek R1 prompts with <think>, and leaves the reasoning out of a conversation."""
    messages = conversation("q1", "<think>\nr</think>a1", "q2", "<think>\n</think>a2").messages
    (first, second), is_split = template(PREFILLING).training_texts(
        Conversation(messages, None, "f", 1)
    )
    prompt = template(PREFILLING).render(messages[:1], add_generation_prompt=True)
    assert is_split and first.text == prompt + "r</think>a1<|im_end|>"
    assert first.spans[0].start == len(prompt) and first.prefilled == "<think>\n"
    assert second.text.endswith("<think>\n</think>a2<|im_end|>") and "r</think>" not in second.text
    # An answer without reasoning would be trained after the header, but served after <think>.
    with pytest.raises(
        RowError, match=r"messages\[1\]: .*with '<think>\\n', but .*with 'a2<"
    ) as no:
        trained(PREFILLING, conversation("q2", "a2").messages)
    assert "begin its content with '<think>\\n' and close it" in str(no.value)
    calls = (Message("user", "q"), Message("assistant", "<think>\nr</think>a", reasoning="x"))
    with pytest.raises(RowError, match=r"messages\[1\]: its generation prompt goes on .*think"):
        trained(PREFILLING, calls)
