"""What the files of a run say of its worth: the figures that the verdict is made from."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxsft.evaluation.scoring.statistics import mcnemar
from jaxsft.report import comparison, repeats, weight_change
from jaxsft.report.run_read import Answered, RunFiles
from jaxsft.rundir.sample import Sample

_HOLDOUT = "holdout"  # what data.holdout takes of the training rows
_OF_TOKENS = ("token_accuracy", "accuracy", "first_")  # how shares begin that are not of answers
_PROMPTED = "_with_"  # in the name of a score of the untrained model that is told what to do
_BOUNDS = ("_low", "_high")  # of a score's interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """The share of held-out prompts that are answered rightly."""

    name: str
    before: float
    after: float
    prompted: float | None = None  # of the untrained model, the best way it was told what to do
    prompts: int = 0  # that were asked; 0: not known
    better_p: float | None = None  # how likely the change since before is by chance
    prompted_p: float | None = None  # the same of the change since `prompted`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Of the trained model's answers to held-out prompts."""

    count: int = 0
    endless: int = 0  # the limit cut them when they were longer than the reference already
    repeating: int = 0  # say the same again and again
    empty: int = 0
    unchanged: int = 0  # as before training
    compared: int = 0  # that there was one of before training for

    @property
    def unusable(self) -> int:
        return max(self.endless, self.repeating) + self.empty


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    target: str | None  # the set that shows what the run was for; None: nothing was evaluated
    losses: Mapping[str, tuple[float, float]]  # by set, before and after
    lowest: tuple[int, float] | None  # step and loss of the target's best evaluation
    score: Score | None
    answers: Answers
    examples: int  # that were trained on
    epochs: float | None
    training_loss: tuple[float, float] | None  # at the first steps and at the last
    moved: float | None  # of the weights' norm


def evidence_of(run: RunFiles) -> Evidence:
    before, after = run.before_after
    target = _target(run, before.keys() | after.keys())
    losses = {
        name.removeprefix("eval/").removesuffix("/loss"): (value, after[name])
        for name, value in before.items()
        if name.endswith("/loss") and name in after
    }
    phases = phases_of(run)
    report = run.summary.data.get("train") or run.data_report.train
    return Evidence(
        target=target,
        losses=losses,
        lowest=_lowest(run, target),
        score=_score(target, before, after, phases),
        answers=_answers(phases),
        examples=report.examples,
        epochs=run.summary.epochs or (run.totals.newest.epoch if run.totals.newest else None),
        training_loss=_training_loss(run),
        moved=weight_change.overall(run.summary.weights) if run.summary.weights else None,
    )


def _target(run: RunFiles, names: set[str]) -> str | None:
    """The set whose prompts were answered; else what data.holdout took; else the first set."""
    asked = [one.sample.source for one in run.answers if one.sample.source]
    sets = sorted({name.split("/")[1] for name in names if name.count("/") >= 2})
    named = [source.get("name") for source in (run.config.get("data") or {}).get("eval") or ()]
    wanted = [*asked[:1], _HOLDOUT, *(name for name in named if name), *sets]
    return next((name for name in wanted if name in sets), None)


_Phases = dict[str, dict[tuple[str | None, int | None], Answered]]


def phases_of(run: RunFiles) -> _Phases:
    """The answers by phase and prompt, the newest of each."""
    phases: _Phases = {}
    for one in run.answers:
        phases.setdefault(one.sample.phase, {})[one.prompt] = one
    return phases


def _answers(phases: _Phases) -> Answers:
    after = {key: one.sample for key, one in phases.get("after", {}).items()}
    before = {key: one.sample for key, one in phases.get("before", {}).items()}
    pairs = [(one, before[key]) for key, one in after.items() if key in before]
    return Answers(
        count=len(after),
        endless=sum(does_not_end(one) for one in after.values()),
        repeating=sum(repeats.says_the_same_again(one.answer) for one in after.values()),
        empty=sum(is_empty(one) for one in after.values()),
        unchanged=sum(now.answer == then.answer for now, then in pairs),
        compared=len(pairs),
    )


def is_empty(sample: Sample) -> bool:
    return not sample.answer.strip() and bool(sample.reference.strip())


def does_not_end(sample: Sample) -> bool:
    """The limit cut the answer, and not because it is shorter than the reference."""
    return sample.ended is False and len(sample.answer) > len(sample.reference)


def _score(
    target: str | None, before: Mapping[str, float], after: Mapping[str, float], phases: _Phases
) -> Score | None:
    start = f"eval/{target}/"
    names = [name for name in sorted(after) if name.startswith(start) and name in before]
    shares = [name for name in names if is_score(name) and 0 <= after[name] <= 1]
    if not shares:
        return None
    name = next((one for one in shares if one.endswith("/match")), shares[0])
    told = {k: v for k, v in before.items() if k.startswith(name + _PROMPTED) and _is_of_answers(k)}
    best = max(told, key=lambda one: told[one]) if told else None
    scorer = name.removeprefix(start)
    how = None if best is None else f"before{best.removeprefix(name)}"
    return Score(
        name=name,
        before=before[name],
        after=after[name],
        prompted=None if best is None else told[best],
        prompts=sum(key[0] == target for key in phases.get("after", {})),
        better_p=_chance(phases, "before", target, scorer),
        prompted_p=None if how is None else _chance(phases, how, target, scorer),
    )


def is_score(name: str) -> bool:
    """Whether a figure is a share of answers that is measured before and after alike."""
    return _is_of_answers(name) and _PROMPTED not in name


def _is_of_answers(name: str) -> bool:
    metric = name.rpartition("/")[2]
    shares = comparison.is_share(name) and not metric.startswith(_OF_TOKENS)
    return shares and not metric.endswith(_BOUNDS)


def _chance(phases: _Phases, since: str, target: str | None, scorer: str) -> float | None:
    """None: the scores are no rights and wrongs, or no prompt has both."""
    then = {key: one.scores.get(scorer) for key, one in phases.get(since, {}).items()}
    now = {key: one.scores.get(scorer) for key, one in phases.get("after", {}).items()}
    pairs = [(then[key], now[key]) for key in now if key in then and key[0] == target]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs or any(score not in (0, 1) for pair in pairs for score in pair):
        return None
    return mcnemar(
        sum(then == 1 and now == 0 for then, now in pairs),
        sum(now == 1 and then == 0 for then, now in pairs),
    )


def _lowest(run: RunFiles, target: str | None) -> tuple[int, float] | None:
    name = f"eval/{target}/loss"
    known = [(line[name], line["step"]) for line in run.evaluations if _is_number(line.get(name))]
    if not known:
        return None
    value, step = min(known)
    return step, value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _training_loss(run: RunFiles) -> tuple[float, float] | None:
    """Means over the first and the last tenth of the lines: one step's loss is noise."""
    known = [line.loss for line in run.steps if line.loss is not None]
    if len(known) < 2:
        return None
    part = max(len(known) // 10, 1)
    return _mean(known[:part]), _mean(known[-part:])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
