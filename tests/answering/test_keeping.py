"""Which answers of a prompt are kept."""

import pytest

from jaxsft.answering import keeping, written
from jaxsft.answering.keeping import Rule
from jaxsft.answering.questions import Question
from jaxsft.config import scorers
from jaxsft.data.read.messages import parse_message
from jaxsft.errors import PeerError
from jaxsft.evaluation.answers import Prompt
from jaxsft.evaluation.scoring import registry

USER = parse_message({"role": "user", "content": "2 + 2?"})
QUESTION = Question(Prompt("f.jsonl", 1, (USER,), None, "4"), "key")


def rule(given, **fields):
    return Rule(scorer=registry.made(given, "--keep"), **fields)


def judged(by, *texts):
    answers = [written.checked({"role": "assistant", "content": text}, 0, 1) for text in texts]
    (found,) = keeping.verdicts(by, [(QUESTION, answers)])
    return [one.why for one in found], [one.score for one in found]


def length(answer, row):
    assert row["messages"][0]["content"] == "2 + 2?" and row["reference"] == "4"
    if answer == "?":
        raise KeyError("x")
    return len(answer)


def test_without_a_scorer_what_ends_is_kept_once():
    whys, scores = judged(Rule(), "4", "four", " 4", "", "4")
    same = keeping.SAME
    assert whys == [None, None, same, written.EMPTY, same] and scores == [None] * 5


def test_a_scorer_keeps_what_is_right():
    whys, scores = judged(rule("exact"), "4", "5", "4 ")
    assert whys == [None, keeping.LOW, keeping.SAME] and scores == [1.0, 0.0, None]


def test_a_function_scores_with_the_row_and_its_defect_costs_one_answer():
    by = rule(scorers.Function(function=length), least=2.0)
    whys, scores = judged(by, "a", "?", "abc")
    assert whys == [keeping.LOW, keeping.NO_SCORE, None] and scores == [1.0, None, 3.0]


@pytest.mark.parametrize(("short", "kept"), [(False, ["bbb", "ccc"]), (True, ["bbb", "ccc"])])
def test_the_best_are_kept_by_their_scores(short, kept):
    texts = ["a", "bbb", "ccc", "dd"]
    by = rule(scorers.Function(function=length), most=2, prefers_short=short)
    whys, _ = judged(by, *texts)
    assert [text for text, why in zip(texts, whys, strict=True) if why is None] == kept
    assert whys.count(keeping.MORE) == 2


@pytest.mark.parametrize(("short", "kept"), [(False, "4 and more"), (True, "4")])
def test_of_equal_scores_the_first_or_the_shortest(short, kept):
    texts = ["4 and more", "4", "so 4"]
    whys, _ = judged(rule("contains", most=1, prefers_short=short), *texts)
    assert [text for text, why in zip(texts, whys, strict=True) if why is None] == [kept]


def test_a_judge_that_is_away_ends_it():
    judge = scorers.Judge(url="http://127.0.0.1:9/v1", model="m", retries=0)
    with pytest.raises(PeerError, match="--keep=judge: the judge could not be asked"):
        judged(rule(judge, asks_a_judge=True, least=0.5), "4")
