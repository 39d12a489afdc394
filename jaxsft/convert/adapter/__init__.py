"""LoRA adapters in PEFT's format, merged into their base."""
