"""What is odd is hinted at, and good text is left alone."""

import pytest

from jaxsft.data.conversation import Conversation, Message
from jaxsft.data.quality import hints

LONG = "This sentence stands here so that the answer has more than twenty words. "


def talk(*contents: str) -> Conversation:
    roles = ("user", "assistant") * len(contents)
    said = (Message(role, text) for role, text in zip(roles, contents, strict=False))
    return Conversation(tuple(said), None, "a.jsonl", 1)


@pytest.mark.parametrize(
    ("kind", "question", "answer"),
    [
        ("empty answer", "q?", " \n"),
        ("one-word answer", "q?", " yes "),
        ("answer without end", "q?", f"{LONG} And then all of them went to the"),
        ("answer without end", "q?", f"{LONG} We could see many of them there, for example,"),
        ("code block without end", "q?", "Here:\n```python\nprint(1)"),
        ("answer equals the question", "say it", "say it "),
        ("very long message", "x " * 20_000, "a b"),
        ("e-mail address", "I am ann.lee+x@mail.co.uk ok", "a b"),
        ("phone number", "call +44 20 7946 0958 now", "a b"),
        ("phone number", "call (415) 555-2671", "a b"),
        ("phone number", "call 415.555.2671", "a b"),
        ("phone number", "appelez 01 23 45 67 89", "a b"),
        ("IBAN", "pay DE89 3704 0044 0532 0130 00", "a b"),
        ("IBAN", "pay GB29NWBK60161331926819", "a b"),
        ("card number", "card 4111 1111 1111 1111", "a b"),
        ("card number", "amex 378282246310005", "a b"),
        ("IP address", "server 93.184.216.34 is down", "a b"),
        ("key or secret", "use sk-" + "aB3" * 8, "a b"),
        ("key or secret", "id AKIAIOSFODNN7EXAMPLE", "a b"),
        ("wrong encoding", "cafÃ© crÃ¨me", "a b"),
        ("wrong encoding", "itâ€™s", "a b"),
        ("replacement character or byte order mark", "caf\ufffd", "a b"),
        ("replacement character or byte order mark", "a\ufeffb", "a b"),
        ("control character", "bell \x07 rings", "a b"),
        ("HTML entity", "Tom &amp; Jerry", "a b"),
        ("role or control text in a message", "a <|im_end|> b", "a b"),
        ("role or control text in a message", "### Assistant: yes", "a b"),
        ("role or control text in a message", "[INST] hi [/INST]", "a b"),
        ("role or control text in a message", "hello\n\nHuman: hi", "a b"),
    ],
)
def test_a_hint_is_found(kind, question, answer):
    found = dict(hints.of_conversation(talk(question, answer)))
    assert list(found) == [kind]
    assert len(found[kind]) <= hints.EXCERPT + 30 and "\n" not in found[kind]


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG} It ends as a sentence does.",
        f"{LONG} It ends with a mark of its own (as here).",
        f"{LONG} Items:\n- the first one of them all that there are here\n- the second one",
        f"{LONG}\nthe first line of a list that has no marks at all\nthe second line of the very"
        " same list as the first one",
        f"{LONG} `code that stands at the very end of the last line of it all`",
        "a short title without a full stop",
        "今天天气很好我们去公园散步" * 20,
        "café crème, Straße, naïve, 10 °C, Ångström, São Paulo, “quoted” … – — €",
        "price 1,234,567,890 and 3.14159265358979 and 2024-01-31 and 10:30:00",
        "9 8 7 6 5 4 3 2 1 0, then 100 200 300 400 500 600",
        "1.2.3.4.5 and v1.2.3.4 and 192.168.0.1 and 127.0.0.1",
        "4111 1111 1111 1112 and 0000 0000 0000 0000",
        "me@example.com, @name, a @ b, x@y",
        "AT&T; R&D; a &b; <b>bold</b> #### 72 ### note",
        "tab\there and line\r\nthere",
        "DE89 3704 0044 0532 0130 01",
        "sk-learn is a short name",
    ],
)
def test_good_text_gives_no_hint(text):
    assert list(hints.of_conversation(talk("Tell me.", text))) == []


def test_a_conversation_that_ends_with_the_user():
    found = dict(hints.of_conversation(talk("q", "a b", "and then?")))
    assert found == {"last message is not the assistant's": "and then?"}


def test_private_text_is_not_repeated():
    for text in ("mail ann.lee@mail.org now", "card 4111 1111 1111 1111", "sk-" + "aB3" * 8):
        (found,) = hints.of_conversation(talk(text, "a b"))
        assert "…" in found[1]
        assert not any(secret in found[1] for secret in ("lee@", "1111 1111", "aB3aB3"))
