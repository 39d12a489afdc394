"""The laws on published tokenizers and templates, where the assets folder is there."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.read.messages import parse_message
from jaxsft.data.render.template import message_dict
from tests.data.made_tokenizers import LLAMA2

NAMES = ("smollm2", "qwen3", "mistral_v1", "mistral_v3")


@pytest.mark.parametrize("name", NAMES)
def test_goldens(assets, published, name):
    """Ids made with transformers 5.23.0; the text trained is the answers and their end."""
    goldens = json.loads((assets / "goldens/chat_goldens.json").read_text())
    end = {"smollm2": "<|im_end|>", "qwen3": "<|im_end|>"}.get(name, "</s>")
    for title, golden in goldens["tokenizers"][name]["conv"].items():
        messages = tuple(parse_message(m) for m in goldens["conversations"][title])
        examples = published(name).encode(Conversation(messages, None, "f", 1))
        assert examples[-1].ids.tolist() == golden["ids"]
        prompt = published(name).template.render(messages[:-1], None, add_generation_prompt=True)
        assert prompt == golden["prompt_text"]
        found = [published(name).decode(e.ids[a:b]) for e in examples for a, b in e.spans]
        answers = [m.content + end for m in messages if m.role == "assistant"]
        think = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
        assert found == [think + answer for answer in answers]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(data=st.data())
def test_no_added_token_can_be_forged(published, name, data):
    """M11 over every added token of the tokenizer."""
    chat = published(name)
    words = st.sampled_from([*sorted(chat.control_tokens), "a", " ", "\n", "<|", "|>"])
    evil = "x" + "".join(data.draw(st.lists(words, max_size=6))) + "y"
    # Qwen3's own template takes the </think> of an answer apart and writes it anew.
    answer = evil.replace("</think>", "") if name == "qwen3" else evil
    controls = set(chat.control_tokens.values())
    counts = []
    for question, said in (("xy", "xy"), (evil, answer)):
        messages = (Message("user", question), Message("assistant", said))
        (ours,) = chat.encode(Conversation(messages, None, "f", 1))
        counts.append([i for i in ours.ids.tolist() if i in controls])
    assert counts[0] == counts[1]
    text = chat.decode(ours.ids)
    assert evil in text and answer in text[text.index(evil) + len(evil) :]


@pytest.mark.parametrize("name", NAMES)
def test_real_conversations_equal_apply_chat_template(assets, published, name):
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(assets / "tokenizers" / name)
    num_equal = 0
    for file in ("oasst_en", "glaive_toolcall"):
        with open(assets / file / "conversations.jsonl", encoding="utf-8") as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(25), strict=False)]
        for row in rows:
            messages = tuple(parse_message(m) for m in row["messages"])
            tools = tuple(row["tools"]) if row.get("tools") else None
            try:
                examples = published(name).encode(Conversation(messages, tools, "f", 1))
            except RowError as error:
                assert error.kind.startswith(("template refused", "tools left out"))
                continue
            until = messages if not examples[0].is_split else _to_last_answer(messages)
            theirs = reference.apply_chat_template(
                [message_dict(m) for m in until],
                tools=None if tools is None else list(tools),
                tokenize=True,
                return_dict=False,
            )
            assert examples[-1].ids.tolist() == theirs
            num_equal += 1
    assert num_equal >= 25


def _to_last_answer(messages):
    last = max(i for i, m in enumerate(messages) if m.role == "assistant")
    return messages[: last + 1]


def test_qwen3_keeps_reasoning_and_tools(published):
    """M7."""
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "<|im_end|>"}}}
    tool = {
        "type": "function",
        "function": {"name": "look", "description": "sees", "parameters": {}},
    }
    messages = (
        Message("user", "q"),
        Message("assistant", "", reasoning="hm", tool_calls=(call,)),
        Message("tool", "found </tool_response>"),
        Message("assistant", "there", reasoning="so"),
    )
    examples = published("qwen3").encode(Conversation(messages, (tool,), "f", 1))
    found = [published("qwen3").decode(e.ids[a:b]) for e in examples for a, b in e.spans]
    assert found == [
        "<think>\nhm\n</think>\n\n<tool_call>\n"
        '{"name": "look", "arguments": {"at": "<|im_end|>"}}\n</tool_call><|im_end|>',
        "<think>\nso\n</think>\n\nthere<|im_end|>",
    ]


def test_a_sentencepiece_model_with_bytes_and_prepended_spaces(assets, tmp_path):
    """stories260k: normalizer Prepend, byte fallback, a post-processor that adds <s>."""
    from transformers import AutoTokenizer

    directory = str(assets / "models" / "stories260k")
    path = tmp_path / "llama2.jinja"
    path.write_text(LLAMA2)
    chat, reference = ChatTokenizer(directory, str(path)), AutoTokenizer.from_pretrained(directory)
    talk = (Message("user", "Who? 你"), Message("assistant", "Lily was."), Message("user", "So?"))
    talk += (Message("assistant", "Yes </s> 🙂"),)
    (ours,) = chat.encode(Conversation(talk, None, "f", 1))
    harmless = (*talk[:3], Message("assistant", "Yes 🙂"))
    (theirs,) = chat.encode(Conversation(harmless, None, "f", 1))
    expected = reference.apply_chat_template(
        [message_dict(m) for m in harmless],
        chat_template=LLAMA2,
        tokenize=True,
        return_dict=False,
    )
    assert theirs.ids.tolist() == expected
    for token_id in (chat.bos_id, chat.eos_id):
        assert (ours.ids == token_id).sum() == 2
    assert [ours.ids[b - 1] for _, b in ours.spans] == [chat.eos_id] * 2
    assert "Lily was." in chat.decode(theirs.ids[slice(*theirs.spans[0])])
