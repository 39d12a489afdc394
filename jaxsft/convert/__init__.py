"""Hugging Face and GGUF models <-> parameters: one table per family, read both ways."""
