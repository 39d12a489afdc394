"""The gate warns where it should, keeps quiet where it can, and is read in a log of 80 columns."""

import dataclasses
import io
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jaxsft.data.cache.manifest import CacheReport, SourceReport
from jaxsft.data.conversation import Conversation, Message
from jaxsft.data.encode.account import Drop, Outcome, Tally
from jaxsft.data.encode.tokenize import Example
from jaxsft.data.quality import hints, measures
from jaxsft.data.quality.row_statistics import shard_facts
from jaxsft.data.report import text as report_text
from jaxsft.data.report import warnings
from jaxsft.data.report.data_report import DataReport, PlannedSteps
from jaxsft.files import records as json_records

WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in ("n", "rs", "lt", "x")]


def rows(count: int, seed: int = 0, file: str = "train.jsonl") -> list[Conversation]:
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS) for _ in range(30)) + "."

    return [
        Conversation((Message("user", sentence()), Message("assistant", sentence())), None, file, n)
        for n in range(1, count + 1)
    ]


def outcome(record: Conversation, supervised: int = 20) -> Outcome:
    weights = np.zeros(50, np.float32)
    weights[50 - supervised :] = 1
    ids = np.arange(50, dtype=np.int32)
    return Outcome(record.file, record.row, (Example(ids, weights, record.file, record.row, ()),))


def report_of(records, outcomes=None, **sources) -> CacheReport:
    """What a cache's report.json holds."""
    outcomes = outcomes or [outcome(record) for record in records]
    tally = Tally()
    for each in outcomes:
        tally.add(each)
    facts = shard_facts(records, outcomes)
    own = SourceReport(**vars(tally.account()), quality=measures.quality_of(facts))
    return CacheReport(**vars(own), sources=sources or {"main": own})


def good_but(**changes) -> CacheReport:
    return dataclasses.replace(report_of(rows(100)), **changes)


def plan(**changes) -> PlannedSteps:
    usual = PlannedSteps(
        sequence_length=1024,
        batch_size=8,
        packed_rows=800,
        fill=0.99,
        steps_per_epoch=100,
        steps=200,
        epochs=2.0,
        supervised_tokens_per_epoch=300_000,
        examples_per_epoch={"main": 100},
        fewest_supervised_tokens=2000,
    )
    return dataclasses.replace(usual, **changes)


def warnings_of(train=None, evals=None, overlaps=None, its_plan=None) -> list[str]:
    train = train or report_of(rows(100))
    made = warnings.whole_report(train, evals or {}, overlaps or {}, its_plan or plan())
    return [warning.text for warning in made.warnings]


def test_good_data_gives_no_warning():
    records, held_out = rows(100), rows(40, seed=1, file="eval.jsonl")
    overlap = measures.overlap_of(
        *(shard_facts(r, list(map(outcome, r))) for r in (records, held_out))
    )
    assert warnings_of(report_of(records), {"dev": report_of(held_out)}, {"dev": overlap}) == []


def test_what_eval_shares_with_train_comes_first():
    records = rows(100)
    held_out = records[10:13] + rows(40, seed=1, file="eval.jsonl")
    train, dev = (shard_facts(r, list(map(outcome, r))) for r in (records, held_out))
    overlaps = {"dev": measures.overlap_of(train, dev)}
    made = warnings.whole_report(
        report_of(records), {"dev": report_of(held_out)}, overlaps, plan(steps=3)
    )
    first, second = made.warnings
    assert first.text == "eval dev: 3 of 43 (7.0%) rows are in the training data"
    assert first.examples[0] == "train.jsonl:11 and train.jsonl:11"
    assert "3 steps" in second.text
    assert made.held_out["dev"].overlap == overlaps["dev"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fill": 0.85}, "800 packed rows are 85.0% full"),
        ({"steps": 49}, "the run has 49 steps"),
        ({"epochs": 5.5}, "sees the data 5.5 times"),
        ({"fewest_supervised_tokens": 0}, "a step has no supervised token"),
        ({"examples_per_epoch": {"main": 900}}, "main: each of its 100 examples is seen 18.0"),
    ],
)
def test_a_plan_that_will_disappoint(changes, said):
    (warning,) = warnings_of(its_plan=plan(**changes))
    assert said in warning


