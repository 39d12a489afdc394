"""The verdict on a run: one run's files for each, and the rule that speaks."""

import json
import re
from pathlib import Path

import pytest

from jaxsft.report import evidence, repeats, run_read, verdict

ANSWER = "the order goes to Oslo"
OVER_AND_OVER = "the order goes to " + "Oslo and then to " * 40


def write_run(
    directory: Path,
    losses: dict[str, list[float]],  # by set, at evaluations from before to after
    training: tuple[float, float] = (2.0, 1.0),
    right: tuple[int, int] | None = None,  # of the prompts, before and after
    prompted: int | None = None,
    answer: str | None = None,  # in place of all answers after
    ended: bool = True,
    prompts: int = 40,
    examples: int = 1000,
) -> Path:
    """A run's files; the first set is the one that is asked."""
    count = len(next(iter(losses.values())))
    last = 10 * (count - 1)
    lines: list[dict] = []
    for place in range(count):
        figures = {f"eval/{name}/loss": values[place] for name, values in losses.items()}
        lines.append({"step": 10 * place} | figures)
    first, end = training
    for step in range(1, last + 1):
        lines.append({"step": step, "loss": first if step <= last / 2 else end, "epoch": step / 10})
    target = next(iter(losses))
    scores = {"before": {}, "after": {}}
    samples = []
    if right is not None:
        rights = {"before": right[0], "after": right[1]}
        if prompted is not None:
            rights["before_with_instruction"] = prompted
        for phase, known in rights.items():
            _, _, how = phase.partition("_")
            name = f"eval/{target}/match" + (f"_{how}" if how else "")
            scores["before" if phase.startswith("before") else "after"][name] = known / prompts
            for row in range(prompts):
                said = ANSWER if row < known else "I can't say."
                said = answer if answer is not None and phase == "after" else said
                asked = {"source": target, "row": row, "prompt": "Where?", "reference": ANSWER}
                told = {"step": 0, "phase": phase, "answer": said, "match": row < known}
                samples.append(asked | told | {"ended": ended or phase != "after"})
    summary = {
        "steps": last,
        "before": lines[0] | scores["before"],
        "after": lines[count - 1] | scores["after"],
        "data": {"train": {"rows_in": examples, "rows_out": examples, "examples": examples}},
    }
    for name in ("before", "after"):
        del summary[name]["step"]
    for name, rows in (("metrics.jsonl", sorted(lines, key=lambda one: one["step"])),):
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


RUNS = {
    "worked": {"losses": {"held": [2.0, 0.8], "prose": [3.0, 3.02]}, "right": (1, 38)},
    "not usable": {
        "losses": {"held": [2.0, 0.8]},
        "right": (1, 0),
        "answer": OVER_AND_OVER,
        "ended": False,
    },
    "made it worse": {"losses": {"held": [2.0, 2.6]}, "training": (2.0, 2.7)},
    "data too small": {
        "losses": {"held": [2.0, 1.7]},
        "training": (2.0, 0.1),
        "examples": 60,
        "right": (1, 4),
    },
    "overfits": {"losses": {"held": [2.0, 1.2, 1.5]}, "training": (2.0, 0.4)},
    "forgot": {"losses": {"held": [2.0, 0.8], "prose": [3.0, 3.4]}, "right": (1, 38)},
    "not needed": {"losses": {"held": [2.0, 0.8]}, "right": (3, 38), "prompted": 38},
    "did nothing": {
        "losses": {"held": [2.0, 1.99]},
        "training": (2.0, 1.99),
        "right": (2, 2),
    },
    "not measured": {"losses": {"held": [2.0, 1.2]}, "right": (2, 4), "prompts": 16},
}


@pytest.mark.parametrize("kind", RUNS)
def test_each_verdict_has_a_run_that_it_is_true_of(tmp_path, kind):
    run = run_read.read_run(write_run(tmp_path, **RUNS[kind]))
    found = verdict.verdict_of(run)
    assert found.kind == kind, found.sentence
    assert found.sentence.endswith(".") and found.steps
    assert 1 <= len(found.figures) <= 3
    # The figures that it names are the run's.
    named = [float(value) for value in re.findall(r"\d\.\d+(?=[ ,.)])", found.sentence)]
    losses = [value for values in RUNS[kind]["losses"].values() for value in values]
    known = [*losses, *RUNS[kind].get("training", ()), 0.40, 0.02]
    assert all(any(abs(value - one) < 0.006 for one in known) for value in named), found.sentence


def test_every_rule_has_such_a_run():
    docs = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    for kind in RUNS:
        assert f"| {kind} |" in docs
    limits = (verdict.FORGOT, verdict.SMALL, verdict.FEW_PROMPTS, f"{verdict.NOTHING:.0%}")
    assert all(str(limit) in docs for limit in limits)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        # Above the reference's length or not: the limit alone does not make an answer endless.
        ({"answer": "the", "ended": False, "right": (1, 0)}, "not measured"),
        # The loss rises where the answers get better for sure: what counts are the answers.
        (
            {
                "losses": {"held": [2.0, 1.2, 1.5]},
                "training": (2.0, 0.4),
                "right": (2, 35),
            },
            "worked",
        ),
        # Nothing but losses.
        ({"right": None}, "worked"),
        # A prompt that is wrong as often as not does nothing.
        ({"right": (0, 12), "prompted": 12}, "worked"),
        # As good without any training.
        ({"right": (39, 40)}, "not needed"),
        # Few examples, and yet all right.
        ({"examples": 60, "training": (2.0, 0.1), "right": (1, 39)}, "worked"),
    ],
)
def test_what_is_near_a_rule_is_judged_by_another(tmp_path, change, kind):
    run = {"losses": {"held": [2.0, 0.8]}, "right": (1, 38)} | change
    assert verdict.verdict_of(run_read.read_run(write_run(tmp_path, **run))).kind == kind


def test_a_run_that_lasts_is_judged_so_far(tmp_path):
    write_run(tmp_path, **RUNS["forgot"])
    (tmp_path / "summary.json").unlink()
    (tmp_path / "samples.jsonl").unlink()
    found = verdict.verdict_of(run_read.read_run(tmp_path, lasts=True))
    assert found.kind == "forgot" and found.sentence.startswith("So far: ")


def test_the_set_that_counts_is_the_one_that_was_asked(tmp_path):
    losses = {"zoo": [2.0, 0.8], "alpha": [1.0, 1.0]}
    run = run_read.read_run(write_run(tmp_path, losses, right=(1, 30)))
    assert evidence.evidence_of(run).target == "zoo"
    (tmp_path / "samples.jsonl").unlink()
    config = {"data": {"eval": [{"path": "x", "name": "alpha"}]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert evidence.evidence_of(run_read.read_run(tmp_path)).target == "alpha"


@pytest.mark.parametrize(
    ("text", "says_it"),
    [
        (OVER_AND_OVER, True),
        ("1. yes\n" * 9, True),
        ("I am sorry. " * 4 + "I am", True),
        ("It ends as it should.", False),
        ("ha ha ha ha ha ha ha ha ha", False),
        ("=" * 80, False),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |", False),
        ("", False),
    ],
)
def test_what_goes_round_in_circles_is_seen(text, says_it):
    assert repeats.says_the_same_again(text) == says_it
