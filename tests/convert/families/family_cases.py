"""The cases of every family, collected from their files, and tiny random models made of them."""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsft.convert.families.registry import FAMILIES
from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import BASE


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    features: str  # that differ from those of the family's other cases
    changes: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.family}: {self.features}"


def of_family(model_type: str) -> FamilyCases:
    """What the family's file holds; a family without a file is an error where this is imported."""
    return importlib.import_module(f"tests.convert.families.cases.{model_type}").CASES


FILES = {family: of_family(family) for family in FAMILIES}
CASES = [
    Case(family, features, changes)
    for family, file in FILES.items()
    for features, changes in file.models.items()
]
WITH_EXPERTS = [
    name for name, family in FAMILIES.items() if "num_experts_per_tok" in family.defaults
]


def save(case: Case, directory: Path, dtype: str = "float32", **save_arguments: Any) -> Any:
    """Saves a random model of the case and gives it back, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {name: v for name, v in (BASE | case.changes).items() if v is not ...}
    config = AutoConfig.for_model(case.family, **fields)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # scales and biases too: all alike, they'd hide swaps
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.2 * noise + (parameter.data if parameter.dim() == 1 else 0)
    model.to(getattr(torch, dtype))
    model.save_pretrained(directory, **save_arguments)
    return model.float().eval()