def test_rows_that_are_lost():
    records = rows(100)
    drop = Drop("overlong: more than sequence_length=40 tokens", "overlong: 50 tokens", 50)
    lost = [Outcome(r.file, r.row, (), (drop,)) for r in records[:2]]
    train = report_of(records, lost + list(map(outcome, records[2:])))
    warning, few = warnings_of(train)
    assert few == "there are 98 examples to train on"
    assert warning == (
        "train: 2 of 100 (2.0%) rows dropped, with 100 of 5,000 (2.0%) tokens:"
        " overlong: more than sequence_length=40 tokens"
    )


def test_a_loss_is_led_by_the_larger_share():
    """Few long rows hold most of the tokens."""
    records = rows(100)
    long = Drop("overlong: more than sequence_length=999 tokens", "overlong: 4600 tokens", 4600)
    odd = Drop("no supervised token", "no supervised token", 0)
    lost = [Outcome(r.file, r.row, (), (long,)) for r in records[:1]]
    lost += [Outcome(r.file, r.row, (), (odd,)) for r in records[1:8]]
    train = report_of(records, lost + list(map(outcome, records[8:])))
    first, second = warnings_of(train)[:2]
    assert first == (
        "train: 4,600 of 9,200 (50.0%) tokens dropped, with 1 of 100 (1.0%) rows:"
        " overlong: more than sequence_length=999 tokens"
    )
    assert second == "train: 7 of 100 (7.0%) rows dropped: no supervised token"
    assert "  1 dropped, 50.0% of the tokens: overlong" in printed(
        warnings.whole_report(train, {}, {}, None), width=80
    )


def test_tokens_that_are_left_out_to_fit_are_a_loss_too():
    records = rows(100)
    train = report_of(records)
    tokens = dataclasses.replace(train.tokens, rendered=10_000, truncated=5_000)
    train = dataclasses.replace(train, tokens=tokens, truncated_examples=30)
    said = "train: 5,000 of 10,000 (50.0%) tokens left out to fit, of 30 of 100 (30.0%) examples"
    assert warnings_of(train) == [said]


@pytest.mark.parametrize(
    "names, said",
    [
        (["system_prompt"], "system_prompt, which may belong to the conversation"),
        (["reward", "score"], "reward, score, which may judge the answers: good and bad are"),
    ],
)
def test_a_column_that_may_mean_something_is_a_warning(names, said):
    train = good_but(unread_columns=dict.fromkeys(["id", *names], 40))
    (warning,) = warnings_of(train)
    assert warning.startswith(f"train: nothing reads {said}")


def test_few_supervised_tokens():
    records = rows(100)
    train = report_of(records, [outcome(record, supervised=2) for record in records])
    assert warnings_of(train) == ["only 4.0% of the tokens are supervised"]


def test_duplicates():
    records = rows(100)
    again = [Conversation(r.messages, None, r.file, 100 + r.row) for r in records[:2]]
    assert warnings_of(report_of([*records, *again])) == [
        "2 of 102 (2.0%) rows repeat an earlier one"
    ]
    twins = [
        Conversation((Message("user", r.messages[0].content + " Ok"), r.messages[1]), None, "t", 1)
        for r in records[:20]
    ]
    (warning,) = warnings_of(report_of([*records, *twins]))
    assert warning == "20 of 120 (16.7%) rows are almost the same as an earlier one"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "6 rows (6.0%): empty answer"),
        ("Here:\n```\nx = 1", "6 rows (6.0%): code block without end"),
        ("Itâ€™s", "6 rows (6.0%): wrong encoding"),
        ("Well. " * 20 + "and then we all went off to the very", "answer without end"),
        ("I am sorry, no.", "6.0% of the answers are 'I am sorry, no.'"),
    ],
)
def test_answers_that_teach_the_wrong_thing(answer, said):
    records = rows(100)
    changed = [
        Conversation((r.messages[0], Message("assistant", answer)), None, r.file, r.row)
        for r in records[:6]
    ]
    assert any(said in text for text in warnings_of(report_of([*changed, *records[6:]])))


