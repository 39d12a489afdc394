"""What is trained goes on from what is served: the prompt, as a server tokenizes it."""

import glob
import importlib.util
from pathlib import Path

import pytest

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.encode.tokenize import ChatTokenizer
from tests.data.chat import CHATML, make_tokenizer
from tests.data.made_tokenizers import make_sentencepiece

USER = Message("user", "q")
ANSWER, THOUGHT = Message("assistant", "A ship."), Message("assistant", "A ship.", reasoning="Hm.")
# As Qwen 3.5 writes it: thinking is prompted for, an answer without has an empty one.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last %}EMPTY{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{{ '<think>\\n\\n</think>\\n\\n' if enable_thinking is false else '<think>\\n' }}{% endif %}"
)
QWEN = THINKING.replace(
    "EMPTY", "{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}"
)
# As Nemotron 3 writes it: without a thought there is not even a line.
NEMOTRON = THINKING.replace(
    "EMPTY",
    "{{ '<think>' + ('\\n' + m.reasoning_content + '\\n' if m.reasoning_content else '') }}"
    "{{ '</think>' }}",
)


def chat_of(tmp_path, template):
    return ChatTokenizer(make_tokenizer(tmp_path / "t", template))


def trained(chat, messages, options=None):
    """The text of each span, checked to begin where the served prompt ends."""
    row = Conversation(tuple(messages), None, "f", 1, options or {})
    found = []
    for example in chat.encode(row):
        for turn, (start, stop) in zip(example.turns, example.spans, strict=True):
            prompt = chat.encode_prompt(messages[:turn], None, options)
            assert example.ids[:start].tolist() == prompt
            found.append(chat.decode(example.ids[start:stop]))
    return found


@pytest.mark.parametrize(
    "template, answer, options, expected",
    [
        (QWEN, ANSWER, {}, "\n</think>\n\nA ship.<|im_end|>"),
        (QWEN, THOUGHT, {}, "Hm.\n</think>\n\nA ship.<|im_end|>"),
        (QWEN, ANSWER, {"enable_thinking": False}, "A ship.<|im_end|>"),
        (NEMOTRON, ANSWER, {}, "</think>A ship.<|im_end|>"),
        (NEMOTRON, THOUGHT, {}, "Hm.\n</think>A ship.<|im_end|>"),
    ],
)
def test_an_answer_goes_on_from_its_prompt(tmp_path, template, answer, options, expected):
    chat = chat_of(tmp_path, template)
    assert trained(chat, [USER, answer], options) == [expected]
    assert trained(chat, [USER, answer, USER, answer], options) == [expected] * 2


def test_what_no_prompt_leads_to_is_refused_with_the_option_that_would(tmp_path):
    chat = chat_of(tmp_path, QWEN)
    row = Conversation((USER, THOUGHT), None, "f", 1, {"enable_thinking": False})
    with pytest.raises(
        RowError, match=r"with '\\n</think>\\n\\n', but the answer.*'Hm\.\\n<"
    ) as no:
        chat.encode(row)
    assert "messages[1]" in str(no.value)
    assert "data.template_options={'enable_thinking': True} makes them agree" in str(no.value)
    assert '"chat_template_kwargs": {"enable_thinking": true}' in str(no.value)


@pytest.mark.parametrize("family", ["Llama", "Gemma"])
def test_sentencepiece_goes_on_without_the_space_that_begins_a_text(tmp_path, family):
    """The prompt ends with a space, which the tokenizer would join to the first word."""
    directory = make_sentencepiece(tmp_path / "sp", family + "Tokenizer")
    path = tmp_path / "t.jinja"
    path.write_text(
        "{% for m in messages %}{{ '<s>' + m.role + ': ' + m.content + '</s>' }}{% endfor %}"
        "{{ '<s>assistant: ' if add_generation_prompt }}"
    )
    chat = ChatTokenizer(directory, str(path))
    talk = [Message("user", "the quick"), Message("assistant", "fox says")]
    (example,) = chat.encode(Conversation(tuple(talk), None, "f", 1))
    prompt = chat.encode_prompt(talk[:1])
    ((start, _),) = example.spans
    assert example.ids[:start].tolist() == prompt
    first = chat.token_text(int(example.ids[start]))
    assert first.startswith("f") and "\u2581" not in first  # "▁fox" would be a second space
    spelt = "".join(chat.token_text(i) for i in example.ids[start:].tolist())
    assert spelt.replace("\u2581", " ") == "fox says</s>"


STOCK = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) if (
    importlib.util.find_spec("trl")
) else Path()  # fmt: skip


@pytest.mark.parametrize(
    "name", ["qwen3_5_think", "qwen3_6", "nemotron_3_nano", "lfm2", "gemma4_v5"]
)
def test_published_templates(tmp_path, name):
    from pages.template_check import check_template

    files = glob.glob(str(STOCK / "chat_templates" / f"{name}.jinja"))
    if not files:
        pytest.skip(f"the package trl with {name}.jinja is not installed")
    source = Path(files[0]).read_text(encoding="utf-8")
    outcome = check_template(name, source, make_tokenizer(tmp_path / "t", CHATML))
    assert not outcome.failed and {"one turn", "two turns"} <= set(outcome.equal)
