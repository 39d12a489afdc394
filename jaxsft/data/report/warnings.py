"""What may be wrong with the data of a run or with the steps made of it, each with advice."""

from collections.abc import Iterable, Iterator, Mapping

from jaxsft.data.cache.manifest import CacheReport
from jaxsft.data.quality.division import EXACT, NEAR, NOT_SHARED
from jaxsft.data.quality.figures import HintedRows, Overlap
from jaxsft.data.render.turns import new_tokens_flag
from jaxsft.data.report.data_report import (
    DataReport,
    DataWarning,
    HeldOutReport,
    PlannedSteps,
    PlanReport,
)

Warnings = Iterator[DataWarning]

# Where a warning starts; shares are of the rows unless another word stands in the name.
MAX_DROPPED_SHARE = 0.01
MIN_SUPERVISED_SHARE = 0.05  # of the tokens
MAX_EXACT_DUPLICATES = 0.01
MAX_NEAR_DUPLICATES = 0.1
MAX_WITHOUT_END = 0.02
MAX_EMPTY = 0.001
MAX_BROKEN = 0.001
MAX_REPEATED_ANSWER = 0.02  # of the answers, for one that is no label
MIN_REPEATED_WORDS = 4
MIN_FILL = 0.9
MIN_STEPS = 50
MAX_EPOCHS = 5
MAX_TIMES_SEEN = 10  # an example of any source, over the run
MIN_EVAL_ROWS = 30
MIN_EXAMPLES = 100

# Columns and fields that may be a part of the conversation under another name.
LIKE_CONVERSATION = frozenset(
    ("system_prompt", "system_message", "context", "contexts", "document", "documents", "passage")
    + ("input", "inputs", "history", "instruction", "reasoning", "thinking", "thought", "thoughts")
    + ("rationale", "cot", "chain_of_thought", "tools", "functions", "function", "tool_calls")
) | {f"messages[].{name}" for name in ("thought", "thoughts", "cot", "rationale", "context")}

# Columns that may say how good the answers are.
LIKE_VERDICT = frozenset(
    ("score", "scores", "reward", "rewards", "rating", "ratings", "rank", "quality", "label")
    + ("labels", "correct", "is_correct", "valid", "is_valid", "preference")
)

ADVICE = {
    "answer equals the question": "Leave these rows out, unless the task is to repeat.",
    "answer without end": "The model learns to stop there: find where the text was cut off.",
    "card number": "Leave the rows out or replace the number: models repeat what they are trained"
    " on.",
    "code block without end": "The model learns to stop within code: find where it was cut off.",
    "control character": "Remove these characters.",
    "e-mail address": "Replace private addresses: models repeat what they are trained on.",
    "empty answer": "The model learns to say nothing: leave these rows out.",
    "HTML entity": "Unescape the text, unless it is about HTML.",
    "IBAN": "Leave the rows out or replace the number: models repeat what they are trained on.",
    "IP address": "Replace private addresses: models repeat what they are trained on.",
    "key or secret": "Take it out, and revoke it if it is real.",
    "last message is not the assistant's": "What stands after the last answer is not used.",
    "one-word answer": "Right for labels; else the model learns to be short.",
    "phone number": "Replace private numbers: models repeat what they are trained on.",
    "replacement character or byte order mark": "Text was lost or glued: read the source again"
    " with its true encoding.",
    "role or control text in a message": "It is encoded as plain text. If it is left over from"
    " another format, convert the rows to messages.",
    "very long message": "Is it one message, or a file that was glued together?",
    "wrong encoding": "UTF-8 was read as Latin-1: convert it back.",
}
_BROKEN = (
    "wrong encoding",
    "replacement character or byte order mark",
    "control character",
    "role or control text in a message",
)


def whole_report(
    train: CacheReport,
    evals: Mapping[str, CacheReport],
    overlaps: Mapping[str, Overlap],
    plan: PlannedSteps | None,
    hints: Iterable[DataWarning] = (),
) -> DataReport:
    """All of it, warnings first.

    Args:
        train: of the training cache.
        evals: of each evaluation set, by name.
        overlaps: of each evaluation set with the training data.
        plan: of the run; None where only the data is looked at.
        hints: of what isn't data.
    """
    warnings = [
        *_overlap_warnings(overlaps),
        *_account_warnings("train", train),
        *(warning for name in evals for warning in _account_warnings(f"eval {name}", evals[name])),
        *_template_warnings(train),
        *_quality_warnings(train),
        *(_plan_warnings(plan, train) if plan else ()),
        *hints,
        *_eval_warnings(evals),
    ]
    return DataReport(
        warnings=warnings,
        plan=None if plan is None else PlanReport.of(plan),
        train=train,
        held_out={
            name: HeldOutReport(**vars(one), overlap=overlaps.get(name))
            for name, one in evals.items()
        },
    )


def _warning(text: str, advice: str, *examples: str) -> DataWarning:
    return DataWarning(text, advice, list(examples))


