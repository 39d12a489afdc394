"""The step of transformers in PyTorch on given packed rows, one for each line on standard input.

PYTHON_WITH_TORCH tools/peers/transformers_steps.py JOB.json

tools/bench.py runs it (tools/bench/peer.py has the protocol); it needs nothing of jaxsft. Segments
don't see each other: a mask of all pairs and positions of their own. Eager attention, or SDPA and
torch.compile where the job says so. Adapters of the job are peft's, on all linear layers.
"""

import contextlib
import json
import sys
import time

import numpy as np
import torch
import transformers
from serving import say, serve


def main(path):
    with open(path) as file:
        job = json.load(file)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job["model"],
        dtype=getattr(torch, job["parameter_dtype"]),
        attn_implementation="sdpa" if job["compile"] else "eager",
    ).to(device)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    if job["lora"]:
        model, versions["peft"] = adapted(model, job["lora"])
    model.train()
    trained = [one for one in model.parameters() if one.requires_grad]
    optim = job["optim"]
    optimizer = torch.optim.AdamW(
        trained,
        lr=optim["peak_lr"],
        betas=(optim["b1"], optim["b2"]),
        eps=optim["eps"],
        weight_decay=optim["weight_decay"],
    )
    loss_sum = torch.compile(nll_sum) if job["compile"] else nll_sum
    arrays = dict(np.load(job["rows"]))
    mixed = job["dtype"] != job["parameter_dtype"]
    half = torch.autocast(device, torch.bfloat16) if mixed else contextlib.nullcontext()
    number = 0

    def step():
        nonlocal number
        batch = {k: torch.as_tensor(v[number % len(v)], device=device) for k, v in arrays.items()}
        number += 1
        started = time.perf_counter()
        weight = batch["weights_BT"].sum()
        total = 0.0
        for part in zip(*(v.chunk(job["microbatches"]) for v in batch.values()), strict=True):
            with half:
                nll = loss_sum(model, dict(zip(batch, part, strict=True)))
            (nll / weight).backward()
            total += nll.detach()
        if optim["max_grad_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(trained, optim["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        loss = float(total / weight)  # waits for the device
        return {
            "seconds": time.perf_counter() - started,
            "supervised_tokens": int((batch["weights_BT"] != 0).sum()),
            "tokens": int((batch["segments_BT"] != 0).sum()),
            "loss": loss,
        }

    attention = model.config._attn_implementation + (", torch.compile" if job["compile"] else "")
    about = {"versions": versions, "attention": attention, "threads": torch.get_num_threads()}
    say(about | {"trained": sum(one.numel() for one in trained)})
    serve(step)


def adapted(model, lora):
    """The model with adapters on all its linear layers, and the version of peft."""
    import peft

    asked = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **lora)
    return peft.get_peft_model(model, asked), peft.__version__


def nll_sum(model, batch):
    """Weighted negative log-likelihoods, summed; a target lies beside its token."""
    segments = batch["segments_BT"]
    causal = torch.ones(segments.shape[1:] * 2, dtype=torch.bool, device=segments.device).tril()
    seen = causal & (segments[:, :, None] == segments[:, None, :])
    bias = torch.zeros(seen.shape, dtype=model.dtype, device=seen.device)
    bias = bias.masked_fill(~seen, torch.finfo(model.dtype).min)[:, None]
    logits = model(
        input_ids=batch["tokens_BT"], attention_mask=bias, position_ids=batch["positions_BT"]
    ).logits
    nll = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch["targets_BT"].flatten().long(), reduction="none"
    )
    return (nll * batch["weights_BT"].flatten()).sum()


if __name__ == "__main__":
    main(*sys.argv[1:])
