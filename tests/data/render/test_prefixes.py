"""A rendering that goes on from another is the one that the template makes from the beginning."""

import datetime

import pytest

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.render.rendering import Renderer
from tests.data.chat import CHATML

HEAD = "{% for m in messages %}"
SAID = "{{ '<' ~ m.role ~ '>' ~ m.content }}"
END = "{% endfor %}{{ '<assistant>' if add_generation_prompt }}"
# By name: a template, and whether a rendering of the first messages shares most with that of all.
TEMPLATES = {
    "plain": (HEAD + SAID + END, True),
    "chatml": (CHATML, True),
    "prompt inside the loop": (
        HEAD + SAID + "{% if loop.last and add_generation_prompt %}!{% endif %}{% endfor %}",
        True,
    ),
    "neighbours": (
        HEAD
        + "{{ loop.index }}{{ loop.previtem.content if not loop.first }}"
        + SAID
        + "{{ loop.nextitem.role if not loop.last }}"
        "{{ messages[loop.index0 - 1].role if loop.index0 }}{{ loop.cycle('x', 'y', 'z') }}" + END,
        True,
    ),
    "the next by its number": (
        HEAD + SAID + "{{ messages[loop.index0 + 1].role if not loop.last }}" + END,
        True,
    ),
    "slice": ("{% set rest = messages[1:] %}" + HEAD.replace("messages", "rest") + SAID + END, 1),
    "text so far": (
        "{% set n = namespace(all='', k=0) %}" + HEAD + SAID + "{% set n.all = n.all ~ m.content %}"
        "{% set n.k = n.k + 1 %}{{ n.k }}" + END + "{{ n.all }}{{ n.k }}",
        True,
    ),
    "a flag that stays": (
        "{% set n = namespace(on=false) %}" + HEAD + SAID + "{% if '7' in m.content %}"
        "{% set n.on = not n.on %}{% endif %}" + END + "{{ n.on }}",
        True,
    ),
    "messages in a namespace": (
        "{% set n = namespace(rest=messages) %}{% for m in n.rest %}"
        + SAID
        + END
        + "{{ n.rest[-1].content }}",
        True,
    ),
    "break": (HEAD + "{% if loop.index == 9 %}{% break %}{% endif %}" + SAID + END, True),
    "macro": (
        "{% macro say(m) %}" + SAID + "{% endmacro %}" + HEAD + "{{ say(m) }}{% set z = 1 %}" + END,
        True,
    ),
    "two loops": (
        "{% set n = namespace(k=0) %}" + HEAD + "{% set n.last = m.role %}{% endfor %}"
        "{% set n.last = '' %}" + HEAD + SAID + "{% else %}none" + END,
        True,
    ),
    "a loop that writes, twice": (HEAD + SAID + "{% endfor %}" + HEAD + SAID + END, None),
    "changed": (HEAD + SAID + "{{ loop.changed(m.role) }}" + END, False),
    "length": (HEAD + SAID + "{{ loop.length }}{{ loop.revindex }}" + END, False),
    "length of the list": (HEAD + SAID + "{{ messages | length }}" + END, False),
    "half": (HEAD + SAID + "{{ 'half' if loop.index0 == messages|length // 2 }}" + END, False),
    "last message": (HEAD + SAID + "{{ messages[-1].content }}" + END, False),
    "last three": (HEAD + SAID + "{{ '!' if m in messages[-3:] }}" + END, False),
    "looks ahead": (
        HEAD + SAID + "{{ messages[loop.index:] | map(attribute='role') | join }}" + END,
        False,
    ),
    "asks of all": (HEAD + SAID + "{{ messages | tojson | length }}" + END, False),
    "set before": ("{% set size = messages | length %}" + HEAD + SAID + "{{ size }}" + END, False),
    "written before": ("{{ messages | length }}" + HEAD + SAID + END, False),
    "with": (
        "{% with size = messages | length %}" + HEAD + SAID + "{{ size }}{% endfor %}{% endwith %}",
        False,
    ),
    "a generator": (
        "{% set all = messages | map(attribute='content') %}" + HEAD + "{{ all | first }}" + END,
        False,
    ),
    "a cycler": ("{% set c = cycler('a', 'b', 'c') %}" + HEAD + "{{ c.next() }}" + END, False),
    "a namespace that holds one": (
        "{% set n = namespace() %}" + HEAD + "{% if loop.first %}{% set n.own = namespace(k=0) %}"
        "{% endif %}{% set own = n.own %}{% set own.k = own.k + 1 %}{{ own.k }}" + END,
        False,
    ),
    "a macro by length": (
        "{% if messages | length > 20 %}{% macro f() %}A{% endmacro %}{% else %}"
        "{% macro f() %}B{% endmacro %}{% endif %}" + HEAD + "{{ f() }}" + SAID + END,
        None,
    ),
    "caught in a variable": ("{% set all %}" + HEAD + SAID + END + "{% endset %}{{ all }}", False),
}


def rendering_of(source, num_turns=20):
    talk = [Message("system", "be brief")]
    for n in range(num_turns):
        talk += [Message("user", f"q{n}"), Message("assistant", f"a{n}")]
    return Renderer("t", source, {}, {}, datetime.date(2024, 1, 1)).of(talk, None)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_goes_on_from_another_is_what_is_rendered_whole(name):
    source, is_shared = TEMPLATES[name]
    rendering = rendering_of(source)
    size = len(rendering.messages)
    for prompt in (False, True):
        model, shared = rendering.watched(size, prompt), []
        assert model.text == rendering.plain(size, prompt)
        for until in range(1, size):
            text = rendering.plain(until, prompt)
            watch = rendering.watched(until, prompt, model)
            assert model.text[: watch.shared] + watch.text == text, until
            shared.append(watch.shared)
        if is_shared is not None:
            assert (shared[-1] > 30) == bool(is_shared)


def test_what_a_shorter_conversation_is_refused_for_is_refused():
    source = HEAD + SAID + "{% endfor %}{{ raise_exception('no') if messages | length == 7 }}"
    rendering = rendering_of(source)
    model = rendering.watched(41, False)
    with pytest.raises(RowError, match="no"):
        rendering.watched(7, False, model)
    assert rendering.watched(8, False, model).shared > 30
