"""Two chat templates, a small tokenizer that has them, and conversations in few letters."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from jaxsft.data.conversation import Conversation, Message

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Shows an assistant's thinking only while no later message stands.
REWRITING = (
    "{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\\n' }}"
    "{% if message.reasoning_content and loop.last %}"
    "{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}"
    "{{ message.content }}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = ["the quick brown fox says hello world and 2 + 2 = 4\n\n user assistant system"] * 20


def make_tokenizer(directory: Path, template: str = CHATML, pad: str = "<|pad|>") -> str:
    """A byte-level BPE with ChatML control tokens, saved as a model directory has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # The first three stand in the model's vocabulary, the others after it, as both occur.
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=alphabet,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(
        [AddedToken("<|im", special=True), AddedToken("[END]", rstrip=True)]
    )
    tokenizer.add_tokens(["<think>", "</think>", "   "])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": pad,
        "chat_template": template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return str(directory)


def conversation(*contents: str, **fields) -> Conversation:
    """User and assistant in turn; `tools` and `roles` can be given."""
    roles = fields.get("roles", ("user", "assistant") * len(contents))
    messages = tuple(Message(r, c) for r, c in zip(roles, contents, strict=False))
    return Conversation(messages, fields.get("tools"), "train.jsonl", 7)
