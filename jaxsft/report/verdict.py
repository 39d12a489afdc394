"""Did it work? One sentence on a run, made from its figures by the rules of this file.

docs/report.md has them in words; the first rule that fits speaks. A rule says what to do next.
"""

import dataclasses
from collections.abc import Callable

from jaxsft.report import comparison
from jaxsft.report.comparison import Comparison
from jaxsft.report.evidence import Evidence, Score, evidence_of
from jaxsft.report.run_read import RunFiles

CHANCE = 0.05  # a change of answers that is likelier than this by chance is none
# Of the answers. An export whose every tenth answer never ends or goes round in circles can't be
# served; one answer alone may be an odd prompt.
UNUSABLE_SHARE, UNUSABLE_COUNT = 0.1, 2
# Of the loss: less is within what another order of the data gives.
NOTHING = 0.02
# Above the best evaluation: smaller rises come and go with the learning rate.
OVERFIT = 0.05
# Nats a token on other text: its perplexity is up by a tenth. A fine-tune that leaves general text
# alone moves it by a few hundredths.
FORGOT = 0.1
# Examples. Below it, a loss in training of half the held-out one is memory of the rows.
SMALL, MEMORISED = 200, 0.5
# A prompt "does it" when it is right at least as often as not, and training adds less than this.
PROMPT_DOES, PROMPT_MARGIN = 0.5, 0.02
FEW_PROMPTS = 20  # of fewer, one answer is worth more than five points


