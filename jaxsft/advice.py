"""Leaves out of the log what other libraries advise and what does not hold here."""

import logging

TRANSFORMERS = "transformers"
# It reads templates and tokenizers for us; models are ours, and need no PyTorch.
NO_PYTORCH = "PyTorch was not found."


def leave_out() -> None:
    """Call it before transformers is imported, in each process; all else that is logged stays."""
    logging.getLogger(TRANSFORMERS).addFilter(_holds_here)  # once, however often it is called


def _holds_here(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NO_PYTORCH)
