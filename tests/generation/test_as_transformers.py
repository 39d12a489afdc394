"""A pretrained model writes what it writes in transformers: every token, every logit."""

import jax
import numpy as np
import pytest

import jaxsft
from jaxsft.model.state import model_of

TEMPLATE = """{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"""
NEW = 200
OPENINGS = ["Once upon a time", "One day, a little dog named Max", "Tim"]


@pytest.fixture(scope="module")
def directory(assets):
    return assets / "models" / "stories260k"


@pytest.fixture(scope="module")
def chat(directory, tmp_path_factory):
    template = tmp_path_factory.mktemp("template") / "plain.jinja"
    template.write_text(TEMPLATE)
    return jaxsft.Chat(directory, template=str(template))


@pytest.fixture(scope="module")
def theirs(directory, chat):
    """By transformers, of each opening: ids, and the logits of each token."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    found = []
    for text in OPENINGS:
        prompt = torch.tensor([prompt_of(chat, text)])
        with torch.no_grad():
            out = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=NEW,
                do_sample=False,
                use_cache=True,
                eos_token_id=-1,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
        ids = out.sequences[0, prompt.shape[1] :].tolist()
        found.append((ids, torch.cat(out.logits).numpy()))
    return found


def prompt_of(chat, text):
    return chat.tokenizer.encode_prompt([{"role": "user", "content": text}])


def test_greedy_text_is_theirs_for_200_tokens(chat, theirs):
    conversations = [[{"role": "user", "content": text}] for text in OPENINGS]
    for reply, (ids, _) in zip(
        chat.answers(conversations, max_new_tokens=NEW), theirs, strict=True
    ):
        end = next((n for n, one in enumerate(ids, 1) if one in chat.stop_ids), NEW)
        assert reply.ids == ids[:end] and reply.text and reply.ended == (end < NEW)


def test_logits_are_theirs_step_by_step(chat, theirs):
    prompt, (ids, logits) = prompt_of(chat, OPENINGS[0]), theirs[0]
    row = np.asarray([[*prompt, *ids]], np.int32)

    def run(params):
        model = model_of(chat._graphdef, params)
        cache = model.empty_cache(1, row.shape[1])
        ones, places = np.ones_like(row), np.arange(row.shape[1], dtype=np.int32)[None]
        read = len(prompt)
        first, cache = model.extend(row[:, :read], ones[:, :read], places[:, :read], cache)

        def step(cache, column):
            logits_BV, cache = model.extend(*(part[:, None] for part in column), cache)
            return cache, logits_BV

        columns = [part[:, read:-1].T for part in (row, ones, places)]
        rest = jax.lax.scan(step, cache, tuple(columns))[1]
        return first, rest

    first, rest = jax.jit(run)(chat._params)
    np.testing.assert_allclose(np.concatenate([first, rest[:, 0]]), logits, atol=1e-4)


def test_sampled_text_is_the_same_alone_and_among_others(chat):
    s = {"max_new_tokens": 60, "temperature": 0.9, "top_p": 0.95, "seed": 7}
    conversations = [[{"role": "user", "content": text}] for text in OPENINGS]
    together = chat.answers(conversations, **s)
    assert chat.answer(conversations[0], **s) == together[0].text
    assert together[0].text != chat.answer(conversations[0], **(s | {"seed": 8}))