@dataclasses.dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        kind: "worked", "not usable", "made it worse", "data too small", "overfits", "forgot",
            "not needed", "did nothing" or "not measured".
        figures: the two or three that say so.
        steps: what to do next.
    """

    kind: str
    sentence: str
    figures: tuple[Comparison, ...] = ()
    steps: tuple[str, ...] = ()

    @property
    def tone(self) -> str:
        good, unsure = ("worked",), ("not measured", "not needed")
        return "good" if self.kind in good else "unsure" if self.kind in unsure else "bad"


def verdict_of(run: RunFiles) -> Verdict:
    """The verdict on a run: on one that is not finished, so far."""
    found = judged(evidence_of(run))
    if run.finished or found.kind == "not measured":
        return found
    return dataclasses.replace(found, sentence=f"So far: {found.sentence}")


def judged(seen: Evidence) -> Verdict:
    """What the first rule that fits says."""
    for rule in _RULES:
        if (said := rule(seen)) is not None:
            kind, sentence, *steps = said
            return Verdict(kind, sentence, _figures(seen), tuple(steps))
    raise AssertionError("the last rule fits everything")


_Said = tuple[str, ...] | None  # kind, sentence, and what to do next


def _not_measured(seen: Evidence) -> _Said:
    if seen.losses or seen.score:
        return None
    return (
        "not measured",
        "Nothing was evaluated before and after training, so there is no verdict.",
        "Keep some rows out of training: --config.data.holdout=0.05 evaluates on them.",
        "Let the model answer some: --config.eval.prompts=64, and compare:"
        " --config.eval.match=exact (or json).",
    )


def _not_usable(seen: Evidence) -> _Said:
    answers = seen.answers
    bad = answers.unusable
    if bad < UNUSABLE_COUNT or bad <= UNUSABLE_SHARE * answers.count:
        return None
    kinds = {
        "do not end by themselves": answers.endless,
        "repeat themselves": answers.repeating,
        "are empty": answers.empty,
    }
    said = ", ".join(f"{count} {what}" for what, count in kinds.items() if count)
    return (
        "not usable",
        f"Not usable as it is: of {answers.count} answers to held-out prompts {said}.",
        "See in \u201cWhat was trained\u201d whether the end-of-turn token is coloured: what"
        " carries no loss is not learnt.",
        "Train longer or with a greater learning rate where the loss still falls; with a lower one"
        " where it leapt.",
        "Are the references as long as the limit? Then raise --config.eval.max_new_tokens.",
    )


def _worse(seen: Evidence) -> _Said:
    """Worse than untrained, and not for too many epochs: at no evaluation was it better."""
    score, loss = seen.score, seen.losses.get(seen.target or "")
    fell = score is not None and score.after < score.before and _is_sure(score.better_p)
    never = seen.lowest is None or loss is None or seen.lowest[1] >= loss[0] * (1 - NOTHING)
    rose = loss is not None and loss[1] > loss[0] * (1 + NOTHING) and never
    learnt = seen.training_loss is not None and seen.training_loss[1] < seen.training_loss[0]
    if not (fell and not _learnt(seen)) and not (rose and not learnt):
        return None
    return (
        "made it worse",
        "Training made the model worse on the task itself.",
        "A learning rate ten times lower: --config.optim.peak_lr=..., and warm-up"
        " (--config.optim.warmup_steps).",
        "See whether the training rows and the held-out ones ask for the same thing.",
    )


def _too_small(seen: Evidence) -> _Said:
    training, loss = seen.training_loss, seen.losses.get(seen.target or "")
    if not 0 < seen.examples < SMALL or training is None or loss is None:
        return None
    memorised = training[1] < MEMORISED * loss[1]
    solved = seen.score is not None and seen.score.after >= 0.9
    if not memorised or solved:
        return None
    return (
        "data too small",
        f"Too little data: the model knows its {seen.examples:,} examples by heart (loss"
        f" {training[1]:.2f}), and not the held-out ones ({loss[1]:.2f}).",
        "More rows, and more different ones: a few hundred of each kind of request.",
        "Until then fewer epochs, or an adapter: --config.lora.rank=16.",
    )


def _overfits(seen: Evidence) -> _Said:
    loss = seen.losses.get(seen.target or "")
    if loss is None or seen.training_loss is None:
        return None
    best, first = seen.lowest or (0, loss[0]), loss[0]
    lowest = min(best[1], first)
    rose = loss[1] > lowest * (1 + OVERFIT) and loss[1] > lowest + 0.02
    learnt = seen.training_loss[1] < min(loss[1], seen.training_loss[0])
    better = seen.score is not None and seen.score.after > seen.score.before
    if not rose or not learnt or (better and _is_sure(seen.score and seen.score.better_p)):
        return None
    when = f"after step {best[0]:,}" if best[0] else "before training"
    return (
        "overfits",
        f"It overfits: held-out loss was lowest {when} ({lowest:.3f}) and is {loss[1]:.3f} at the"
        f" end, while the training loss is {seen.training_loss[1]:.3f}.",
        "Keep the best step: --config.eval.times_per_epoch=4"
        f" --config.checkpoint.best=eval/{seen.target}/loss.",
        "Fewer epochs, a lower learning rate, or more data.",
    )


def _forgot(seen: Evidence) -> _Said:
    others = {n: after - first for n, (first, after) in seen.losses.items() if n != seen.target}
    if not others:
        return None
    name = max(others, key=lambda one: others[one])
    if others[name] < FORGOT:
        return None
    learnt = "It learnt the task and" if _learnt(seen) else "It"
    return (
        "forgot",
        f"{learnt} forgot other things: loss on {name} rose by {others[name]:.2f} nats a token.",
        "A lower learning rate or fewer epochs; or an adapter: --config.lora.rank=16.",
        "Mix in rows of what it should keep, or keep it near the base: docs/methods.md.",
    )


def _not_needed(seen: Evidence) -> _Said:
    score = seen.score
    if score is None or not _learnt_nothing_over(score):
        return None
    told = score.prompted is not None and score.prompted >= score.before
    rate = max(score.before, score.prompted or 0.0)
    by = "with an instruction alone" if told else "as it is"
    return (
        "not needed",
        f"Fine-tuning was not needed for this: the untrained model answers {rate:.1%} rightly {by},"
        f" the trained one {score.after:.1%}.",
        "Use the base model with that prompt, which keeps everything else it can do."
        if told
        else "Use the base model; or ask for what it can't do yet.",
        "Worth training all the same where the prompt is long and every request pays for it.",
    )


def _did_nothing(seen: Evidence) -> _Said:
    loss, score = seen.losses.get(seen.target or ""), seen.score
    same = loss is None or abs(loss[1] - loss[0]) < NOTHING * loss[0]
    changed = score is not None and (
        _is_sure(score.better_p) or (score.better_p is None and score.after != score.before)
    )
    if not same or changed or (loss is None and score is None):
        return None
    answers, kept = seen.answers, ""
    if answers.compared:
        kept = f"; {answers.unchanged} of {answers.compared} answers are what they were"
    return (
        "did nothing",
        "It did nothing that shows: loss"
        + (f" {loss[0]:.3f} before, {loss[1]:.3f} after" if loss else " not known")
        + f"{kept}.",
        "A greater learning rate: full fine-tuning often takes 1e-5 to 5e-5, an adapter 1e-4 to"
        " 5e-4.",
        "More steps; and see in \u201cWhat was trained\u201d whether what should be learnt is"
        " coloured.",
    )


def _unclear(seen: Evidence) -> _Said:
    score = seen.score
    if score is None or (score.after > score.before and _is_sure(score.better_p)):
        return None
    if score.better_p is None and score.after - score.before >= 0.05:
        return None
    few = f"; {score.prompts} prompts are few" if 0 < score.prompts < FEW_PROMPTS else ""
    return (
        "not measured",
        f"Not enough to say: right answers went from {score.before:.1%} to {score.after:.1%}, which"
        f" may be chance{few}.",
        "Ask more prompts: --config.eval.prompts=200.",
        "Read the answers below: does the comparison ask for what you want?",
    )


def _worked(seen: Evidence) -> _Said:
    score, loss = seen.score, seen.losses.get(seen.target or "")
    if score is not None:
        said = (
            f"right answers to held-out prompts went from {score.before:.1%} to {score.after:.1%}"
        )
        if score.prompted is not None:
            said += f" (an instruction alone: {score.prompted:.1%})"
    elif loss is not None:
        said = f"held-out loss fell from {loss[0]:.3f} to {loss[1]:.3f}"
    else:
        return "not measured", "Not enough was measured to say."
    others = {name: b - a for name, (a, b) in seen.losses.items() if name != seen.target}
    kept = ""
    if others:
        most = max(others, key=lambda one: others[one])
        kept = f", and loss on {most} moved by {others[most]:+.2f} nats a token"
    steps = ["Talk to it (tools/chat.py), and try what the held-out prompts don't ask."]
    if score is None:
        steps.append(
            "A loss is no answer: --config.eval.prompts=64 shows what the model says,"
            " --config.eval.match counts what is right."
        )
    if not others:
        steps.append(
            "What it may have forgotten was not measured: add a set of general text to data.eval."
        )
    if score is not None and score.prompted is None:
        steps.append("Would a prompt do? --config.eval.instruction asks the untrained model so.")
    return "worked", f"It worked: {said}{kept}.", *steps


_RULES: tuple[Callable[[Evidence], _Said], ...] = (
    _not_measured,
    _not_usable,
    _worse,
    _too_small,
    _overfits,
    _forgot,
    _not_needed,
    _did_nothing,
    _unclear,
    _worked,
)


def _is_sure(chance: float | None) -> bool:
    return chance is not None and chance < CHANCE


def _learnt(seen: Evidence) -> bool:
    """Whether the task's loss fell by more than nothing."""
    loss = seen.losses.get(seen.target or "")
    return loss is not None and loss[1] < loss[0] * (1 - NOTHING)


def _learnt_nothing_over(score: Score) -> bool:
    """Whether the untrained model is right about as often, told what to do or not."""
    told = score.prompted is not None and score.prompted >= score.before
    best = score.before if score.prompted is None else max(score.prompted, score.before)
    chance = score.prompted_p if told else score.better_p
    close = score.after <= best + PROMPT_MARGIN
    by_chance = chance is not None and chance >= CHANCE and score.after < best + 0.1
    return best >= PROMPT_DOES and (close or by_chance)


def _figures(seen: Evidence) -> tuple[Comparison, ...]:
    """The task's score and loss, and the other set whose loss rose most."""
    before, after = {}, {}
    if seen.score is not None:
        before[seen.score.name], after[seen.score.name] = seen.score.before, seen.score.after
    others = sorted(
        (name for name in seen.losses if name != seen.target),
        key=lambda one: seen.losses[one][0] - seen.losses[one][1],
    )
    for name in [*([seen.target] if seen.target in seen.losses else []), *others[:1]]:
        before[f"eval/{name}/loss"], after[f"eval/{name}/loss"] = seen.losses[name]
    return tuple(comparison.compared(before, after)[:3])
