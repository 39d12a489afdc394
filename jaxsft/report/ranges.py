"""Where the shares of answers lie, beyond the few prompts that were asked."""

from jaxsft.evaluation.scoring.statistics import is_rate, wilson
from jaxsft.report.evidence import phases_of
from jaxsft.report.run_read import RunFiles

Ranges = dict[str, tuple[float, float]]  # by figure: with 95 % confidence between these


def ranges_of(run: RunFiles) -> tuple[Ranges, Ranges]:
    """Before and after, of each figure that is a share of rights and wrongs in samples.jsonl."""
    before, after = Ranges(), Ranges()
    for phase, answers in phases_of(run).items():
        kind, _, how = phase.partition("_")
        if kind not in ("before", "after"):
            continue
        scores: dict[str, list[bool | float]] = {}
        for (source, _), one in answers.items():
            for scorer, score in one.scores.items():
                if score is not None:
                    name = f"eval/{source}/{scorer}" + (f"_{how}" if how else "")
                    scores.setdefault(name, []).append(score)
        into = before if kind == "before" else after
        for name, values in scores.items():
            if is_rate(values):
                found = wilson(int(sum(values)), len(values))
                into[name] = found.low, found.high
    return before, after
