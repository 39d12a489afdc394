"""Rows to train on, written by a model: prompts, their answers, those that are kept, the file."""
