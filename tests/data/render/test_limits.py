"""A hostile template ends in an error within seconds and without gigabytes."""

import resource
import threading
import time

import pytest

from jaxsft.data.conversation import Message
from jaxsft.data.render import limits
from jaxsft.data.render.rendering import TemplateRunsAway
from jaxsft.data.render.template import ChatTemplate
from jaxsft.errors import DataError
from tests.data.chat import CHATML, conversation


def grow(start, step):
    return (
        "{% set n = namespace(s=" + start + ") %}{% for i in range(99) %}" + step + "{% endfor %}"
    )


BIG = "('a' * 900000)"
MANY = f"([{BIG}] * 100000)"
TANGLE = (
    "{% set n = namespace(l=['a' * 9]) %}"
    "{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}"
)
HOSTILE = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "many steps",
    "{% for i in range(9999) %}{% for j in range(99999) if 0 %}{% endfor %}{% endfor %}": "many",
    "{% for i in range(10**9) %}{% endfor %}": "Range too big",
    "{{ 'a' * 10**9 }}": "1 items are repeated 1000000000 times",
    "{{ 10**9 * 'a' }}": "repeated 1000000000 times",
    "{{ ([0] * 10**9) | length }}": "repeated 1000000000 times",
    "{{ 'a' | center(10**9) }}": "center with 1000000000",
    "{{ 'a'.ljust(10**9) }}": "ljust with 1000000000",
    "{{ 'a'.zfill(10**9) }}": "zfill with 1000000000",
    "{{ [1] | batch(10**9, 'a') | list }}": "batch with 1000000000",
    "{{ [1] | slice(10**9) | list }}": "slice with 1000000000",
    "{{ '%0999999999d' % 1 }}": "width of 0999999999",
    "{{ '%*d' % (10**9, 1) }}": r"the format '\*'",
    "{{ '%999999999d' | format(1) }}": "width of 999999999",
    "{{ ('%s' * 100000) % (('a' * 100000,) * 100000) }}": "too much text",
    "{{ '{:>999999999}'.format(1) }}": "width of 999999999",
    "{{ '{:>{}}'.format(1, 10**9) }}": "nested format",
    "{{ ('{0}' * 100000).format('a' * 100000) }}": "too much text",
    "{{ '{!r}'.format(" + MANY + ") }}": "too much text",
    grow("'aa'", "{% set n.s = n.s + n.s %}"): "too much text",
    grow("'aa'", "{% set n.s = n.s ~ n.s %}"): "too much text",
    grow("[1]", "{% set n.s = n.s + n.s %}"): "too much text",
    grow("'a'", "{% set b %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = b %}"): "too much text",
    grow("3", "{% set n.s = n.s * n.s %}"): "more than 10000 bits",
    "{{ (2 ** 9000) ** 9000 }}": "more than 10000 bits",
    "{% set s = " + BIG + " %}{% set n = namespace(l=[]) %}"
    "{% for i in range(99999) %}{% set n.l = n.l + [s[i:]] %}{% endfor %}": "too much text",
    "{{ " + BIG + ".replace('a', " + BIG + ") }}": "replace: 8100",
    "{{ " + BIG + " | replace(old='a', new=" + BIG + ") }}": "replace: 8100",
    "{{ " + BIG + ".join(['x'] * 100000) }}": "join: 900",
    "{{ (['x'] * 100000) | join(d=" + BIG + ") }}": "too much text",
    "{{ [[[1]]] | tojson(indent=10**8) }}": "tojson with indent=100000000",
    "{{ '\\n' | indent(900000) }}": "indent with width=900000",
    "{{ '\\n' | indent(" + BIG + ") }}": "indent with width=900000",
    "{{ " + MANY + " | tojson }}": "too much text",
    "{{ " + MANY + " }}": "too much text",
    "{{ " + MANY + " ~ '' }}": "too much text",
    "{{ " + MANY + " | string }}": "too much text",
    "{{ " + MANY + " | upper }}": "too much text",
    "{{ ([[1] * 9000] * 9000) | sum(none, []) }}": "'sum' on what is not a number",
    TANGLE + "{{ n.l }}": "too much text",
    TANGLE + "{{ n.l | tojson }}": "too much text",
    TANGLE + "{{ n.l == n.l }}": "too much text",
    TANGLE + "{{ n.l is eq(1) }}": "too much text",
    TANGLE + "{{ [n.l, n.l] | sort }}": "too much text",
    "{{ namespace() }}": "a namespace as text",
    "{{ 'a ' | wordwrap(1, wrapstring='b') }}": "the filter 'wordwrap'",
    "{{ ['a'] | join(attribute='x') }}": r"join\(attribute='x'\)",
    "{{ 'a'.translate({97: 'b'}) }}": "'translate' of",
    "{{ (1).to_bytes(9, 'big') }}": "'to_bytes' of",
    "{{ 'a'.encode() }}": "'encode' of",
    "{{ lipsum(1) }}": "'lipsum' is undefined",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{% block a %}{{ self.a() }}{% endblock %}": "RecursionError",
    "{{ ''.__class__.__mro__ }}": "SecurityError: .*'__class__'",
    "{{ raise_exception.__globals__.x }}": "SecurityError: .*'__globals__'",
    "{{ '{0.__class__}'.format('').x }}": "refused|left out",
    "{{ raise_exception('a' * 900000) }}": "refused: a{300}[.]{3}$",
}


