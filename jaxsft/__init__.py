"""Supervised fine-tuning in JAX: pretrained model and conversations in, Hugging Face model out."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsft.convert.api import load_model, save_model

__all__ = ["__version__", "load_model", "save_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """load_model and save_model, imported on first use: `import jaxsft` alone needs no jax."""
    if name in ("load_model", "save_model"):
        return getattr(importlib.import_module("jaxsft.convert.api"), name)
    raise AttributeError(f"module 'jaxsft' has no attribute {name!r}")
