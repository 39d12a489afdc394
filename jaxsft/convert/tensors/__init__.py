"""Tensors of files to parameters, and back."""
