"""What is asked for, made of flags and a config: who answers, what is kept, what is held out."""

import dataclasses
import difflib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from jaxsft.answering.keeping import Rule
from jaxsft.answering.questions import HeldOut, held_out_rows
from jaxsft.config import Config, Source, from_value, scorers
from jaxsft.data.conversation import Conversation
from jaxsft.data.read import sources
from jaxsft.errors import ConfigError
from jaxsft.evaluation.answers import held_out_of_train
from jaxsft.evaluation.scoring import registry
from jaxsft.generation.sampling import Sampling
from jaxsft.terminal.console import Console
from jaxsft.terminal.redact import redacted_values
from jaxsft.training import inputs

_WITH_REFERENCE = (scorers.Exact, scorers.Number, scorers.JsonValue, scorers.ToolCalls)


@dataclasses.dataclass(frozen=True)
class Keep:
    """
    Attributes:
        scorer: as config.eval.scorers holds one of; None: whatever ends is kept.
    """

    rule: Rule
    scorer: Any

    @property
    def needs_reference(self) -> bool:
        """Whether the scorer compares with the answer of the prompt's row."""
        one = self.scorer
        compares = isinstance(one, scorers.Regex) and one.compare
        same = isinstance(one, scorers.Contains) and one.text is None
        return isinstance(one, _WITH_REFERENCE) or compares or same

    def settings(self) -> dict[str, Any]:
        scorer = self.scorer
        if scorer is not None:
            scorer = dataclasses.asdict(scorer)
            if callable(scorer.get("function")):
                scorer["function"] = getattr(scorer["function"], "__qualname__", "")
        rule = self.rule
        said = {"scorer": scorer, "least_score": rule.least, "most": rule.most}
        return redacted_values(
            said | {"prefers_short": rule.prefers_short, "reasons": rule.reasons}
        )


def keep_of(text: str | None, least: float | None, rest: Rule, config: Config) -> Keep:
    """
    Args:
        text: of --keep: the name of one of config.eval.scorers, its kind, or an object.
        least: of --least_score.
        rest: what else is said of what is kept.

    Raises:
        ConfigError: there is no such scorer, or it is not what it should be.
    """
    if text is None:
        if least is not None:
            raise ConfigError(
                f"--least_score={least:g}: nothing is scored; name a scorer in --keep"
            )
        return Keep(rest, None)
    settings = _scorer_of(text, config)
    is_judge = isinstance(settings, scorers.Judge)
    if is_judge and least is None:
        raise ConfigError(
            f"--keep={text}: a judge gives 0 to 1; say from where on an answer is kept, such as"
            " --least_score=0.8"
        )
    scorer = registry.made(settings, "--keep")
    least = 1.0 if least is None else least
    rule = dataclasses.replace(rest, scorer=scorer, asks_a_judge=is_judge, least=least)
    return Keep(rule, settings)


def _scorer_of(text: str, config: Config) -> Any:
    if text.lstrip().startswith("{"):
        try:
            value = from_value(scorers.Scorer, json.loads(text), "--keep")
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"--keep={text}: is no JSON: {error}") from None
        return value
    evaluation = dataclasses.replace(config.eval, match=None)
    named = registry.scorers_of(evaluation)
    for scorer, given in zip(named, config.eval.scorers, strict=True):
        if scorer.name == text:
            return registry.plain(given)
    if text in registry.PLAIN:
        return registry.plain(text)
    known = [*(one.name for one in named), *registry.PLAIN]
    near = difflib.get_close_matches(text, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise ConfigError(
        f"--keep={text}: no such scorer; {hint} One with settings is an object, such as"
        ' {"kind": "regex", "pattern": "..."}, or one of config.eval.scorers by its name'
    )


def held_out_of(paths: Sequence[str], config: Config | None, console: Console) -> HeldOut:
    """The prompts of these files, and of the sets that a config evaluates on.

    Raises:
        DataError: a file can't be read.
    """

    def say(line: str) -> None:
        console.say("held out", line)

    given = [Source(path=path) for path in paths]
    rows = held_out_rows([*given, *(config.data.eval if config else ())], say)

    def all_rows() -> Iterator[Conversation]:
        yield from rows
        if config is not None and config.data.holdout is not None:
            base = inputs.open_model(config, console.say, weights=False)
            train = inputs.prepare_data(config, base, console).train
            yield from held_out_of_train(config.data, train)

    found = HeldOut(all_rows())
    if len(found):
        say(f"{len(found):,} prompts, which are not asked, nor what is almost the same")
    return found


def source_of(path: str) -> Source:
    """
    Raises:
        DataError: there is no such file, or no format fits.
    """
    source = Source(path=path)
    sources.files_of(source)
    return source


def refuse_same_samples(samples: int, temperature: float) -> None:
    """
    Raises:
        ConfigError: chance is what makes several answers differ, and there is none.
    """
    if samples > 1 and not temperature:
        raise ConfigError(
            f"--samples={samples}: at --temperature=0 all answers to a prompt are the same; set"
            " --temperature=1.0"
        )


def request_settings(model: str, sampling: Sampling) -> dict[str, Any]:
    """The sampling as a server takes it; what OpenAI's API does not know only where it is set."""
    others = {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty
        if sampling.repetition_penalty != 1.0
        else None,
        "top_p": sampling.top_p,
    }
    return {
        "model": model,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        **{name: value for name, value in others.items() if value is not None},
    }
