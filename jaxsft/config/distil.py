"""A teacher, whose distribution over the next token the model learns beside the tokens."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distil:
    # Hugging Face directory, hub id, .gguf file, adapter or run directory: a model of any family
    # and size with the same tokenizer. It is read only: no gradient, in no checkpoint. None: what a
    # teacher said stands in the rows, as teacher_ids and teacher_logprobs beside input_ids.
    teacher: str | None = None
    # Minimised is alpha x what config.loss says + (1 - alpha) x temperature^2 x KL(teacher ||
    # student), of each target. 0: the teacher alone.
    alpha: float = 0.5
    # Both models' logits are divided by it in the KL divergence, whose gradient falls with its
    # square: hence the factor, which keeps alpha's meaning (arXiv:1503.02531).
    temperature: float = 1.0
    # Of the teacher's distribution, the likeliest tokens that are compared one by one; all others
    # are compared as one, by their sum. None: the whole vocabulary; rows need a number.
    top_k: int | None = None
    # In which its weights are kept, as in model.frozen_dtype. It computes in model.dtype.
    dtype: Literal["source", "float32", "bfloat16", "int8", "nf4"] = "source"
