"""Tunix's SFT trainer on a file of conversations, held up before each step until it is asked for.

PYTHON_WITH_TUNIX tools/peers/tunix_steps.py JOB.json

tools/bench.py runs it (tools/bench/peer.py has the protocol); it needs nothing of jaxsft. Its own
loss, loop and Llama; its data path is that of its examples: every conversation padded to the
longest one allowed, longer ones left out. It has no packing for SFT yet.
"""

import importlib.metadata
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from serving import say, wait_for_step
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params
from tunix.sft import hooks, peft_trainer
from tunix_data import PAD, batches_of, model_input


class Turns(hooks.TrainingHooks, hooks.DataHooks):
    """A step is the time from when it was asked for until its loss is there."""

    def __init__(self, batches):
        self.batches = iter(batches)
        self.counted = None

    def load_next_train_batch(self, train_ctx):
        """Reports the step before, and gives the next one's batch when that is asked for."""
        if self.counted is not None:
            loss = float(train_ctx._prev_buffered_train_metrics.losses[-1])  # waits for it
            say({"seconds": time.perf_counter() - self.started, **self.counted, "loss": loss})
        wait_for_step()
        self.started = time.perf_counter()
        batch = next(self.batches, None)
        if batch is None:
            say({"done": True})
            wait_for_step()
        self.counted = {
            "tokens": int((batch.input_tokens != PAD).sum()),
            "supervised_tokens": int(batch.input_mask[:, 1:].sum()),
        }
        return batch

    def nothing(self, *args):
        pass

    load_next_eval_batch = on_train_start = on_train_end = nothing
    on_train_step_start = on_train_step_end = on_eval_step_start = on_eval_step_end = nothing


def load_model(job):
    with open(f"{job['model']}/config.json") as file:
        theirs = json.load(file)
    if theirs["model_type"] != "llama" or theirs.get("rope_scaling"):
        raise SystemExit(f"model_type={theirs['model_type']}: plain Llama models only")
    heads = theirs["num_attention_heads"]
    config = llama.ModelConfig(
        num_layers=theirs["num_hidden_layers"],
        vocab_size=theirs["vocab_size"],
        embed_dim=theirs["hidden_size"],
        hidden_dim=theirs["intermediate_size"],
        num_heads=heads,
        head_dim=theirs.get("head_dim") or theirs["hidden_size"] // heads,
        num_kv_heads=theirs["num_key_value_heads"],
        rope_theta=int(theirs["rope_theta"]),
        norm_eps=theirs["rms_norm_eps"],
        weight_tying=theirs["tie_word_embeddings"],
    )
    dtype = jnp.dtype(job["parameter_dtype"])
    return params.create_model_from_safe_tensors(job["model"], config, dtype=dtype)


def main(path):
    with open(path) as file:
        job = json.load(file)
    optim = job["optim"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(optim["max_grad_norm"] or np.inf),
        optax.adamw(optim["peak_lr"], optim["b1"], optim["b2"], optim["eps"]),
    )
    settings = peft_trainer.TrainingConfig(eval_every_n_steps=10**9, max_inflight_computations=1)
    trainer = peft_trainer.PeftTrainer(load_model(job), optimizer, settings)
    trainer.with_gen_model_input_fn(model_input)
    turns = Turns(batches_of(job))
    trainer.with_data_hooks(turns)
    versions = {"tunix": importlib.metadata.version("google-tunix"), "jax": jax.__version__}
    say({"versions": versions})
    trainer.train([])


if __name__ == "__main__":
    main(*sys.argv[1:])
