"""Every string operation gives what str gives, and each character still knows its origin."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsft.data.render.escapes import traced_json
from jaxsft.data.render.provenance import (
    ProvenanceError,
    Traced,
    concat,
    percent_format,
    to_text,
    trace,
)

TEXT = st.text(alphabet="ab \n\t<|>Eé🙂", max_size=12)


def origins(text):
    """The origin of each character, by the plain definition of the runs."""
    result = [None] * len(text)
    for start, stop, origin, *_ in text.runs:
        for place in range(start, stop):
            assert result[place] is None
            result[place] = origin
    return list(zip(str.__iter__(text), result, strict=True))


def numbered(text):
    """A traced text in which every character has an origin of its own."""
    return Traced(text, tuple((i, i + 1, (i, "c", ""), 0, 1) for i in range(len(text))))


OPERATIONS = {
    "strip": lambda s: [s.strip()],
    "strip chars": lambda s: [s.strip("a<")],
    "lstrip": lambda s: [s.lstrip()],
    "rstrip": lambda s: [s.rstrip("\n")],
    "split": lambda s: s.split(),
    "split at most": lambda s: s.split(None, 1),
    "split at": lambda s: s.split("a"),
    "split at most at": lambda s: s.split("a", 1),
    "rsplit": lambda s: s.rsplit("ab", 1),
    "rsplit whitespace": lambda s: s.rsplit(None, 2),
    "splitlines": lambda s: s.splitlines(),
    "splitlines keep": lambda s: s.splitlines(True),
    "partition": lambda s: s.partition("b"),
    "rpartition": lambda s: s.rpartition("b"),
    "slice": lambda s: [s[1:-1], s[:3], s[-2:], s[5:2]],
    "stride": lambda s: [s[::-1], s[::2]],
    "iterate": lambda s: list(s),
    "prefix": lambda s: [s.removeprefix("a"), s.removesuffix("b")],
}


@pytest.mark.parametrize("name", OPERATIONS)
@given(text=TEXT)
def test_pieces_are_those_of_str_and_know_their_place(name, text):
    plain, pieces = list(OPERATIONS[name](text)), list(OPERATIONS[name](numbered(text)))
    assert pieces == plain
    for piece in pieces:
        for char, origin in origins(piece):
            assert origin is not None and text[origin[0]] == char


@given(text=TEXT, other=TEXT)
def test_joining_operations_keep_both_sides(text, other):
    ours = numbered(text)
    cases = [
        (ours + other, origins(ours) + [(c, None) for c in other]),
        (other + ours, [(c, None) for c in other] + origins(ours)),
        (ours * 2, origins(ours) * 2),
        (concat([other, ours]), [(c, None) for c in other] + origins(ours)),
        (ours.join([other, other]), origins(ours + other)[:0] + _joined(other, ours)),
        (percent_format("%s|%%|%s", (ours, 3)), origins(ours + "|%|3")),
        (percent_format("%(k)s", {"k": ours}), origins(ours)),
        (ours.upper(), [(c, o) for c, (_, o) in zip(text.upper(), origins(ours), strict=True)]),
    ]
    for result, expected in cases:
        assert origins(result) == expected


def _joined(other, ours):
    return [(c, None) for c in other] + origins(ours) + [(c, None) for c in other]


@given(text=TEXT, old=st.text(alphabet="ab<", min_size=1, max_size=2))
def test_replace_keeps_the_rest(text, old):
    result = numbered(text).replace(old, "XY")
    assert result == text.replace(old, "XY")
    assert all((char in "XY") == (origin is None) for char, origin in origins(result))


@given(
    value=st.recursive(
        TEXT | st.integers() | st.booleans() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    ),
    ascii_only=st.booleans(),
    indent=st.none() | st.just(2),
    sort_keys=st.booleans(),
)
def test_json_marks_exactly_the_inside_of_strings(value, ascii_only, indent, sort_keys):
    options = {"ensure_ascii": ascii_only, "indent": indent, "sort_keys": sort_keys}
    result = traced_json(trace(value, 0, "x"), **options)
    assert result == json.dumps(value, **options)
    inside = [str.__getitem__(result, slice(a, b)) for a, b, *_ in result.runs]
    assert all(json.loads(f'"{part}"') for part in inside)
    outside = "".join(char for char, origin in origins(result) if origin is None)
    assert not set(outside) - set('[]{}"-:, \n0123456789truefalsn')


@given(
    st.recursive(
        st.text(alphabet="a'\"\\\n\x00é🙂\u200b<", max_size=6) | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )
)
def test_the_text_of_a_value_marks_exactly_the_inside_of_strings(value):
    result = to_text(trace(value, 0, "x"))
    assert result == str(value)
    if isinstance(value, str):
        return
    assert all(ast.literal_eval(_quoted(result, a, b)) for a, b in whole(result.runs))
    outside = "".join(char for char, origin in origins(result) if origin is None)
    assert not set(outside) - set("[]{}'\"-:, 0123456789None")


def whole(runs):
    """(start, stop) of runs that touch, as one: those of one string, escapes and all."""
    edges = [run[0] for run in runs] + [runs[-1][1]] if runs else []
    stops = {run[1] for run in runs}
    starts = [start for start in edges[:-1] if start not in stops]
    ends = sorted(stops - set(edges[:-1]))
    return list(zip(starts, ends, strict=True))


def _quoted(text, start, stop):
    quote = str.__getitem__(text, start - 1)
    return quote + str.__getitem__(text, slice(start, stop)) + quote


def test_the_text_of_a_tuple_with_a_message_is_refused():
    with pytest.raises(ProvenanceError, match="the text of a tuple would lose"):
        to_text([(trace("a", 0, "x"),)])


def test_json_of_a_string_put_together_keeps_both_origins():
    text = trace('a"', 0, "x") + "|" + trace("é", 1, "y")
    result = traced_json(text, ensure_ascii=True)
    assert [str(result)[a:b] for a, b, *_ in result.runs] == ["a", '\\"', "\\u00e9"]
    assert [run[2:] for run in result.runs] == [
        ((0, "x", ""), 0, 1),
        ((0, "x", ""), 1, 2),
        ((1, "y", ""), 0, 1),
    ]


@pytest.mark.parametrize(
    "operation, match",
    [
        (lambda s: s.translate({97: "b"}), "translate would lose"),
        (lambda s: s.replace("", "-"), r"replace\('', ...\) would lose"),
        (lambda s: format(s, ">9"), "format '>9' would lose"),
        (lambda s: percent_format("%5s", s), "'%5s' would lose"),
        (lambda s: s.zfill(9), "zfill would lose"),
        (lambda s: s.center(9), "center would lose"),
        (lambda s: s.expandtabs(), "expandtabs would lose"),
        (lambda s: (s + "ß").upper(), "changes the length"),
        (lambda s: s * 10**9, "repeated 1000000000 times"),
    ],
)
def test_what_cannot_keep_the_record_is_refused(operation, match):
    with pytest.raises(ProvenanceError, match=match):
        operation(numbered("a\tb"))
