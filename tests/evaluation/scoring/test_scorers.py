"""What each scorer says of an answer, what is refused at the start, and what none may do."""

import json
import time

import numpy as np
import pytest

from jaxsft.config import Eval, scorers
from jaxsft.errors import ConfigError
from jaxsft.evaluation.scoring import registry, scored
from jaxsft.evaluation.scoring.case import Case, NotScored
from jaxsft.evaluation.scoring.numbers import after_mark

OBJECT = '{"a": 1, "b": "x"}'


def score(settings, answer: str, reference: str = "", **row):
    (one,) = registry.scorers_of(Eval(prompts=1, scorers=(settings,)))
    return one.score(Case(answer, reference, row))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OBJECT, True),
        (' {"b":"x","a":1}\n', True),
        ('{"a": "1", "b": "x"}', False),
        ('{"a": 1.0, "b": "x"}', False),
        ('{"a": true, "b": "x"}', False),
        ('{"a": 1, "b": "x", "c": 0}', False),
        ('{"a": 1, "b": "x"', False),
        ('Sure! {"a": 1, "b": "x"}', False),
        ("[" * 100_000, False),
        ("1" * 5000, False),
    ],
)
def test_an_answer_spells_the_value_of_the_reference(answer, expected):
    assert score("json", answer, OBJECT) is expected


def test_nan_is_no_json():
    assert score("json", "NaN", "NaN") is False


@pytest.mark.parametrize(
    ("settings", "answer", "reference", "expected"),
    [
        ("exact", " yes\n", "yes", True),
        ("exact", "Yes", "yes", False),
        (scorers.Exact(ignore_case=True), "STRASSE", "straße", True),
        ("contains", "it is yes.", " yes ", True),
        ("contains", "no", "yes", False),
        (scorers.Contains(text="Sorry", ignore_case=True), "so sorry!", "anything", True),
        (scorers.Regex(pattern=r"^\d+ kg$"), "12 kg", "13 kg", True),
        (scorers.Regex(pattern=r"^\d+ kg$"), "12 kg!", "12 kg", False),
        (scorers.Regex(pattern=r"(\d+) kg", compare=True), "12 kg", "it has 12 kg", True),
        (scorers.Regex(pattern=r"(\d+) kg", compare=True), "12 kg", "it has 13 kg", False),
        (scorers.Regex(pattern=r"(\d+) kg", compare=True), "it has 12 kg", "12", True),
        (scorers.Regex(pattern=r"(\d+) kg", compare=True), "12", "12", False),
    ],
)
def test_an_answer_is_compared_as_text(settings, answer, reference, expected):
    assert score(settings, answer, reference) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 18", "18"),
        ("so 3 + 4\n#### 1,234.50 dollars", "1234.5"),
        ("####$1,234", "1234"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### −5", "-5"),
        ("#### **7**.", "7"),
        ("#### .5", "0.5"),
        ("#### 18. And then #### 19", "18"),  # the first: an answer that goes on is no better
        ("#### 3,5", None),  # which a part of, 3, is not
        ("#### 1,23,4", None),
        ("#### 1.2.3", None),
        ("#### 1e5", None),
        ("#### 1/2", None),
        ("#### about 3", None),
        ("18", None),
        ("####", None),
        ("#### " + "9" * 10_000, None),
    ],
)
def test_the_number_after_a_mark(text, expected):
    found = after_mark(text, "####", or_last=False)
    assert (None if found is None else float(found)) == (
        None if expected is None else float(expected)
    )


def test_numbers_are_compared_as_numbers():
    reference = "6 * 3 = 18\n#### 18"
    assert score("number", "#### 18.00", reference) is True
    assert score("number", "the answer is 18", reference) is False
    assert score(scorers.Number(last=True), "1 and 3-18", reference) is True  # a range, no minus
    assert score(scorers.Number(last=True), "it is 18.", reference) is True
    assert score(scorers.Number(last=True), "18 of 20", reference) is False
    assert score(scorers.Number(mark="A:"), "A: 18", "18") is True
    assert score(scorers.Number(tolerance=0.1), "#### 18.1", reference) is True
    assert score(scorers.Number(tolerance=0.1), "#### 18.11", reference) is False
    with pytest.raises(NotScored, match="no number after '####'"):
        score("number", "#### 18", "eighteen")


