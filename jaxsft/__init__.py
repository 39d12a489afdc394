"""Supervised fine-tuning in JAX: pretrained model and conversations in, Hugging Face model out."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsft.convert.api import load_model, save_model
    from jaxsft.generation.chat import Chat

__all__ = ["Chat", "__version__", "load_model", "save_model"]
__version__ = "0.1.0"
_HOMES = {
    "Chat": "jaxsft.generation.chat",
    "load_model": "jaxsft.convert.api",
    "save_model": "jaxsft.convert.api",
}


def __getattr__(name: str) -> Any:
    """What is in __all__, imported on first use: `import jaxsft` alone needs no jax."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'jaxsft' has no attribute {name!r}")
