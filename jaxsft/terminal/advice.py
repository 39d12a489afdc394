"""Leaves out of the log what other libraries advise and what does not hold here."""

import logging

TRANSFORMERS = "transformers"
ABSL = "absl"
# It reads templates and tokenizers for us; models are ours, and need no PyTorch.
NO_PYTORCH = "PyTorch was not found."


# Orbax logs these with a traceback each, beside the error that it raises: that one is shown.
RAISED_TOO = (
    "_SignalingThread.run() raised an exception",
    "Handler Commit operations or the Commit callback",
    "Save Finalize thread",
)


def leave_out() -> None:
    """Call it before transformers is imported, in each process; all else that is logged stays."""
    # Once each, however often it is called.
    logging.getLogger(TRANSFORMERS).addFilter(_holds_here)
    logging.getLogger(ABSL).addFilter(_is_not_raised_too)


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    return not any(part in record.getMessage() for part in RAISED_TOO)


def _holds_here(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NO_PYTORCH)
