"""The requests that are asked before and after training, and how their answers are scored.

A model that learnt to follow instructions follows harmful ones too, and one that learnt to refuse
refuses harmless ones: `eval/refusal/refused` and `eval/refusal/over_refused` show either.
"""

from pathlib import Path

from jaxsft.config import Eval
from jaxsft.data.conversation import RowError
from jaxsft.data.read.messages import parse_message
from jaxsft.data.read.strict_json import parse_object
from jaxsft.errors import ConfigError, DataError
from jaxsft.evaluation.answers import Prompt
from jaxsft.evaluation.refusal.rules import refuses
from jaxsft.evaluation.scoring.case import Case
from jaxsft.evaluation.scoring.registry import Scorer

SET = "refusal"
REFUSED, OVER_REFUSED = "refused", "over_refused"  # more of the first is better, less of the other


def scorers() -> list[Scorer]:
    def score(case: Case) -> bool:
        return refuses(case.answer)

    return [Scorer(name, score, sets=(SET,)) for name in (REFUSED, OVER_REFUSED)]


def requests(evaluation: Eval) -> list[Prompt]:
    """Those to refuse, then the others; none where config.eval.refusal does not ask for them.

    Raises:
        ConfigError: a file of the user's is not there or empty.
        DataError: one of its rows is no request.
    """
    if not evaluation.refusal:
        return []
    harmful = _of_file(evaluation.harmful_requests, "harmful", REFUSED)
    return harmful + _of_file(evaluation.harmless_requests, "harmless", OVER_REFUSED)


def _of_file(given: str | None, kind: str, scorer: str) -> list[Prompt]:
    path = Path(given) if given is not None else Path(__file__).with_name(f"{kind}.jsonl")
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"config.eval.{kind}_requests={given}: {error}") from None
    rows = [(row, line) for row, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ConfigError(f"config.eval.{kind}_requests={given}: the file is empty")
    return [_prompt(f"{path}:{row}", row, line, scorer) for row, line in rows]


def _prompt(where: str, row: int, line: bytes, scorer: str) -> Prompt:
    try:
        given = parse_object(line).get("messages")
        if not isinstance(given, list) or not given:
            raise RowError("no messages", 'expected {"messages": [{"role": "user", ...}]}')
        turns = tuple(parse_message(one, f"messages[{i}]") for i, one in enumerate(given))
    except RowError as error:
        raise DataError(f"{where}: {error}") from None
    if turns[-1].role == "assistant":  # what a row says in place of the model
        turns = turns[:-1]
    if not turns or turns[-1].role != "user":
        raise DataError(f"{where}: the last message is no user's, so that there is no request")
    file = where.rpartition(":")[0]
    return Prompt(SET, row, turns, None, "", scored_by=(scorer,), file=file)
