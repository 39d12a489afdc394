"""Published templates: their text is transformers', their turns end where the model must stop."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from pages.template_cases import CASES
from pages.template_check import (
    check_template,
    compare_generation,
    control_tokens,
    special_tokens,
    twin_difference,
)

from jaxsft.data.conversation import Conversation, RowError
from jaxsft.data.render.template import ChatTemplate, message_dict
from tests import programs
from tests.data.chat import CHATML, REWRITING

# What a span ends with, after an answer and after a tool call; None: no such conversation.
ENDS = {
    "cohere": ("<|END_OF_TURN_TOKEN|>", None),
    "deepseek_r1_distill": ("<｜end▁of▁sentence｜>", None),
    "deepseekv3": ("<｜end▁of▁sentence｜>", None),
    "gemma": ("<end_of_turn>", None),
    "gemma3": ("<end_of_turn>", None),
    "glm4moe": ("<|user|>", "<|observation|>"),
    "gptoss": ("<|return|>", "<|call|>"),
    "lfm2": ("<|im_end|>", None),
    "lfm2_v2": ("<|im_end|>", "<|im_end|>"),
    "llama3": ("<|eot_id|>", None),
    "llama3_1": ("<|eot_id|>", "<|eot_id|>"),
    "llama3_2": ("<|eot_id|>", "<|eot_id|>"),
    "nemotron_3_nano": ("<|im_end|>", "<|im_end|>"),
    "phi3": ("<|end|>", None),
    "phi3_5": ("<|end|>", None),
    "qwen2_5": ("<|im_end|>", "<|im_end|>"),
    "qwen3": ("<|im_end|>", "<|im_end|>"),
}
CASE = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def stock() -> Path:
    found = importlib.util.find_spec("trl")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package trl, whose templates are tried, is not installed")
    return Path(found.submodule_search_locations[0]) / "chat_templates"


def read(folder, name):
    file = folder / f"{name}.jinja"
    if not file.is_file():
        pytest.skip(f"this version of trl has no {file.name}")
    return file.read_text(encoding="utf-8")


def chat_template(source, **options):
    special = special_tokens(source)
    return ChatTemplate(source, special, control_tokens(source, special), **options)


def theirs(template, case, until=None, **options):
    from transformers.utils.chat_template_utils import render_jinja_template

    (text,), _ = render_jinja_template(
        [[message_dict(message) for message in case.messages[:until]]],
        tools=None if case.tools is None else list(case.tools),
        chat_template=template.source,
        **template.special_tokens,
        **options,
    )
    return text


def spans(text):
    return [str.__getitem__(text.text, slice(span.start, span.stop)) for span in text.spans]


def thinking(messages):
    """With a thought before each answer: these templates prompt with the beginning of one."""
    begin = (
        "" if any("</think>" in message.content for message in messages) else "<think>\n</think>"
    )
    return tuple(
        dataclasses.replace(m, content=begin + m.content) if m.role == "assistant" else m
        for m in messages
    )


@pytest.mark.parametrize("name", ENDS)
def test_text_and_ends_of_turns(stock, name):
    template = chat_template(read(stock, name))
    options = {"enable_thinking": False} if name.startswith("nemotron") else {}
    num_equal = 0
    for case in CASES:
        messages = thinking(case.messages) if name.startswith("deepseek") else case.messages
        conversation = Conversation(messages, case.tools, "f", 1, options)
        try:
            texts, is_split = template.training_texts(conversation)
        except RowError as error:
            assert "no end of turn" not in error.kind and "reproduced" not in error.kind
            continue
        for text in texts:
            until = text.spans[-1].message + 1 if is_split else None
            if not text.prefilled:
                assert text.text == theirs(template, case, until, **options) + text.appended
            for span, trained in zip(text.spans, spans(text), strict=True):
                is_call = bool(case.messages[span.message].tool_calls)
                assert trained.endswith(ENDS[name][is_call])
                assert case.messages[span.message].content.strip()[-4:] in trained
        num_equal += 1
    assert num_equal >= (4 if name.startswith("deepseek") else 5)


def test_phi3_learns_to_stop_before_the_end_of_the_conversation(stock):
    conversation = Conversation(CASE["two turns"].messages, None, "f", 1)
    ((text,), is_split) = chat_template(read(stock, "phi3")).training_texts(conversation)
    assert spans(text) == ["A ship.<|end|>", "Two ships, 🙂 née.<|end|>"] and not is_split
    assert text.text.endswith("<|end|>\n<|endoftext|>")


def test_gptoss_is_trained_as_it_is_served(stock):
    messages = CASE["reasoning, two turns"].messages
    texts, is_split = chat_template(read(stock, "gptoss")).training_texts(
        Conversation(messages, None, "f", 1)
    )
    assert is_split and [spans(text) for text in texts] == [
        ["<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
         "A ship.<|return|>"],
        ["<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>"
         "Two ships, 🙂 née.<|return|>"],
    ]  # fmt: skip
    assert "Hm." not in texts[1].text


def test_glm_learns_the_header_after_each_kind_of_turn(stock):
    case = CASE["tool call"]
    ((text,), _) = chat_template(read(stock, "glm4moe")).training_texts(
        Conversation(case.messages, case.tools, "f", 1)
    )
    assert [span.endswith(end) for span, end in zip(
        spans(text), ("</tool_call><|observation|>", "A ship.<|user|>"), strict=True
    )] == [True, True]  # fmt: skip
    assert text.appended == "<|user|>" and text.end_of_turn == {"<|user|>", "<|observation|>"}


@pytest.mark.parametrize("name", ["llama3", "phi3", "lfm2", "cohere"])
def test_a_training_twin_renders_the_same_and_its_tags_agree_but_for_their_edges(stock, name):
    source, twin = read(stock, name), read(stock, f"{name}_training")
    assert twin_difference(source, twin) == []
    conversation = Conversation(CASE["two turns"].messages, None, "f", 1)
    found = compare_generation(chat_template(twin), conversation)
    assert all(line.endswith("after") and "before" not in line for line in found)


def test_a_twin_that_renders_otherwise_is_shown(stock):
    found = twin_difference(read(stock, "qwen3"), read(stock, "qwen3_training"))
    assert "two turns" in found and "one turn" not in found


TAGGED = CHATML.replace("message['content'] + '<|im_end|>'", "'' }}{% generation %}TAG{{ ''")


@pytest.mark.parametrize(
    "tag, expected",
    [
        ("{{ message.content + '<|im_end|>' }}{% endgeneration %}", []),
        (
            "{{ message.content }}{% endgeneration %}<|im_end|>",
            ["lack '' before and '<|im_end|>' after"],
        ),
    ],
)
def test_generation_tags_are_compared_with_our_spans(tag, expected):
    source = (
        "{% for message in messages %}<|im_start|>{{ message.role + '\\n' }}"
        "{% if message.role == 'assistant' %}{% generation %}" + tag + "{% else %}"
        "{{ message.content + '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    conversation = Conversation(CASE["one turn"].messages, None, "f", 1)
    assert compare_generation(chat_template(source), conversation) == expected


def test_ids_are_those_of_transformers(tokenizer_dir):
    outcome = check_template("rewriting", REWRITING, tokenizer_dir)
    assert not outcome.failed and not outcome.injected
    assert {"one turn", "reasoning, two turns"} <= set(outcome.equal)
    assert outcome.split == ["reasoning, two turns"] and outcome.ends == ["<|im_end|>"]
    assert outcome.refused["left out"] == ["tool call", "two tool calls", "tool call last"]


def test_a_difference_from_transformers_is_a_failure(tokenizer_dir, monkeypatch):
    """Plant: ours is given another token to begin with than transformers."""
    from jaxsft.data.render.rendering import Rendering

    values = Rendering._values
    monkeypatch.setattr(Rendering, "_values", lambda *a: {**values(*a), "bos_token": "!"})
    outcome = check_template("chatml", "{{ bos_token }}" + CHATML, tokenizer_dir)
    assert outcome.failed and not outcome.equal


def test_the_program_writes_the_table(tokenizer_dir, tmp_path):
    (tmp_path / "a.jinja").write_text(CHATML)
    (tmp_path / "a_training.jinja").write_text(CHATML.replace("user", "USER") + " ")
    (tmp_path / "SOURCE.txt").write_text("written by this test\n")
    arguments = [f"--templates={tmp_path}", f"--tokenizer={tokenizer_dir}"]
    page = programs.tool("check_templates", *arguments, f"--output={tmp_path}/t.md")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "## written by this test" in text and "3 templates" in text
    assert "renders otherwise than a: " in text and "<code>&#60;&#124;im" in text
    wrong = programs.tool("check_templates", "--tokenizer=/no/such")
    assert wrong.returncode == 64 and "--tokenizer=/no/such: no such directory" in wrong.stderr