def _overlap_warnings(overlaps: Mapping[str, Overlap]) -> Warnings:
    for name, overlap in overlaps.items():
        for found, what in (
            (overlap.exact, "are in the training data"),
            (overlap.same_prompt, "have a prompt of the training data, with another answer"),
            (overlap.near, "are almost the same as a row of the training data"),
        ):
            if found.rows:
                yield _warning(
                    f"eval {name}: {_of(found.rows, overlap.rows)} rows {what}",
                    "Its loss and its matches will look better than they are: leave these rows"
                    " out of one of the two.",
                    *(f"{e.held_out} and {e.train}" for e in found.examples[:3]),
                )


def _account_warnings(name: str, report: CacheReport) -> Warnings:
    yield from _loss_warnings(name, report)
    looks = [key for key in report.unread_columns if key in LIKE_CONVERSATION]
    if looks:
        yield _warning(
            f"{name}: nothing reads {', '.join(looks)}, which may belong to the conversation",
            "Put them into the messages, or name them for what they are with Source.columns.",
        )
    judges = [key for key in report.unread_columns if key in LIKE_VERDICT]
    if judges:
        yield _warning(
            f"{name}: nothing reads {', '.join(judges)}, which may judge the answers: good and bad"
            " are trained alike",
            "Leave out the rows whose answers are not to be learnt, or, if it says nothing of them,"
            f" name it in Source.ignore={tuple(judges)}.",
        )
    if report.control_text:
        yield _warning(
            f"{name}: {report.control_text:,} trained words spell a control token and are"
            " encoded as text",
            "If the model must write them as control tokens, like <think>, name them in"
            " data.trusted_control_tokens.",
        )


def _loss_warnings(name: str, report: CacheReport) -> Warnings:
    """What was lost, by its larger share: few long rows may hold most of the tokens."""
    tokens, rendered = report.tokens, max(report.tokens.rendered, 1)
    found: list[tuple[float, DataWarning]] = []
    for reason in dict.fromkeys([*report.dropped, *report.dropped_tokens]):
        rows, lost = report.dropped.get(reason, 0), report.dropped_tokens.get(reason, 0)
        if reason in (EXACT, NEAR, NOT_SHARED):
            continue  # that was asked for
        of_rows, of_tokens = rows / max(report.rows_in, 1), lost / rendered
        if max(of_rows, of_tokens) <= MAX_DROPPED_SHARE:
            continue
        said = f"{_of(rows, report.rows_in)} rows dropped"
        if of_tokens > of_rows:
            said = f"{_of(lost, rendered)} tokens dropped, with {_of(rows, report.rows_in)} rows"
        elif lost:
            said += f", with {_of(lost, rendered)} tokens"
        advice = "Run tools/inspect_data.py to see them."
        if reason.startswith("overlong"):
            advice = "Raise data.sequence_length, or set data.overlong to 'truncate'."
        if reason.startswith("left out"):
            advice = "The rows say so themselves."
        found.append((max(of_rows, of_tokens), _warning(f"{name}: {said}: {reason}", advice)))
    if tokens.truncated > MAX_DROPPED_SHARE * rendered:
        said = f"{_of(tokens.truncated, rendered)} tokens left out to fit"
        said += f", of {_of(report.truncated_examples, report.examples)} examples"
        advice = "Raise data.sequence_length: data.overlong='truncate' leaves out the oldest turns."
        found.append((tokens.truncated / rendered, _warning(f"{name}: {said}", advice)))
    yield from (warning for _, warning in sorted(found, key=lambda item: -item[0]))


def _template_warnings(train: CacheReport) -> Warnings:
    if train.unknown_controls:
        yield _warning(
            f"data.template has {', '.join(map(repr, train.unknown_controls))}, no tokens of"
            " the tokenizer",
            "Each is spelt in several tokens, which a user's text can spell too: name those that"
            f" are meant as control tokens, as {new_tokens_flag(train.unknown_controls)}.",
        )
    if train.trained_headers:
        yield _warning(
            f"{_of(train.trained_headers, train.examples)} examples train the header of an"
            " answer: the template writes no generation prompt",
            "The model learns to write the header itself. Where a server writes it, that is wasted"
            " and the prompt another: let the template write it where add_generation_prompt is"
            " true, in a data.template of your own.",
        )
    if train.near_turns:
        yield _warning(
            f"{_of(train.near_turns, train.supervised_turns)} supervised turns, of"
            " conversations of many, are not proven to go on from their prompts: the template"
            " looks at the whole conversation before it writes one message",
            "They agree with their prompts where only what stands near is rendered, and so do the"
            " first, the last and ten others of each conversation with all that stands before"
            " them. data.train_on='last_turn', or a data.template that writes message by"
            " message, has each proven.",
        )
    if train.text_controls:
        yield _warning(
            f"{train.text_controls:,} control tokens are spelt in rows of plain text and become"
            " control tokens",
            "A text is trained whole, as it is. If it is a rendered conversation, its questions are"
            " trained too: give the conversation itself as messages, to train its answers alone.",
        )


