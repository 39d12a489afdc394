"""The configs that are recipes: which hardware their cards name, and the shapes of their models.

A recipe is a file of configs/ whose docstring has lines such as

    planned   v5p:2x2x1: 47.1 of 95.7 GiB a chip, 3.1 s a step, 42,300 tokens/s
              h100:8: ...

A line that names a topology alone has not been planned yet.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from jaxsft.errors import ConfigError

_PLANNED = re.compile(r"^planned   (\S.*(?:\n {10}\S.*)*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Recipe:
    file: Path
    lines: tuple[str, ...]  # each of one topology

    @property
    def topologies(self) -> list[str]:
        return [re.match(r"\w+:[\dx]+", line)[0] for line in self.lines]  # type: ignore[index]


def find(configs: Path) -> list[Recipe]:
    """All recipes of a folder, by name."""
    found = []
    for file in sorted(configs.glob("*.py")):
        if match := _PLANNED.search(file.read_text()):
            found.append(Recipe(file, tuple(line.strip() for line in match[1].splitlines())))
    return found


def with_lines(card: str, lines: Sequence[str]) -> str:
    """The text of a config file with these lines in the place of those that it has."""
    text = "planned   " + "\n          ".join(lines)
    return _PLANNED.sub(lambda _: text, card, count=1)


def shape_of(model: str, shapes: Path) -> Path:
    """The directory with the config.json of a model, which needs neither network nor licence.

    Args:
        model: hub id.
        shapes: a folder of such directories.

    Raises:
        ConfigError: none of them is of this model.
    """
    for file in sorted(shapes.glob("*/config.json")):
        if json.loads(file.read_text()).get("_name_or_path") == model:
            return file.parent
    raise ConfigError(f"config.model.source={model}: no config.json in {shapes} is of this model")
