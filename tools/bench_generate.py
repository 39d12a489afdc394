"""Greedy text of jaxsft and of transformers with its cache, in turns: tokens a second, the ratio.

    python tools/bench_generate.py [--model=configs/bench_models/smollm2_135m] [--rows=1,8]
        [--prompt=64] [--new=64] [--rounds=7]

A directory without weights gets random ones, the same for both. Both run in float32 on the CPU; the
first round of each, which compiles, is not counted.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from jaxsft.cli import flags as jaxsft_flags

_MODEL = flags.DEFINE_string("model", "configs/bench_models/smollm2_135m", "directory of a model")
_ROWS = flags.DEFINE_list("rows", ["1", "8"], "prompts at once, one measurement each")
_PROMPT = flags.DEFINE_integer("prompt", 64, "tokens of a prompt", 1)
_NEW = flags.DEFINE_integer("new", 64, "tokens of an answer", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "of each, in turns", 1)


def main() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(_MODEL.value)
        if not any(directory.glob("*.safetensors")):
            torch.manual_seed(0)
            config = AutoConfig.from_pretrained(directory)
            directory = Path(folder)
            AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
        theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        ours = jaxsft_model(directory)
    for rows in map(int, _ROWS.value):
        measure(ours, theirs, rows)


def jaxsft_model(directory: Path):
    from flax import nnx

    import jaxsft

    graphdef, state = nnx.split(jaxsft.load_model(directory), nnx.Param)
    return graphdef, nnx.to_pure_dict(state)


def measure(ours, theirs, rows: int) -> None:
    import torch

    from jaxsft.generation.generate import generate
    from jaxsft.generation.sampling import Sampling

    vocab = theirs.config.vocab_size
    prompts = np.random.default_rng(0).integers(5, vocab, (rows, _PROMPT.value))
    ids, count = torch.tensor(prompts), _NEW.value

    def by_jaxsft() -> list[list[int]]:
        answers = generate(*ours, prompts.tolist(), Sampling(max_new_tokens=count), stop_ids=[])
        return [answer.ids for answer in answers]

    def by_transformers() -> list[list[int]]:
        with torch.no_grad():
            found = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
        return found[:, _PROMPT.value :].tolist()

    pair = (by_jaxsft, by_transformers)
    first = [run() for run in pair]
    same = np.mean(np.asarray(first[0]) == np.asarray(first[1]))
    seconds = [[_seconds(run) for run in pair] for _ in range(_ROUNDS.value)]
    speeds = [rows * count / statistics.median(one) for one in zip(*seconds, strict=True)]
    ratios = [there / here for here, there in seconds]
    print(
        f"{rows} x {_PROMPT.value} + {count}: jaxsft {speeds[0]:.1f} tokens/s, transformers"
        f" {speeds[1]:.1f}; ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to"
        f" {max(ratios):.2f}); {same:.1%} of the tokens are the same",
        flush=True,
    )


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(jaxsft_flags.run_tool(main))