def test_labels_may_repeat():
    changed = [
        Conversation((r.messages[0], Message("assistant", "positive")), None, r.file, r.row)
        for r in rows(100)
    ]
    assert warnings_of(report_of(changed)) == []


def test_control_text_and_a_small_eval():
    train = good_but(control_text=4)
    first, second = warnings_of(train, {"dev": report_of(rows(9, seed=1))})
    assert first.startswith("train: 4 trained words spell a control token")
    assert second == "eval dev: 9 rows"


@pytest.mark.parametrize(
    "count, said, advice",
    [
        ("trained_headers", "train the header of an answer", "add_generation_prompt"),
        ("near_turns", "not proven to go on from their prompts", "data.train_on='last_turn'"),
        ("text_controls", "are spelt in rows of plain text", "give the conversation itself"),
    ],
)
def test_what_is_trained_beside_the_answers(count, said, advice):
    made = warnings.whole_report(good_but(**{count: 7}), {}, {}, plan())
    (warning,) = made.warnings
    assert warning.text.startswith("7 ") and said in warning.text
    assert advice in warning.advice and "as plain text" not in warning.advice


def test_a_template_with_control_tokens_that_the_tokenizer_lacks():
    train = good_but(unknown_controls=["<|im_end|>", "<|tool|>"])
    (warning,) = warnings.whole_report(train, {}, {}, None).warnings
    assert warning.text == (
        "data.template has '<|im_end|>', '<|tool|>', no tokens of the tokenizer"
    )
    flag = """--config.model.new_tokens='["<|im_end|>", "<|tool|>"]'"""
    assert flag in warning.advice


def test_every_hint_has_advice():
    source = Path(hints.__file__).read_text(encoding="utf-8")
    kinds = set(re.findall(r'(?:yield|_first\()\s*"([^"]+)"', source))
    assert len(kinds) >= 15 and kinds == set(warnings.ADVICE)


def everything() -> DataReport:
    """A report in which each part says something, with markup and long words in the data."""
    records = rows(100)
    odd = [
        Conversation((Message("user", "[red]q[/red]"), Message("assistant", text)), None, "o", n)
        for n, text in enumerate(["", "[bold]" + "x" * 300, "Tom &amp; Jerry"], start=1)
    ]
    again = [Conversation(r.messages, None, r.file, 100 + r.row) for r in records[:2]]
    train = report_of([*records, *odd, *again])
    names = ("main", "a_source_with_a_long_name_and_more")
    train = dataclasses.replace(
        train,
        split_conversations=7,
        bad_rows_by_cause=["train.jsonl:9: messages=[] [/nonsense]: there is no message"],
        dropped={"no messages": 1},
        sources=dict.fromkeys(names, train.sources["main"]),
    )
    dev = rows(40, seed=1, file="eval.jsonl") + records[:1]
    facts = [shard_facts(r, list(map(outcome, r))) for r in (records, dev)]
    per_epoch = dict.fromkeys(names, 1_234_567)
    return warnings.whole_report(
        train,
        {"dev": report_of(dev)},
        {"dev": measures.overlap_of(*facts)},
        plan(examples_per_epoch=per_epoch),
    )


def printed(report: DataReport, **options) -> str:
    output = io.StringIO()
    report_text.print_report(report, Console(file=output, highlight=False, **options))
    return output.getvalue()


