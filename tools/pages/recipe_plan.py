"""What the compiler says of a recipe's step on its hardware, as docs/recipes.md keeps it."""

import dataclasses
import json
from pathlib import Path

from jaxsft.cli import config_file
from jaxsft.config import Config, validate
from jaxsft.convert import pretrained
from jaxsft.plan import estimate, topology
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.memory import GIB
from jaxsft.training import inputs
from pages import recipe_card


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipePlan:
    recipe: str  # its file's name
    topology: str
    model: str
    method: str
    rows: int  # in a step
    microbatches: int
    sequence_length: int
    remat: str
    needed_bytes: int  # of a device
    limit_bytes: int  # that a program may use there
    step_seconds: float
    tokens_per_second: float
    bound: str

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.limit_bytes

    @property
    def line(self) -> str:
        """For the recipe's card."""
        memory = f"{self.needed_bytes / GIB:.1f} of {self.limit_bytes / GIB:.1f} GiB a chip"
        speed = f"{self.step_seconds:.3g} s a step, {self.tokens_per_second:,.0f} tokens/s"
        return f"{self.topology}: {memory}, {speed}"


def loaded(file: Path, shapes: Path) -> Config:
    """A recipe's config, checked, its model without weights."""
    config = config_file.load(str(file))
    validate(config)
    shape = str(recipe_card.shape_of(config.model.source, shapes))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, source=shape))


def make(file: Path, name: str, shapes: Path) -> RecipePlan:
    """Compiles a recipe's step for a topology, its rows full and all of them supervised.

    Raises:
        TooLarge, ConfigError: what the plan says.
    """
    config = loaded(file, shapes)
    where = topology.open_topology(name)
    base = inputs.open_model(config, lambda topic, line: None, weights=False)
    stored = pretrained.stored_dtypes(base)
    length = config.data.sequence_length
    rows = BatchLoad(tokens=1.0, supervised=1.0, segment_length=float(length))
    found = estimate.make(config, base.settings, where, rows, print, stored)
    assert found.seconds is not None and found.memory.limit_bytes is not None, name
    return RecipePlan(
        recipe=file.name,
        topology=name,
        model=config_file.load(str(file)).model.source,
        method=method(config),
        rows=config.train.batch_size,
        microbatches=config.train.microbatches,
        sequence_length=length,
        remat=found.remat,
        needed_bytes=found.memory.needed_bytes,
        limit_bytes=found.memory.limit_bytes,
        step_seconds=found.seconds.estimate,
        tokens_per_second=found.tokens / found.seconds.estimate,
        bound=found.seconds.bound,
    )


def method(config: Config) -> str:
    if config.lora is None:
        return "all weights"
    base = config.model.frozen_dtype
    return f"adapters of rank {config.lora.rank}" + (f" on {base}" if base == "nf4" else "")


def read(saved: Path) -> list[RecipePlan]:
    return [RecipePlan(**one) for one in json.loads(saved.read_text())] if saved.exists() else []


def write(saved: Path, plans: list[RecipePlan]) -> None:
    lines = ",\n".join(json.dumps(dataclasses.asdict(one)) for one in plans)
    saved.write_text(f"[\n{lines}\n]\n")
