"""What can go wrong, said beside the test that proves how it ends; docs/failures.md has it all."""

from typing import Literal

import pytest

Group = Literal["stopping", "processes", "checkpoints", "numbers", "data", "models and security"]


def fault(
    group: Group, what: str, happens: str, *, lost: str, code: int | str
) -> pytest.MarkDecorator:
    """Marks a test that injects a fault; read from the source by tools/failure_page.py.

    Args:
        group: table of the page.
        what: is injected.
        happens: what the run does, and says.
        lost: of the user's work.
        code: with which the program ends; words where it doesn't.
    """
    return pytest.mark.fault(group=group, what=what, happens=happens, lost=lost, code=code)
