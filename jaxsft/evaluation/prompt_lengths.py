"""Whether the model has positions for what it is to be asked, and for what it is to answer."""

from collections.abc import Callable, Mapping, Sequence

from jaxsft.config import Eval
from jaxsft.errors import ConfigError, DataError
from jaxsft.evaluation.answers import Prompt

# Ways of asking, by the field that adds to the prompt.
_ADDED = {"before_with_instruction": "instruction", "before_with_shots": "shots"}


def check_lengths(
    ways: Mapping[str, Sequence[Prompt]],
    length_of: Callable[[Prompt], int],
    max_positions: int,
    asks: Eval,
    say: Callable[[str, str], None],
) -> None:
    """Refuses prompts that leave no room for an answer, and says how many leave less than
    config.eval.max_new_tokens.

    Args:
        ways: of asking, by phase.

    Raises:
        DataError: a row is too long as it is.
        ConfigError: it is with what the config puts before it.
    """
    short: list[tuple[Prompt, int]] = []
    for phase, prompts in ways.items():
        for prompt in prompts:
            length = length_of(prompt)
            if length >= max_positions:
                _refuse(prompt, length, _ADDED.get(phase), max_positions, asks)
            if length + asks.max_new_tokens > max_positions:
                short.append((prompt, length))
    if short:
        prompt, length = max(short, key=lambda one: one[1])
        say(
            "prompts",
            f"warning: {len(short)} prompts leave fewer than config.eval.max_new_tokens="
            f"{asks.max_new_tokens} of the model's {max_positions:,} positions, where an answer is"
            f" cut: the longest, {prompt.file}:{prompt.row}, has {length:,} tokens",
        )


def _refuse(prompt: Prompt, length: int, field: str | None, max_positions: int, asks: Eval) -> None:
    where = f"{prompt.file}:{prompt.row}"
    limit = f"the model was made for {max_positions:,} positions, one of them for an answer"
    if field is None:
        raise DataError(
            f"{where}: has {length:,} tokens up to its last answer, and {limit}; take the row out"
            " of what is evaluated, or ask less with config.eval.prompts"
        )
    value = getattr(asks, field)
    shown = "'...'" if isinstance(value, str) else value
    raise ConfigError(
        f"config.eval.{field}={shown}: {where} has {length:,} tokens with it, and {limit}; set"
        f" {'fewer of them' if field == 'shots' else 'a shorter one'}, or take the row out"
    )
