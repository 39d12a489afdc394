"""Tokenizers that have tokenizer.model only: transformers' ids, and masks exact to the token."""

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.render.template import message_dict
from tests.data.chat import conversation
from tests.data.made_tokenizers import GEMMA, LLAMA2, make_sentencepiece

KINDS = {
    "llama-bpe": ("LlamaTokenizer", "bpe", LLAMA2),
    "llama-unigram": ("LlamaTokenizer", "unigram", LLAMA2),
    "llama-legacy": ("LlamaTokenizer", "bpe", LLAMA2),
    "gemma-bpe": ("GemmaTokenizer", "bpe", GEMMA),
}
# Characters outside the corpus become bytes: several tokens with one place each.
CONTENT = st.text(alphabet="ab hello2\n.é🙂你", min_size=1, max_size=20).filter(str.strip)


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """A ChatTokenizer and transformers' own of the same directory."""
    from transformers import AutoTokenizer

    kind, model_type, template = KINDS[request.param]
    config = {"legacy": True} if request.param == "llama-legacy" else {}
    directory = make_sentencepiece(
        tmp_path_factory.mktemp(request.param), kind, model_type, chat_template=template, **config
    )
    return ChatTokenizer(directory), AutoTokenizer.from_pretrained(directory)


@settings(max_examples=40, deadline=None)
@given(contents=st.lists(CONTENT, min_size=2, max_size=4))
@example(contents=["hello", "  two spaces", "\n\nlines", "你 hello"])
@example(contents=["hello", "fox", "hello", "🙂"])
def test_ids_are_transformers_and_the_mask_is_the_answer_and_its_end(pair, contents):
    ours, theirs = pair
    talk = conversation(*contents)
    (made,) = ours.encode(talk)
    messages = [message_dict(message) for message in talk.messages]
    expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert made.ids.tolist() == expected
    end = "<end_of_turn>" if "<end_of_turn>" in ours.control_tokens else "</s>"
    answers = [m.content.strip() for m in talk.messages if m.role == "assistant"]
    space = "" if end == "<end_of_turn>" else " "  # Llama 2 puts one on both sides of an answer
    found = [ours.decode(made.ids[a:b]).lstrip() for a, b in made.spans]
    assert made.boundary_tokens == 0
    assert found == [answer + space + end for answer in answers]
    assert all(made.ids[b - 1] == ours.control_tokens[end] for _, b in made.spans)
    num_questions = sum(message.role == "user" for message in talk.messages)
    assert (made.ids == ours.bos_id).sum() == (num_questions if space else 1)


def test_text_between_controls_has_the_ids_of_sentencepiece_itself(tmp_path):
    directory = make_sentencepiece(tmp_path, "LlamaTokenizer", chat_template=LLAMA2)
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString((tmp_path / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = False  # only the start of a text has one
    model = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    (made,) = ChatTokenizer(directory).encode(conversation("hello world", "the 你 fox"))
    text = "[INST] hello world [/INST] the 你 fox "
    assert made.ids.tolist() == [model.bos_id(), *model.encode(text), model.eos_id()]


def test_a_template_without_bos_gets_none_as_when_served(tmp_path):
    """add_bos_token is for plain text; transformers and vLLM tokenize a rendering without it."""
    from transformers import AutoTokenizer

    template = LLAMA2.replace("bos_token + ", "")
    directory = make_sentencepiece(tmp_path, "LlamaTokenizer", chat_template=template)
    talk = conversation("hello", "fox")
    chat = ChatTokenizer(directory)
    (made,) = chat.encode(talk)
    messages = [message_dict(message) for message in talk.messages]
    theirs = AutoTokenizer.from_pretrained(directory)
    expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert made.ids.tolist() == expected
    assert chat.bos_id is not None and chat.bos_id not in made.ids
