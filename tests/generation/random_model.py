"""A model of random weights on disk, with a tokenizer and a template of its own."""

import shutil
from pathlib import Path

from tests.programs import ROOT


def saved(path: Path) -> Path:
    """configs/debug_model with weights, as transformers makes and saves them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(ROOT / "configs" / "debug_model", path)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path)).save_pretrained(path)
    return path