def _quality_warnings(train: CacheReport) -> Warnings:
    quality, tokens = train.quality, train.tokens
    trained = tokens.supervised + tokens.context
    if tokens.supervised < MIN_SUPERVISED_SHARE * trained:
        yield _warning(
            f"only {tokens.supervised / trained:.1%} of the tokens are supervised",
            "Most of the computation goes to context: look at data.train_on, data.train_parts, and"
            " at long system prompts, tools or documents.",
        )
    exact, near = quality.exact_duplicates, quality.near_duplicates
    if exact.share > MAX_EXACT_DUPLICATES:
        yield _warning(
            f"{_of(exact.rows, quality.conversations)} rows repeat an earlier one",
            "They count several times: leave them out with data.duplicates='drop_exact', or repeat"
            " on purpose with Source.weight.",
            *(f"{e.again} repeats {e.first}" for e in exact.examples[:3]),
        )
    if near.share > MAX_NEAR_DUPLICATES:
        yield _warning(
            f"{_of(near.later_rows, quality.conversations)} rows are almost the same as an"
            " earlier one",
            "The set teaches less than its size says: leave them out with"
            " data.duplicates='drop_near', unless they come from one template on purpose.",
            *(f"{e.again} and {e.first} ({e.similarity})" for e in near.examples[:3]),
        )
    for example in quality.repeated_answers.examples:
        is_label = len(example.text.split()) < MIN_REPEATED_WORDS
        if example.share > MAX_REPEATED_ANSWER and not is_label:
            yield _warning(
                f"{example.share:.1%} of the answers are {example.text!r}",
                "The model will say it often, out of place too: leave most of these rows out.",
                example.where,
            )
    yield from _hint_warnings(quality.hints)


def _hint_warnings(hints: Mapping[str, HintedRows]) -> Warnings:
    limits = {
        "answer without end": MAX_WITHOUT_END,
        "code block without end": MAX_WITHOUT_END,
        "empty answer": MAX_EMPTY,
        "key or secret": 0.0,
        **dict.fromkeys(_BROKEN, MAX_BROKEN),
    }
    for kind, limit in limits.items():
        hint = hints.get(kind)
        if hint and hint.share > limit:
            yield _warning(
                f"{hint.rows:,} rows ({hint.share:.1%}): {kind}",
                ADVICE[kind],
                *(f"{e.where}: {e.text}" for e in hint.examples[:3]),
            )


def _batch_warnings(plan: PlannedSteps) -> Warnings:
    padding = plan.batch_size - plan.packed_rows
    if padding <= 0:
        return
    multiple = plan.batch_multiple
    enough = -(-plan.packed_rows // multiple) * multiple
    if enough < plan.batch_size:
        advice = (
            f"Set train.batch_size={enough}: it holds all of them; fewer make more steps of an"
            " epoch. A shorter data.sequence_length makes more rows."
        )
    else:
        advice = (
            f"Micro-batches and devices share {multiple} rows at the least: use fewer of them, or"
            " more data. config.mesh.context splits rows, not the batch."
        )
    yield _warning(
        f"train.batch_size={plan.batch_size:,} is more than the {plan.packed_rows:,} packed rows"
        f" of an epoch: {padding:,} rows of each step are padding",
        advice,
    )


def _plan_warnings(plan: PlannedSteps, train: CacheReport) -> Warnings:
    yield from _batch_warnings(plan)
    if plan.fill < MIN_FILL:
        yield _warning(
            f"the {plan.packed_rows:,} packed rows are {plan.fill:.1%} full",
            "The rest is padding: choose a data.sequence_length that fits more examples.",
        )
    if plan.steps < MIN_STEPS:
        yield _warning(
            f"the run has {plan.steps} steps",
            "That is little to learn from: lower train.batch_size or raise train.epochs.",
        )
    if train.examples < MIN_EXAMPLES:
        yield _warning(
            f"there are {train.examples:,} examples to train on",
            "So few are soon known by heart: add more, mix in a general set as one more Source, or"
            " train adapters with a low rank; and look at the answers, not at the loss alone.",
        )
    if plan.epochs > MAX_EPOCHS:
        yield _warning(
            f"the run sees the data {plan.epochs:.1f} times",
            "Models then learn rows by heart; 1 to 3 epochs are common. Watch the loss on"
            " data.eval, or hold rows out with data.holdout and end with eval.early_stopping.",
        )
    if plan.fewest_supervised_tokens == 0:
        yield _warning(
            "a step has no supervised token", "Raise train.batch_size, so that none is in vain."
        )
    for name, per_epoch in plan.examples_per_epoch.items():
        examples = train.sources[name].examples
        times = plan.epochs * per_epoch / max(examples, 1)
        if times > MAX_TIMES_SEEN and times > 1.5 * plan.epochs:
            yield _warning(
                f"{name}: each of its {examples:,} examples is seen {times:.1f} times",
                "Lower its Source.weight or Source.count.",
            )


def _eval_warnings(evals: Mapping[str, CacheReport]) -> Warnings:
    for name, report in evals.items():
        if report.rows_out < MIN_EVAL_ROWS:
            yield _warning(
                f"eval {name}: {report.rows_out} rows",
                "Differences between two runs will be noise: hold out more rows.",
            )


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / max(total, 1):.1%})"