def test_the_report_is_json_and_reads_in_80_columns():
    report = everything()
    value = json.loads(json.dumps(json_records.to_json(report), allow_nan=False))
    assert json_records.to_json(json_records.from_json(DataReport, value)) == value
    text = printed(report, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for said in (
        "eval dev: 1 of 41 (2.4%) rows are in the training data",
        "for example train.jsonl:1 and train.jsonl:1",
        "105 rows = 105 used + 1 dropped",
        "5,250 tokens rendered = 2,100 supervised + 3,150 context",
        "1 dropped: no messages",
        "7 conversations whose template rewrites",
        "train.jsonl:9: messages=[] [/nonsense]: there is no message",
        "2 rows repeat an earlier one",
        "train.jsonl:101 repeats train.jsonl:1",
        "1 rows (1.0%): empty answer",
        "Tom &amp; Jerry",
        "800 packed rows of 1,024 tokens, 99.0% full",
        "200 steps, 2.00 epochs in all",
        "3,000 supervised tokens a step",
        "1.2M",
    ):
        assert said in text, said
    assert "a_source_with_a_long_name_and_more" in "".join(text.split())


DROP = Drop("overlong", "overlong: 90 tokens > 64", 90)


@pytest.mark.parametrize(
    "drops, said",
    [
        ((Outcome("f", 1, dropped=(DROP,)),), ["1 dropped, 64.3% of the tokens: overlong"]),
        (
            (Outcome("f", 1, dropped=(DROP, DROP)), Outcome("f", 2, dropped=(DROP,))),
            ["2 dropped, 84.4% of the tokens: overlong", "1 more dropped: overlong"],
        ),
        (
            (dataclasses.replace(outcome(rows(1)[0]), dropped=(DROP,)),),
            ["1 more dropped, 47.4% of the tokens: overlong"],
        ),
    ],
)
def test_a_dropped_row_is_told_once_and_other_examples_as_more(drops, said):
    records = rows(1 + len(drops))
    report = report_of(records, [*drops, outcome(records[-1])])
    text = printed(warnings.whole_report(report, {}, {}, None))
    assert re.findall(r"^ +(\d.*overlong)$", text, re.MULTILINE) == said


def test_names_are_no_markup_and_few():
    report = report_of(rows(60))
    names = [f"{n}.jsonl" for n in range(100)]
    train = dataclasses.replace(report, sources={"s[ab]\x1b": report}, other_names=names)
    text = printed(warnings.whole_report(train, {}, {}, None), width=200)
    assert "s[ab]\u241b" in text and "\x1b" not in text
    assert "files that are read: 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl and 95 more" in text


def test_a_bar_is_as_long_as_its_rows_say():
    figures = measures.quality_of(
        shard_facts(
            [*rows(30), *rows(10, seed=1)],
            [outcome(r) for r in rows(30)] + [_short_outcome(r) for r in rows(10, seed=1)],
        )
    ).tokens
    output = io.StringIO()
    report_text._print_histogram("tokens", figures, Console(file=output, width=80))
    bars = [line.count("#") for line in output.getvalue().splitlines() if "to" in line][1:]
    assert bars == [12, 0, 36]


def _short_outcome(record: Conversation) -> Outcome:
    example = Example(
        np.arange(9, dtype=np.int32), np.ones(9, np.float32), record.file, record.row, ()
    )
    return Outcome(record.file, record.row, (example,))


def test_without_a_plan_or_warnings():
    report = warnings.whole_report(report_of(rows(60)), {}, {}, None)
    text = printed(report, width=80)
    assert "No warnings" in text and "no hints" in text and "Plan" not in text


@pytest.mark.parametrize(
    "packed, multiple, padding, advice",
    [
        (21, 1, 79, "Set train.batch_size=21:"),
        (21, 8, 79, "Set train.batch_size=24:"),
        (21, 100, 79, "Micro-batches and devices share 100 rows at the least: use fewer"),
        (100, 1, None, None),
    ],
)
def test_a_batch_of_more_rows_than_there_are_is_told(packed, multiple, padding, advice):
    its_plan = plan(batch_size=100, packed_rows=packed, batch_multiple=multiple)
    report = warnings.whole_report(report_of(rows(100)), {}, {}, its_plan)
    if padding is None:
        assert not report.warnings
        return
    (warning,) = report.warnings
    assert warning.text.startswith(f"train.batch_size=100 is more than the {packed} packed rows")
    assert f"{padding} rows of each step are padding" in warning.text
    assert warning.advice.startswith(advice)
