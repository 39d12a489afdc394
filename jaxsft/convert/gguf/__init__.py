"""Models in .gguf files: settings, tensors and tokenizers."""