SCHEMA = {
    "type": "object",
    "properties": {"order": {"type": "string", "pattern": r"^\d+ \w+$"}},
    "patternProperties": {"^x_": {"type": "integer"}},
    "required": ["order"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_schema_allows_an_answer(in_a_file, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    settings = scorers.JsonSchema(schema=str(tmp_path / "schema.json") if in_a_file else SCHEMA)
    for answer, allowed in {
        '{"order": "3 mugs"}': True,
        '{"order": "3 mugs", "x_1": 1}': True,
        '{"order": "3 mugs", "x_1": "1"}': False,
        '{"order": "3 mugs", "y": 1}': False,
        '{"order": "mugs"}': False,
        '{"order": 3}': False,
        "{}": False,
        "none": False,
        "[" * 100_000: False,
    }.items():
        assert score(settings, answer) is allowed, answer


def test_a_schema_fetches_nothing(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("the network"))
    away = scorers.JsonSchema(schema={"$ref": "https://example.org/schema.json"})
    with pytest.raises(NotScored, match=r"reference to nothing.*example.org"):
        score(away, "{}")


ENDLESS = r"(a|a)*(a|aa)*$"


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        (scorers.Regex(pattern=ENDLESS, timeout_seconds=0.2), "a" * 60 + "b"),
        *(
            (scorers.JsonSchema(schema=schema, timeout_seconds=0.2), json.dumps(value))
            for schema, value in (
                ({"pattern": ENDLESS}, "a" * 60 + "b"),
                ({"patternProperties": {ENDLESS: True}}, {"a" * 60 + "b": 1}),
                (
                    {"patternProperties": {ENDLESS: True}, "additionalProperties": False},
                    {"a" * 60 + "b": 1},
                ),
            )
        ),
    ],
)
def test_no_expression_runs_for_ever(settings, answer):
    begun = time.monotonic()
    with pytest.raises(NotScored, match=r"took more than 0.2 s"):
        score(settings, answer)
    assert time.monotonic() - begun < 60


def is_short(answer, row):
    return len(answer) < row["limit"]


def test_a_function_of_the_config_scores():
    assert score(scorers.Function(function=is_short), "ab", limit=3) is True
    (one,) = registry.scorers_of(Eval(prompts=1, scorers=(scorers.Function(function=is_short),)))
    assert one.name == "is_short"
    for said, expected in ((np.float32(0.5), 0.5), (np.bool_(True), True), (3, 3.0)):
        made = score(scorers.Function(function=lambda *_, said=said: said), "")
        assert made == expected and type(made) is type(expected)
    for said in ("yes", None, float("nan")):
        with pytest.raises(NotScored, match="expected True or False, or a finite number"):
            score(scorers.Function(function=lambda *_, said=said: said), "")
    with pytest.raises(NotScored, match="KeyError: 'limit'"):
        score(scorers.Function(function=is_short), "ab")


HERMES = '<tool_call>\n{"name": "f", "arguments": {"x": [1]}}\n</tool_call>'
CALL = {"name": "f", "arguments": {"x": [1]}}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HERMES, True),
        (f"I look.\n{HERMES}", True),
        ('[TOOL_CALLS][{"name": "f", "arguments": {"x": [1]}}]', True),
        ('{"name": "f", "parameters": {"x": [1]}}', True),
        ("to=functions.f<|constrain|>json<|message|>" + '{"x": [1]}<|call|>', True),
        (HERMES + HERMES, False),
        (HERMES.replace("1", "2"), False),
        (HERMES[:-20], False),
        ("f(x=[1])", False),
    ],
)
def test_an_answer_calls_what_the_reference_calls(answer, expected):
    assert score("tool_calls", answer, reference_tool_calls=[CALL]) is expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (scorers.Regex(pattern="(a"), r"scorers\[0\].pattern='\(a': is no regular expression"),
        (scorers.Regex(pattern="a", compare=True), "pattern='a': has no group"),
        (scorers.Regex(pattern="a", timeout_seconds=0.0), r"scorers\[0\].timeout_seconds=0.0"),
        (scorers.Contains(text=" "), "text=' ': every answer has that"),
        (scorers.Number(mark=""), "mark='': expected a text"),
        (scorers.Number(tolerance=-1.0), "tolerance=-1.0: must be finite"),
        (scorers.JsonSchema(schema={"type": "objekt"}), "schema: is no JSON schema: 'objekt'"),
        (scorers.JsonSchema(schema={"pattern": "(a"}), r"schema: is no JSON schema: '\(a' is not"),
        (scorers.JsonSchema(schema="/none.json"), "schema=/none.json: can't be read"),
        (
            scorers.JsonSchema(schema={"patternProperties": {}, "unevaluatedProperties": False}),
            "patternProperties beside unevaluatedProperties",
        ),
        (scorers.Function(function="f"), "function='f': is a name"),
        (scorers.Exact(name="loss"), "name='loss': is part of a figure's name"),
        (scorers.Exact(name="a/b"), "name='a/b'"),
        (scorers.Exact(name="a_with_shots"), "name='a_with_shots'"),
    ],
)
def test_what_is_wrong_with_a_scorer_is_said_at_the_start(settings, said):
    with pytest.raises(ConfigError, match=said):
        registry.scorers_of(Eval(prompts=1, scorers=(settings,)))


def test_names_and_sets_are_looked_at():
    with pytest.raises(ConfigError, match="two are called 'exact'"):
        registry.scorers_of(Eval(prompts=1, scorers=("exact", scorers.Exact())))
    made = registry.scorers_of(Eval(scorers=(scorers.Exact(sets=("a", "b")),), match="json"))
    assert [one.name for one in made] == ["match", "exact"]
    registry.refuse_unknown_sets(made, ["a", "b"])
    with pytest.raises(ConfigError, match=r"'exact' is for the set 'b', .* prompts: a$"):
        registry.refuse_unknown_sets(made, ["a"])


@pytest.mark.parametrize("workers", [1, 3])
def test_what_has_no_score_is_counted_and_what_is_away_is_not_waited_for(workers):
    asked = []

    def one(case: Case) -> bool:
        asked.append(case.answer)
        raise scored.ScorerIsAway(f"no\nanswer of {len(case.answer)}")

    scorer = registry.Scorer("s", one, workers=workers)
    found = scored.scored(scorer, [Case("a", "")] * 40)
    assert found.scores == [None] * 40
    assert 5 <= len(asked) < 5 + workers
    assert found.notes == ["s: 40 of 40 answers have no score, such as for: no answer of 1"]
    few = scored.scored(registry.Scorer("f", lambda case: is_short(case.answer, {"limit": 2})), [])
    assert few == scored.Scored([], [])