def render(source, **fields):
    return ChatTemplate(source, {}, ()).render(conversation("q", "a", **fields).messages)


@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_template_is_refused(source, monkeypatch):
    monkeypatch.setattr(limits, "MAX_STEPS", limits.MAX_STEPS // 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.thread_time()
    if HOSTILE[source] == "refused|left out":
        assert "class" not in render(source)
    else:
        with pytest.raises(DataError, match=HOSTILE[source]):
            render(source)
    assert time.thread_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


def test_calls_without_end_are_stopped_by_the_clock_in_any_thread(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(limits, "MAX_STEPS", 10**12)
    calls = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    errors = []

    def run():
        try:
            render(calls + "{{ f(60) }}")
        except TemplateRunsAway as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=20)
    assert len(errors) == 1 and "takes longer than 0.2 seconds" in errors[0]


@pytest.mark.parametrize(
    "source, match",
    [
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "can't be compiled: RecursionError"),
        ("{% if 1 %}" * 200 + "{% endif %}" * 200, "can't be compiled: IndentationError"),
        ("a" * 1_000_001, "1000001 characters; at most 1000000"),
    ],
)
def test_a_template_that_no_compiler_takes_is_refused(source, match):
    with pytest.raises(DataError, match=match):
        ChatTemplate(source, {}, ())


def test_the_limits_grow_with_the_conversation():
    long = "word " * 600_000
    assert render(CHATML.replace("'user'", "'x'")).startswith("<|im_start|>user\nq")
    messages = conversation(long, long).messages
    text = ChatTemplate(CHATML, {}, ()).render(messages)
    assert len(text) > 6_000_000


def test_both_renderings_are_limited():
    """The generation prompt is rendered without tracing."""
    from jaxsft.data.conversation import Conversation

    source = (
        CHATML + "{% if add_generation_prompt %}{% for i in range(99999) %}"
        "{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    )
    talk = Conversation(conversation("q", "a").messages, None, "f", 1)
    with pytest.raises(TemplateRunsAway, match="takes too many steps"):
        ChatTemplate(source, {}, ("<|im_end|>",)).training_texts(talk)


@pytest.mark.parametrize(
    "use, expected",
    [
        ("x | string", "491511234567890"),
        ("x | tojson", "491511234567890"),
        ("x | int | abs", "491511234567890"),
        ("x | default(x) | round(1) | int", "491511234567890"),
        ("x", "491511234567890"),
        ("'yes' if [x] | first == x", "yes"),
        ("'{}'.format(x)", "491511234567890"),
        ("'a'.find('a', 0, x)", "0"),
    ],
)
def test_a_large_number_that_a_message_holds_makes_nothing_large(use, expected):
    """A telephone number, say, as an argument of a tool call."""
    call = {"function": {"name": "f", "arguments": {"x": 491511234567890}}}
    messages = (Message("user", "q"), Message("assistant", "", tool_calls=(call,)))
    read = "{% set x = messages[1].tool_calls[0].function.arguments.x %}"
    assert ChatTemplate(read + "{{ " + use + " }}", {}, ()).render(messages) == expected
