"""Plans of recipes as the table of docs/recipes.md; the words around it stay."""

from collections.abc import Sequence

from jaxsft.errors import ConfigError
from jaxsft.plan.memory import GIB
from pages.recipe_plan import RecipePlan

BEGIN, END = "<!-- planned: made by tools/plan_recipes.py -->", "<!-- end of planned -->"
_HEADS = (
    *("config", "method", "hardware", "rows a step", "remat", "GiB a chip", "of what it may use"),
    *("s a step", "tokens/s", "bound by"),
)


def updated(page: str, plans: Sequence[RecipePlan]) -> str:
    """The page with the table of these plans between its marks.

    Raises:
        ConfigError: a page without the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the page needs the lines {BEGIN!r} and {END!r}")
    lines = [_HEADS, ["---"] * len(_HEADS), *map(_row, plans)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([before + begin, table, end + after])


def _row(one: RecipePlan) -> list[str]:
    parts = f" in {one.microbatches} parts" if one.microbatches > 1 else ""
    return [
        f"`{one.recipe}`",
        one.method,
        one.topology,
        f"{one.rows} x {one.sequence_length:,}{parts}",
        one.remat,
        f"{one.needed_bytes / GIB:.1f}",
        f"{one.needed_bytes / one.limit_bytes:.0%}" + ("" if one.fits else ", **does not fit**"),
        f"{one.step_seconds:.3g}",
        f"{one.tokens_per_second:,.0f}",
        one.bound,
    ]
