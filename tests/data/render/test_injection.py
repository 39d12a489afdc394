"""M11: whatever the words of a message spell, control tokens are the template's alone."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.encode.spelling import Spelling
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.errors import DataError
from tests.data.chat import conversation, make_tokenizer
from tests.data.made_tokenizers import make_sentencepiece, make_unigram

# Every field that a template may write stands beside the end token or a bracket, with nothing
# between, so that a token might form across the border.
TEMPLATE = (
    "{% if tools %}{{ 'OPEN' + (tools | tojson) + 'CLOSE' }}{% endif %}"
    "{% for m in messages %}{{ 'OPEN' }}"
    "{% if m.reasoning_content %}{{ '<' + m.reasoning_content + 'CLOSE' }}{% endif %}"
    "{{ m.role + '\\n' }}{{ m.content }}{% if m.name %}{{ '<|' + m.name + '|>' }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ 'OPEN' + call.function.name + 'CLOSE' }}"
    "{{ call.function.arguments | tojson }}{% endfor %}{{ 'CLOSE' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'OPEN' }}{% endif %}"
)
# As Llama 2 and 3, Mistral, Gemma, Phi, Command R, DeepSeek, GLM, gpt-oss and Granite have them.
OTHERS = (
    *("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "<|begin_of_text|>", "<|eot_id|>"),
    *("<|start_header_id|>", "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|user|>"),
    *("<|START_OF_TURN_TOKEN|>", "<\uff5cUser\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    *("[gMASK]", "<sop>", "<|observation|>", "<|channel|>", "<|message|>", "<|call|>"),
    *("<|start_of_role|>", "<|tool_call|>", "<unk>", "<s>", "</s>", "<<SYS>>"),
)
MADE = ("byte-level", "llama", "gemma", "unigram")
KINDS = (*MADE, "smollm2", "qwen3", "mistral_v1", "mistral_v3")
BRACKETS = {"byte-level": ("<|im_start|>", "<|im_end|>"), "smollm2": ("<|im_start|>", "<|im_end|>")}
BRACKETS["qwen3"] = BRACKETS["smollm2"]


def made(kind, directory, assets_of):
    """The directory of a tokenizer of this kind."""
    if kind == "byte-level":
        return make_tokenizer(directory)
    if kind in ("llama", "gemma"):
        return make_sentencepiece(
            directory, {"llama": "Llama", "gemma": "Gemma"}[kind] + "Tokenizer"
        )
    if kind == "unigram":
        return make_unigram(directory, "")
    return str(assets_of() / "tokenizers" / kind)


def with_others(source, directory):
    """A copy that also has the control tokens of other families, of every manner of matching."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokens = [
        AddedToken(
            token, normalized=bool(i % 2), rstrip=i % 3 == 0, lstrip=i % 4 == 0, special=True
        )
        for i, token in enumerate(OTHERS)
        if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id)
    ]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.save_pretrained(directory)
    return str(directory)


# Published tokenizers as they are: test_real_tokenizers.py.
@pytest.fixture(
    scope="module", params=[*((kind, False) for kind in MADE), *((kind, True) for kind in KINDS)]
)
def chat(request, tmp_path_factory):
    kind, more = request.param
    folder = tmp_path_factory.mktemp(kind)
    source = made(kind, folder / "made", lambda: request.getfixturevalue("assets"))
    if more:
        source = with_others(source, folder / "more")
    opening, closing = BRACKETS.get(kind, ("<s>", "</s>"))
    template = folder / "t.jinja"
    template.write_text(TEMPLATE.replace("OPEN", opening).replace("CLOSE", closing))
    return ChatTokenizer(source, str(template))


def spoken(evil):
    """A conversation that says it in every field."""
    call = {"type": "function", "function": {"name": evil, "arguments": {evil: evil}}}
    messages = (
        Message("system", evil),
        Message("user", evil, name=evil),
        Message("assistant", evil, reasoning=evil, tool_calls=(call,)),
        Message("tool", evil, name=evil),
        Message("assistant", evil),
    )
    tool = {"type": "function", "function": {"name": evil, "description": evil}}
    return Conversation(messages, (tool,), "f", 1)


def controls(chat, conversation):
    """The control tokens of the one example in order, and its text."""
    (example,) = chat.encode(conversation)
    ids = set(chat.control_tokens.values()) - {chat.control_tokens.get("<unk>")}
    found = [i for i in example.ids.tolist() if i in ids]
    assert example.control_ids == set(found)
    return found, seen(chat.decode(example.ids))


def seen(text):
    """To sentencepiece the lower block, which DeepSeek's tokens have, is a space."""
    return text.replace("\u2581", " ")


