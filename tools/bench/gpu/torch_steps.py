"""The same work in torch: Llama-3.2-1B's shape, AdamW, autocast, packed rows of four segments.

mask: SDPA with a mask of all pairs; causal: SDPA over whole rows; flex: flex attention over the
segments. `+c` compiles each layer and the loss. B: batch row, T: position.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bench.gpu import results

_ATTENTION = {"mask": "sdpa", "causal": "sdpa", "flex": "flex_attention"}
_NUM_SEGMENTS, _NUM_WARMUP = 4, 3


def measure(batch_size: str, mode: str) -> None:
    if _device() == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    since = time.time()
    try:
        line = _measure(int(batch_size), mode)
    except Exception as error:
        line = {"error": results.said(error)}
    results.put("torch", mode=mode, B=int(batch_size), **line, total_s=time.time() - since)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _measure(batch_size: int, mode: str) -> dict[str, Any]:
    kind, _, compiled = mode.partition("+")
    T = 256 if results.is_tiny() else 4096
    model = _model(_ATTENTION[kind])
    inputs, targets = _inputs(kind, batch_size, T, model.config.vocab_size)

    def nll(logits):
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets)

    loss_of: Callable = nll
    if compiled:
        for layer in model.model.layers:
            layer.compile()
        loss_of = torch.compile(nll)
    taken, loss = _train(model, inputs, loss_of)
    seconds = statistics.median(taken[_NUM_WARMUP:])
    peak = torch.cuda.max_memory_allocated() / 2**30 if _device() == "cuda" else None
    return {
        "T": T,
        "step_ms": seconds * 1e3,
        "tokens_per_second": batch_size * T / seconds,
        "GiB_peak": peak,
        "loss": loss,
        "first_step_s": taken[0],
    }


def _model(attention: str) -> Any:
    configs = Path(__file__).resolve().parents[3] / "configs"
    tiny = results.is_tiny()
    source = configs / ("debug_model" if tiny else "bench_models/llama3_2_1b")
    config = transformers.AutoConfig.from_pretrained(source)
    torch.manual_seed(0)
    with torch.device(_device()):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    model.train()
    model.config.use_cache = False
    return model


def _inputs(kind: str, B: int, T: int, num_tokens: int) -> tuple[dict[str, Any], torch.Tensor]:
    device = _device()
    rng = np.random.default_rng(0)
    tokens_BT = torch.as_tensor(rng.integers(0, num_tokens, (B, T)), device=device)
    ids_T = np.arange(T) * _NUM_SEGMENTS // T
    positions_T = torch.as_tensor(np.arange(T) - ids_T * (T // _NUM_SEGMENTS), device=device)
    segments_BT = torch.as_tensor(ids_T, device=device).expand(B, T)
    inputs: dict[str, Any] = {"input_ids": tokens_BT, "use_cache": False}
    if kind in ("mask", "flex"):  # flex: transformers finds the segments in the positions
        inputs["position_ids"] = positions_T.expand(B, T)
    if kind == "mask":  # as tools/peers/transformers_steps.py gives it
        causal_TT = torch.ones((T, T), dtype=torch.bool, device=device).tril()
        same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
        inputs["attention_mask"] = (causal_TT & same_BTT)[:, None]
    return inputs, torch.roll(tokens_BT, -1, 1).flatten()


def _train(model, inputs: dict[str, Any], loss_of: Callable) -> tuple[list[float], float]:
    """Seconds of each step, and the last loss."""
    fused = {"fused": True} if _device() == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, **fused)
    taken, value = [], 0.0
    for _ in range(_NUM_WARMUP + (2 if results.is_tiny() else 8)):
        start = time.perf_counter()
        with torch.autocast(_device(), torch.bfloat16):
            loss = loss_of(model(**inputs).logits)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value = float(loss.detach())  # waits for the device
        taken.append(time.perf_counter() - start)
    return taken, value
