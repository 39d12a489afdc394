"""Tokenizers of the other kinds, made here: sentencepiece models alone, and a unigram model."""

import json
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.data.chat import CORPUS

LLAMA2 = (
    "{% for message in messages %}{% if message.role == 'user' %}"
    "{{ bos_token + '[INST] ' + message.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + (message.role | replace('assistant', 'model')) + '\\n' }}"
    "{{ message.content | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_MARKS = ["<start_of_turn>", "<end_of_turn>", "<table>"]


def make_sentencepiece(
    directory: Path, tokenizer_class: str, model_type: str = "bpe", **config
) -> str:
    """A directory with tokenizer.model and its configuration, no tokenizer.json.

    Trained as Llama's was: text as it is, unknown characters as bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    corpus = directory / "corpus.txt"
    corpus.write_text("\n".join(line for text in CORPUS for line in text.split("\n") if line))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(directory / "tokenizer"),
        model_type=model_type,
        vocab_size=340,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=_MARKS if tokenizer_class == "GemmaTokenizer" else [],
        minloglevel=2,
    )
    corpus.unlink()
    (directory / "tokenizer.vocab").unlink()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    written = {"tokenizer_class": tokenizer_class, "add_bos_token": True, **special, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(written))
    return str(directory)


def make_unigram(directory: Path, template: str) -> str:
    """A unigram model, whose vocabulary holds its control tokens as pieces like any other."""
    controls = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    alphabet = [chr(code) for code in range(32, 127)] + ["\n", "\u200b", "\uff5c"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=controls,
        unk_token="<unk>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return str(directory)
