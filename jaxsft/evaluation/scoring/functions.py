"""Scores by a function of the user's config file."""

import math
from typing import Any

import numpy as np

from jaxsft.config import scorers
from jaxsft.errors import ConfigError
from jaxsft.evaluation.scoring.case import Case, NotScored, Score, ScoreOne


def by_function(settings: scorers.Function, where: str) -> ScoreOne:
    function = settings.function
    if isinstance(function, str):
        raise ConfigError(
            f"{where}.function={function!r}: is a name; a config file gives the function itself"
        )

    def score(case: Case) -> Score:
        try:
            said: Any = function(case.answer, case.row)
        except Exception as error:  # theirs: a defect of it costs its scores, not the run
            raise NotScored(f"{type(error).__name__}: {error}") from error
        return _score(said)

    return score


def _score(said: Any) -> Score:
    if isinstance(said, bool | np.bool_):
        return bool(said)
    if isinstance(said, int | float | np.integer | np.floating) and math.isfinite(said):
        return float(said)
    raise NotScored(f"it returned {said!r:.60}; expected True or False, or a finite number")
