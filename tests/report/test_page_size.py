"""The page of a long run, of thousands of answers, and of text that attacks it."""

import json
import re

import pytest

from jaxsft.report import run_read, step_history
from jaxsft.report.page import answers, curves
from jaxsft.report.page.write import write_report

HOSTILE = '</script><script>document.title = "taken"</script><!--<script>"\u2028\'><img src=x>'
LEAP = 4_321  # the step with the greatest loss


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def hostile_run(directory):
    """Every text of a run attacks."""
    name = HOSTILE.replace("/", "|")
    steps = [
        {"step": n, "loss": 2.0 - n / 20, f"loss/{name}": 1.0, "epoch": n / 5} for n in range(1, 9)
    ]
    steps += [{"step": n, f"eval/{name}/loss": 2.0 - n / 20} for n in (0, 4, 8)]
    write_lines(directory / "metrics.jsonl", steps)
    asked = {"source": name, "row": 0, "prompt": HOSTILE, "reference": HOSTILE}
    calls = [{"function": {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}}]
    turns = [
        {"role": HOSTILE, "content": HOSTILE, "tool_calls": calls},
        {"role": "user", "content": HOSTILE},
    ]
    said = {"answer": f"{HOSTILE} and more", "messages": turns, "scores": {HOSTILE: True}}
    samples = [
        {"step": step, "phase": phase} | said for step, phase in ((0, "before"), (8, HOSTILE))
    ]
    write_lines(directory / "samples.jsonl", [asked | sample for sample in samples])
    example = [["ok", 1.0], [HOSTILE, 0.5]]
    summary = {"model": HOSTILE, "command": HOSTILE, "steps": 8, "examples": [{"tokens": example}]}
    summary |= {
        "choices": [[HOSTILE] * 3],
        "versions": {HOSTILE: HOSTILE},
        "after": {},
        "before": {},
    }
    (directory / "summary.json").write_text(json.dumps(summary))
    config = {"model": {"source": HOSTILE}, "data": {"train": [{"path": HOSTILE}]}}
    (directory / "config.json").write_text(json.dumps(config))
    warnings = [{"text": HOSTILE, "advice": HOSTILE, "examples": [HOSTILE]}]
    (directory / "data_report.json").write_text(json.dumps({"warnings": warnings}))
    return write_report(directory)


def test_no_text_of_a_run_is_markup(tmp_path):
    page = hostile_run(tmp_path).read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page and "<!--<" not in page
    assert page.count("document.title") > 10  # it is all there, as text
    data = re.search(r'<script type="application/json" id="curves">(.*?)</script>', page)
    assert data and "document.title" in json.dumps(json.loads(data[1]))


def test_a_long_run_has_a_page_of_the_same_size_with_its_leaps(tmp_path):
    steps = [
        {"step": n, "loss": 99.0 if n == LEAP else 1 + n % 7, "grad_norm": 1.0, "step_seconds": 0.5}
        for n in range(1, 30_001)
    ]
    write_lines(tmp_path / "metrics.jsonl", [{"step": 0, "eval/held/loss": 2.0}, *steps])
    run = run_read.read_run(tmp_path)
    assert len(run.steps) <= step_history.MAX_LINES
    assert run.totals.lines == 30_000 and run.totals.step_seconds == pytest.approx(15_000)
    assert run.steps[0].step == 1 and run.steps[-1].step == 30_000
    assert [one.step for one in run.steps] == sorted({one.step for one in run.steps})
    assert LEAP in [one.step for one in run.steps]
    (loss, *_), *_ = (chart.curves for chart in curves.charts_of([run]))
    assert len(loss.xs) <= curves.MAX_POINTS and max(y for _, y in loss.known) == 99.0
    assert write_report(tmp_path).stat().st_size < 400_000


def test_lines_are_thinned_only_where_there_are_too_many(tmp_path):
    for count in (1, 2, 3, 999, step_history.MAX_LINES):
        write_lines(tmp_path / "m.jsonl", [{"step": n, "loss": 1.0} for n in range(1, count + 1)])
        assert [one.step for one in step_history.read(tmp_path / "m.jsonl").steps] == list(
            range(1, count + 1)
        )


def test_thousands_of_answers_are_cut_and_the_page_says_so(tmp_path):
    samples = [
        {"step": 1, "phase": phase, "source": "held", "row": row, "prompt": f"Q{row}"}
        | {"answer": "word " * 1200, "reference": "r", "match": row > 450, "ended": False}
        for row in range(600)
        for phase in ("before", "after")
    ]
    write_lines(tmp_path / "samples.jsonl", samples)
    found = answers.cards_of(run_read.read_run(tmp_path))
    assert len(found.cards) + found.left_out == 600 and found.left_out > 300
    assert found.counts["failed"] == 451 and "failed" in found.cards[0].flags
    path = write_report(tmp_path)
    assert path.stat().st_size < 5_000_000
    text = path.read_text()
    assert f"{found.left_out:,} more prompts are in samples.jsonl" in text
    assert "2,000 more characters" in text


def test_differences_to_the_reference_are_marked(tmp_path):
    asked = {"step": 1, "source": "held", "row": 0, "prompt": "Q", "reference": "a blue hat"}
    told = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user"}]}
    called = {"tool_calls": [{"name": "find", "arguments": {"what": "hat"}}]}
    samples = [
        asked | {"phase": "before", "answer": "no", "ended": True} | told,
        asked | {"phase": "during", "answer": "a red hat", "match": False} | called,
        asked | {"phase": "after", "answer": "a blue hat", "match": True},
    ]
    write_lines(tmp_path / "samples.jsonl", samples)
    (card,) = answers.cards_of(run_read.read_run(tmp_path)).cards
    assert [one.head for one in card.answers] == ["before", "during, step 1", "after"]
    assert card.answers[1].pieces == [
        ("same", "a "),
        ("missing", "blue"),
        ("extra", "red"),
        ("same", " hat"),
    ]
    assert card.answers[1].calls == ['find(what="hat")']
    assert [(turn.role, turn.text) for turn in card.turns] == [("system", "Be brief.")]
    assert card.flags == "passed changed"
