"""report.html, made from the files that a run directory holds at that moment."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jaxsft.report.page import trained
from jaxsft.report.page import write as report

ROW = {
    "epoch": 0.5,
    "token_accuracy": 0.4,
    "entropy": 2.0,
    "grad_norm": 3.0,
    "learning_rate": 1e-4,
    "tokens_per_second": 1234.0,
    "mfu": None,
    "packing_efficiency": 0.75,
    "skipped_steps": 0,
}
METRICS = [
    {"step": 0, "eval/held/loss": 2.5, "eval/held/match": 0.125, "eval/plain/loss": 3.0},
    {"step": 1, "loss": 2.25} | ROW,
    {"step": 2, "loss": 1.5} | ROW,
    {"step": 2, "eval/held/loss": 0.5, "eval/held/match": 0.875, "eval/plain/loss": 3.3},
]
SAMPLES = [
    {"step": 0, "phase": "before", "answer": "no idea", "match": False},
    {"step": 0, "phase": "before_with_instruction", "answer": "perhaps", "match": None},
    {"step": 2, "phase": "after", "answer": "<script>alert(1)</script>", "match": True},
]
ACCOUNT = {
    "rows_in": 10,
    "rows_out": 7,
    "dropped": {"too long": 2, "no answer": 1},
    "examples": 8,
    "tokens": {
        "rendered": 1000,
        "supervised": 600,
        "context": 300,
        "truncated": 0,
        "dropped": 100,
    },
}
SUMMARY = {
    "model": "org/<b>model",
    "parameters": 134_515_008,
    "device": "1 x cpu",
    "mesh": "fsdp=1",
    "steps": 2,
    "epochs": 1.0,
    "wall_seconds": 125.0,
    "peak_memory_bytes": 3 * 2**30,
    "before": {"eval/held/loss": 2.5, "eval/held/match": 0.125, "eval/plain/loss": 3.0},
    "after": {"eval/held/loss": 0.5, "eval/held/match": 0.875, "eval/plain/loss": 3.3},
    "data": {"train": ACCOUNT},
    "export": "runs/x/export",
    "command": "python -m jaxsft.train --config='a b.py'",
    "versions": {"jax": "0.10.2"},
    "choices": [["attention", "xla", "no <other> fits"]],
    "example": [["Hi", 0.0], ["<|end|>", 1.0], ["\n", 0.5]],
}
CONFIG = {"model": {"source": "m"}, "data": {"train": [{"path": "a&b.jsonl"}]}, "lora": None}


@pytest.fixture
def workdir(tmp_path) -> Path:
    asked = {"source": "held", "row": 4, "prompt": "Why?", "reference": "because"}
    write_lines(tmp_path / "metrics.jsonl", METRICS)
    write_lines(tmp_path / "samples.jsonl", [asked | sample for sample in SAMPLES])
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Page(HTMLParser):
    """The visible text of a page, its tags, and whether each one that opens also closes."""

    VOID = {"meta", "br", "input"}

    def __init__(self, html: str):
        super().__init__()
        self.html, self.text, self.tags, self.open, self.ids = html, "", [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
        self.text += "" if tag == "span" else " "

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data


def page_of(workdir: Path) -> Page:
    path = report.write_report(workdir)
    assert path == workdir / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open
    page.text = re.sub(r"\s+", " ", page.text)
    return page


def test_the_numbers_of_the_run_appear(workdir):
    text = page_of(workdir).text
    assert "held: matching answers 12.5% → 87.5% +75.0 points, better" in text
    assert "held: loss 2.5000 → 0.5000 -2.0000 (-80.0%), better" in text
    assert "plain: loss 3.0000 → 3.3000 +0.3000 (+10.0%), worse" in text
    facts = ("134.5 M", "1 x cpu", "fsdp=1", "2 min 5 s", "3.00 GiB", "1,234 tokens/s", "75.0% of")
    for shown in (*facts, "runs/x/export", "0.10.2", "data.train[0].path a&b.jsonl", "lora null"):
        assert shown in text


def test_rows_and_tokens_are_accounted_for(workdir):
    text = page_of(workdir).text
    assert "10 rows read = 7 used + 2 dropped (too long) + 1 dropped (no answer) ✓" in text
    tokens = "1,000 tokens rendered = 600 supervised + 300 context + 0 truncated + 100 dropped ✓"
    assert tokens in text


@pytest.mark.parametrize(
    "change", [{"rows_out": 6}, {"tokens": ACCOUNT["tokens"] | {"context": 1}}]
)
def test_an_account_that_does_not_add_up_says_so(workdir, change):
    summary = SUMMARY | {"data": {"train": ACCOUNT | change}}
    (workdir / "summary.json").write_text(json.dumps(summary))
    assert page_of(workdir).text.count("these don't add up") == 1


def test_answers_stand_side_by_side_with_their_verdicts(workdir):
    text = page_of(workdir).text
    assert "Why? before ✗ no match no idea before, instructed perhaps after ✓ match" in text
    assert "reference because" in text


def test_everything_from_outside_is_escaped(workdir):
    page = page_of(workdir)
    assert page.tags.count("script") == 2  # the page's own
    assert "<b>model" not in page.html and "<script>alert" not in page.html
    assert "<script>alert(1)</script>" in page.text and "org/<b>model" in page.text


def test_supervised_tokens_are_marked(workdir):
    html = page_of(workdir).html
    assert '<span class="off" title="weight 0">Hi</span>' in html
    assert '<span class="on" title="weight 1">&lt;|end|&gt;</span>' in html
    assert '<span class="on odd" title="weight 0.5">⏎\n</span>' in html
    assert "2 of 3 tokens are trained; the others are context" in html


def test_the_page_needs_nothing_from_elsewhere(workdir):
    page = page_of(workdir)
    assert not re.search(r"(?i)https?:|src=|url\((?!#)|@import|href=\"(?!#)", page.html)
    assert not {"link", "img", "iframe"} & set(page.tags)


def test_figures_have_a_text_alternative_and_the_colours_of_the_page(workdir):
    page = page_of(workdir)
    assert page.tags.count("svg") == 5
    held = "training from 2.25 at step 1 to 1.5 at step 2; held out, held from 2.5 at step 0"
    assert held in page.html
    svgs = "".join(re.findall(r"<svg.*?</svg>", page.html, flags=re.DOTALL))
    assert "var(--series-3)" in svgs and not re.search(r"#[0-9a-f]{6}", svgs)
    assert len(page.ids) == len(set(page.ids))


def test_a_run_that_ended_before_its_first_step_has_a_page(tmp_path):
    text = page_of(tmp_path).text
    assert "not finished before its first step" in text and "there is no verdict" in text


def test_a_run_of_one_step_has_a_page(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.25, "grad_norm": None}])
    page = page_of(tmp_path)
    assert "not finished after step 1" in page.text and page.tags.count("svg") == 1


def test_a_failed_run_shows_its_error_and_what_was_measured(workdir):
    (workdir / "summary.json").unlink()
    (workdir / "error.json").write_text(json.dumps({"message": "out of <memory>"}))
    text = page_of(workdir).text
    assert "failed after step 2" in text and "ended with an error: out of <memory>" in text
    assert "held: loss 2.5000 → 0.5000" in text


def test_a_stopped_run_says_why_and_where_and_what_became_of_its_data(workdir):
    (workdir / "summary.json").unlink()
    data = {"plan": {"steps": 20}, "train": ACCOUNT, "eval": {"held": ACCOUNT}}
    (workdir / "data_report.json").write_text(json.dumps(data))
    page = report.write_report(workdir, "stopped by SIGTERM & saved")
    text = re.sub(r"\s+", " ", Page(page.read_text()).text)
    assert "stopped after step 2 of 20" in text
    assert "The run ended early: stopped by SIGTERM & saved" in text
    assert text.count("10 rows read = 7 used") == 2
    assert [path.name for path in workdir.glob("*report.html*")] == ["report.html"]


def test_what_a_finished_run_did_stays_when_a_later_start_fails(workdir):
    (workdir / "error.json").write_text(json.dumps({"message": "peak_lr was 1"}))
    text = page_of(workdir).text
    assert "Fine-tuning run, finished" in text and "held: loss 2.5000 → 0.5000" in text
    assert "A later start of the run ended with an error: peak_lr was 1" in text


def test_a_run_that_went_on_after_its_end_is_not_finished(workdir):
    write_lines(workdir / "metrics.jsonl", [*METRICS, {"step": 3, "loss": 1.0} | ROW])
    text = page_of(workdir).text
    assert "not finished after step 3" in text and "steps 3" in text and "2 min 5 s" not in text


def test_files_that_hold_something_else_are_named(workdir):
    (workdir / "summary.json").write_text("[1]")
    (workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n7\n')
    text = page_of(workdir).text
    assert "summary.json can't be read" in text and "metrics.jsonl, line 2 can't be read" in text


def test_a_run_that_was_evaluated_only_before_has_no_verdict(workdir):
    (workdir / "summary.json").unlink()
    write_lines(workdir / "metrics.jsonl", METRICS[:2])
    text = page_of(workdir).text
    assert "there is no verdict" in text and "held: loss 2.5000 –" in text


@pytest.mark.parametrize("missing", [*SUMMARY, *(f"data.{key}" for key in ACCOUNT)])
def test_a_summary_without_one_of_its_keys_gives_a_page(workdir, missing):
    account = {key: value for key, value in ACCOUNT.items() if f"data.{key}" != missing}
    whole = SUMMARY | {"data": {"train": account}}
    summary = {key: value for key, value in whole.items() if key != missing}
    (workdir / "metrics.jsonl").unlink()  # drawing takes most of the time
    (workdir / "summary.json").write_text(json.dumps(summary))
    assert "Fine-tuning run, finished" in page_of(workdir).text


def test_a_half_written_line_is_left_out_and_named(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"loss": 3}\n{"step": 3, "lo')
    text = page_of(workdir).text
    assert "metrics.jsonl, line 5 can't be read" in text
    assert "metrics.jsonl, line 6 can't be read and is left out" in text
    assert "held: loss 2.5000 → 0.5000" in text


def test_a_file_that_cannot_be_read_is_named_and_the_page_is_made(workdir):
    (workdir / "samples.jsonl").unlink()
    (workdir / "samples.jsonl").mkdir()
    assert "samples.jsonl can't be read and is left out" in page_of(workdir).text


def test_skipped_steps_and_missing_losses_are_named(workdir):
    rows = [*METRICS, {"step": 3} | ROW | {"loss": None, "skipped_steps": 2}]
    write_lines(workdir / "metrics.jsonl", rows)
    text = page_of(workdir).text
    assert "2 steps were skipped" in text and "no finite loss" in text


def test_repeated_samples_count_once_and_many_fold(workdir):
    asked = [{"source": "held", "row": n, "prompt": f"Q{n}?", "reference": "r"} for n in range(9)]
    after = {"step": 2, "phase": "after", "match": True}
    old = [one | after | {"answer": "stale"} for one in asked]
    write_lines(workdir / "samples.jsonl", old + [one | after | {"answer": "new"} for one in asked])
    text = page_of(workdir).text
    assert "stale" not in text and text.count("Q8?") == 1 and "3 more prompts" in text


def test_long_examples_are_cut_with_a_count(workdir):
    tokens = [["a", 1.0]] * (trained.MAX_EXAMPLE_TOKENS + 5)
    (workdir / "summary.json").write_text(json.dumps(SUMMARY | {"example": tokens}))
    assert "and 5 more tokens" in page_of(workdir).text


def test_a_token_tells_its_loss_before_and_after(workdir):
    """Of the two that are trained, and of the first, which none is known of."""
    example = {
        "where": "example 1 of 3",
        "tokens": SUMMARY["example"],
        "before": [None, 3.0, 1.0],
        "after": [None, 0.5, 0.25],
    }
    (workdir / "summary.json").write_text(json.dumps(SUMMARY | {"examples": [example]}))
    html = page_of(workdir).html
    assert '<span class="off" title="weight 0">Hi</span>' in html
    assert 'title="weight 1; loss 3.00 before, 0.50 after">&lt;|end|&gt;</span>' in html
    assert "Loss of the trained ones: 2.00 before, 0.38 after training." in html