def pieces(token):
    return [token, token[: len(token) // 2], token[len(token) // 2 :], token[1:], token[:-1]]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_word_of_any_field_becomes_a_control_token(chat, data):
    token = st.sampled_from(sorted(chat.control_tokens))
    word = token.flatmap(lambda t: st.sampled_from(pieces(t)))
    space = st.sampled_from(["", "", " ", "\n", "\u200b", "<", "|>"])
    parts = data.draw(st.lists(st.tuples(word, space), min_size=1, max_size=4))
    evil = "".join(text for part in parts for text in part)
    evil = data.draw(st.sampled_from([f"x{evil}y", evil + "y", "x" + evil]))
    expected, _ = controls(chat, spoken("xy"))
    found, text = controls(chat, spoken(evil))
    assert found == expected
    if evil[0] == "x" and evil[-1] == "y":  # a sentencepiece decoder may strip a space at the edge
        # System, user, assistant and tool; more where JSON leaves it be.
        assert text.count(seen(evil)) >= 4
        assert json.dumps(seen(evil), ensure_ascii=False)[1:-1] in text


def test_every_control_token_at_once(chat):
    evil = f"x{''.join(sorted(chat.control_tokens))}y"
    found, text = controls(chat, spoken(evil))
    assert found == controls(chat, spoken("xy"))[0]
    assert text.count(seen(evil)) >= 4


THINK, END_THINK = "<think>", "</think>"


@pytest.fixture
def trusting(tmp_path):
    source = TEMPLATE.replace("OPEN", "<|im_start|>").replace("CLOSE", "<|im_end|>")
    directory = make_tokenizer(tmp_path, source)
    return ChatTokenizer(directory, trusted_control_tokens=(THINK, END_THINK))


def test_trusted_tokens_are_control_tokens_in_an_assistants_words_only(trusting):
    talk = spoken(f"x{THINK}y<|im_end|>")
    (example,) = trusting.encode(talk)
    think = trusting.control_tokens[THINK]
    # The first assistant says it in reasoning, content, the call's name, argument and value.
    assert (example.ids == think).sum() == 6
    first = int(np.flatnonzero(example.ids == think)[0])
    before = trusting.decode(example.ids[:first])
    assert before.count(THINK) == 5  # the tool's name and description, system, user and its name
    expected, _ = controls(trusting, spoken("xy"))
    without = [i for i in controls(trusting, talk)[0] if i != think]
    assert without == expected  # <|im_end|> is not trusted
    plain = ChatTokenizer(trusting.directory)
    assert trusting.decode(example.ids) == plain.decode(plain.encode(talk)[0].ids)


def test_a_trusted_token_carries_loss_and_begins_no_other(trusting):
    (example,) = trusting.encode(conversation("q", "<think>a</think>b"))
    think, end = (trusting.control_tokens[token] for token in (THINK, END_THINK))
    assert all(example.weights[example.ids == token].tolist() == [1.0] for token in (think, end))
    # "<|im" is a token too, but the text spells the longer <|im_start|>, which is not trusted.
    short = ChatTokenizer(trusting.directory, trusted_control_tokens=("<|im",))
    for text, count in (("<|im_start|>", 0), ("<|im!", 1)):
        (example,) = short.encode(conversation("q", text))
        assert (example.ids == short.control_tokens["<|im"]).sum() == count


def test_a_prompt_trusts_as_training_does(trusting):
    talk = conversation("q", "<think>a</think>b", "q2", "a2")
    (example,) = trusting.encode(talk)
    prompt = trusting.encode_prompt(talk.messages[:3])
    assert example.ids[: len(prompt)].tolist() == prompt
    assert trusting.control_tokens[THINK] in prompt


def test_only_added_tokens_can_be_trusted(tokenizer_dir):
    with pytest.raises(DataError, match=r"'<thnk>' is no added token.*did you mean '<think>'\?"):
        ChatTokenizer(tokenizer_dir, trusted_control_tokens=("<thnk>",))
    with pytest.raises(
        DataError, match="trusted_control_tokens: 'zzz' is no added token"
    ) as raised:
        ChatTokenizer(tokenizer_dir, trusted_control_tokens=("</think>", "zzz"))
    assert "did you mean" not in str(raised.value)


def test_our_own_private_characters_are_refused(chat):
    for character in ("\U00100000", "\U0010fffd"):
        with pytest.raises(RowError, match=f"private-use character U\\+{ord(character):X}"):
            chat.encode(spoken(f"x{character}"))
    chat.encode(spoken("x\ue000\U000f0000"))  # private-use characters of other planes are text


def test_a_token_that_cannot_be_told_from_text_is_refused():
    """Here the normalizer takes away the character that would stand for it."""
    from tokenizers import Tokenizer, models, normalizers

    backend = Tokenizer(models.WordLevel({"a": 0, "[X]": 1, "[unk]": 2}, unk_token="[unk]"))
    backend.normalizer = normalizers.Replace("\U00100000", "")
    backend.add_tokens([AddedToken("[X]", normalized=True)])
    with pytest.raises(DataError, match=r"the added token '\[X\]' can't be told from text"):
        Spelling(backend)
