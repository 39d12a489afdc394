"""A template's refusal names the message to look at; what is its own fault ends the run."""

import json

import pytest

from jaxsft.config import Data, Source
from jaxsft.data.cache.prepare import prepare
from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.render import limits, rendering
from jaxsft.data.render.rendering import TemplateRunsAway
from jaxsft.data.render.template import ChatTemplate
from tests.data.chat import CHATML, conversation

CONTROLS = ("<|im_start|>", "<|im_end|>")
ALTERNATE = (
    "{% for m in messages if m.role != 'system' %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)
NEEDS_ONE = "{{ '' if messages[0].role else '' }}" + CHATML  # as Qwen 3's: it looks at the first
FIRST = ("assistant", "user", "assistant")


def texts(source, *said, roles=("user", "assistant") * 9, weights=()):
    messages = conversation(*said, roles=roles).messages
    messages = tuple(
        Message(m.role, m.content, weight=dict(weights).get(i)) for i, m in enumerate(messages)
    )
    chat = ChatTemplate(source, {}, CONTROLS)
    found, _ = chat.training_texts(Conversation(messages, None, "f", 1))
    return [str.__getitem__(t.text, slice(s.start, s.stop)) for t in found for s in t.spans]


@pytest.mark.parametrize("source", [ALTERNATE, NEEDS_ONE])
@pytest.mark.parametrize("front", [(), ("system",)])
def test_a_conversation_that_begins_with_the_assistant_is_told_so(source, front):
    """Not that a list has no element 0."""
    said = ("s",) * len(front) + ("hello", "b", "bye")
    at = len(front)
    if source == NEEDS_ONE and front:
        assert texts(source, *said, roles=(*front, *FIRST))[0] == "hello<|im_end|>"
        return
    with pytest.raises(RowError, match=rf"^messages\[{at}\] is the assistant's") as no:
        texts(source, *said, roles=(*front, *FIRST))
    assert no.value.kind == "conversation begins with the assistant"
    assert "put a user's message before it" in str(no.value)


def test_an_answer_to_nothing_is_told_so():
    with pytest.raises(RowError, match=r"^messages\[0\] is the assistant's.*before it; as it is"):
        texts(ALTERNATE, "hello", roles=("assistant",))


def test_a_template_that_takes_no_system_message_is_told_so():
    source = ALTERNATE.replace(" if m.role != 'system'", "")
    with pytest.raises(RowError, match=r"alternate; it takes .* without messages\[0\] \(role 's"):
        texts(source, "s", "a", "b", roles=("system", "user", "assistant"))


def test_what_no_prompt_leads_to_may_be_context():
    found = texts(NEEDS_ONE, "hello", "b", "bye", roles=FIRST, weights={0: 0.0}.items())
    assert found == ["bye<|im_end|>"]
    assert texts(CHATML, "hello", "b", "bye", roles=FIRST)[0] == "hello<|im_end|>"


def test_the_first_message_that_is_refused_is_named():
    roles = ("user", "assistant", "user", "user", "assistant")
    with pytest.raises(
        RowError, match=r"roles must alternate; messages\[3\] \(role 'user'\) is the"
    ):
        texts(ALTERNATE, *"abcde", roles=roles)
    with pytest.raises(RowError, match="refused: never$"):
        texts("{{ raise_exception('never') }}", "a", "b")


def test_a_row_that_takes_too_long_ends_the_run_only_if_few_messages_do(monkeypatch):
    """A template that does for each message what it does for all those before it, for one."""
    monkeypatch.setattr(limits, "MAX_STEPS", 3000)
    monkeypatch.setattr(limits, "STEPS_PER_CHAR", 0)
    slow = "{% for m in messages %}{% for n in messages %}{% endfor %}{% endfor %}" + CHATML
    assert len(texts(slow, *"ab" * 4)) == 4
    with pytest.raises(RowError, match="too many steps for a conversation of 400 messages") as no:
        texts(slow, *"ab" * 200, roles=("user", "assistant") * 200)
    assert no.value.kind == "template runs away"
    with pytest.raises(TemplateRunsAway, match="too many steps$"):
        texts(ENDLESS, *"ab" * 200, roles=("user", "assistant") * 200)


def test_lists_of_the_messages_so_far_are_not_too_much():
    """As stock templates make them, of a conversation of many turns."""
    add = "{% set n.l = n.l + [m] %}" + "{% set n.l = n.l + [] %}" * 5
    source = "{% set n = namespace(l=[]) %}{% for m in messages %}" + add + "{% endfor %}done"
    messages = conversation(*"ab" * 1200, roles=("user", "assistant") * 1200).messages
    assert ChatTemplate(source, {}, CONTROLS).render(messages) == "done"


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("steps, said", [(2000, "too many steps"), (10**12, "longer than 0.1 s")])
def test_the_first_row_that_an_endless_template_takes_ends_the_run(
    tmp_path, tokenizer_dir, monkeypatch, steps, said
):
    """Not each row for its whole limit."""
    monkeypatch.setattr(limits, "MAX_STEPS", steps)
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.1)
    (tmp_path / "t.jinja").write_text(CHATML + "{% if messages[0].content == 'x' %}" + ENDLESS
    + "{% endif %}")  # fmt: skip
    rows = [{"messages": [{"role": "user", "content": c}, {"role": "assistant", "content": "a"}]}
            for c in "ax" + "x" * 60]  # fmt: skip
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(train=(), sequence_length=64, cache_dir=str(tmp_path / "c"), workers=1,
                template=str(tmp_path / "t.jinja"), bad_rows="skip", max_bad_rows=99)  # fmt: skip
    runs = []
    run = rendering.Rendering._run
    monkeypatch.setattr(rendering.Rendering, "_run", lambda *a: runs.append(1) or run(*a))
    with pytest.raises(TemplateRunsAway, match=rf"d.jsonl:2: template .*{said}.*data.template"):
        prepare((Source(path=str(tmp_path / "d.jsonl")),), data, tokenizer_dir)
    assert len(runs) < 30


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_the_template_is_no_bad_row(error, monkeypatch):
    chat = ChatTemplate(CHATML + "{{ stop() }}", {}, CONTROLS)

    def stop():
        raise error

    chat._renderer.names["stop"] = stop
    with pytest.raises(error):
        chat.render(conversation("q", "a").messages)
