"""Conversations for Tunix as its examples prepare theirs: each padded to the longest allowed."""

import json

import grain.python as grain
import jax.numpy as jnp
import numpy as np
import transformers
from tunix.sft import peft_trainer, utils

PAD = -1  # until a batch is put together: no token of a conversation


class Encode(grain.MapTransform):
    def __init__(self, tokenizer, length):
        self.tokenizer, self.length = tokenizer, length

    def map(self, row):
        made = self.tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        pad = max(0, self.length - len(made["input_ids"]))
        return peft_trainer.TrainingInput(
            input_tokens=np.pad(
                np.array(made["input_ids"], np.int32), (0, pad), constant_values=PAD
            ),
            input_mask=np.pad(np.array(made["assistant_masks"], bool), (0, pad)),
        )


class NotTooLong(grain.FilterTransform):
    def __init__(self, length):
        self.length = length

    def filter(self, one):
        return len(one.input_tokens) <= self.length


def model_input(batch):
    real = batch.input_tokens != PAD
    return {
        "input_tokens": jnp.where(real, batch.input_tokens, 0),
        "input_mask": batch.input_mask,
        "positions": utils.build_positions_from_mask(real),
        "attention_mask": utils.make_causal_attn_mask(real),
    }


def batches_of(job):
    with open(job["conversations"]) as lines:
        rows = [json.loads(line) for line in lines]
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["tokenizer"])
    if job["template"]:
        with open(job["template"]) as file:
            tokenizer.chat_template = file.read()
    length = job["sequence_length"]
    sampler = grain.IndexSampler(
        len(rows), shard_options=grain.NoSharding(), shuffle=True, num_epochs=1, seed=job["seed"]
    )
    return grain.DataLoader(
        data_source=rows,
        sampler=sampler,
        operations=[
            Encode(tokenizer, length),
            NotTooLong(length),
            grain.Batch(job["batch_size"], drop_remainder=True),
        ],
    )
