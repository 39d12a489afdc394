"""The typed configuration of a run: every field, its default, its unit and its meaning, once.

A run is a Python file with `def get_config() -> Config`; the command line changes any field:
`--config.section.field=value`.
"""

from jaxsft.config import scorers
from jaxsft.config.data import Data, Format, Part, Source
from jaxsft.config.distil import Distil
from jaxsft.config.lora import Lora
from jaxsft.config.loss import Loss
from jaxsft.config.model import Model
from jaxsft.config.optim import Group, Optim
from jaxsft.config.rules import validate
from jaxsft.config.run import Checkpoint, Config, Eval, Log, Mesh, Train
from jaxsft.config.values import (
    from_dict,
    from_value,
    is_instance,
    optional_section,
    to_dict,
    type_name,
)

__all__ = [
    "Checkpoint",
    "Config",
    "Data",
    "Distil",
    "Eval",
    "Format",
    "Group",
    "Log",
    "Loss",
    "Lora",
    "Mesh",
    "Model",
    "Optim",
    "Part",
    "Source",
    "Train",
    "from_dict",
    "from_value",
    "is_instance",
    "optional_section",
    "scorers",
    "to_dict",
    "type_name",
    "validate",
]
