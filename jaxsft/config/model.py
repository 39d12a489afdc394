"""The model of a run: where its weights come from, and how it is computed."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    source: str  # Hugging Face directory, hub id (org/name), .gguf file or run directory
    # "random" reads config.json only and seeds the weights with train.seed.
    weights: Literal["pretrained", "random"] = "pretrained"
    # DIRECTORY or DIRECTORY:step of another run on this source, whose weights this one begins with
    # instead (the newest checkpoint's without a step); --continue_from sets it.
    continue_from: str | None = None
    # Directory or hub id of an adapter in PEFT's format on this source, or a run that trained one:
    # it is trained further, in the place of config.lora.
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation
    # Dtype in which the parameters are kept; bfloat16 rounds updates below 1/512 of a weight away.
    parameter_dtype: Literal["float32", "bfloat16"] = "float32"
    # Dtype in which parameters that are not trained are kept; "source": each as in its file.
    # "int8", "nf4": weights of attention, MLPs and experts in 8 or 4 bits a number and a scale for
    # each 64, the others as in their file; so the base is another, which the run says.
    frozen_dtype: Literal["source", "float32", "bfloat16", "int8", "nf4"] = "source"
    # Back end; "auto" takes the fastest that passes its test on the devices, or needs none.
    attention: Literal["auto", "splash", "cudnn", "triton", "blocked", "xla"] = "auto"
    # Back end of a mixture's experts; "auto": "ragged" on TPU, "tiled" elsewhere. "triton": kernels
    # for GPUs, tested on the device before they are used; their time is not measured yet.
    experts: Literal["auto", "tiled", "ragged", "triton", "dense"] = "auto"
    # Parts that the backward pass computes again to save memory: "full" all of a layer;
    # "save_context" all but attention, "save_attention" all but attention and its queries, keys and
    # values, "save_projections" no product with a weight. "auto" takes the fastest of these four
    # whose compiled step fits the devices. "none" names nothing to keep: XLA then chooses by
    # itself, keeps more and computes as much again. docs/memory.md has the costs.
    remat: Literal["auto", "none", "save_projections", "save_attention", "save_context", "full"] = (
        "auto"
    )
    # Layers in one turn of their loop, which copies what it keeps of them. None: on a single GPU
    # all of them, as far as that fits; elsewhere one.
    unroll_layers: int | None = None
    # Control tokens that the tokenizer lacks, such as those of a ChatML template; they get the ids
    # after its last one, and rows in the embedding and the head.
    new_tokens: tuple[str, ...] = ()
    # Their rows: the mean of the trained ones; "normal" adds noise with the trained rows' spread.
    new_token_init: Literal["mean", "normal"] = "mean"
    # Rows fill up to a multiple of this with padding, which is never predicted; in an export it is
    # rows like any other, at the mean of all, which is never the likeliest.
    pad_vocab_to: int = 1
    # Tokens that the template writes but that were never trained; "repair" sets their rows to the
    # mean of the trained ones with a little noise.
    dead_rows: Literal["warn", "repair"] = "warn"
