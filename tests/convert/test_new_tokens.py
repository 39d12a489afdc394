"""New special tokens: explicit ids, rows at the mean, padding that never wins, saved, reloaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxsft
from jaxsft.convert import new_tokens, pretrained
from jaxsft.convert.export import export
from jaxsft.errors import ConversionError
from jaxsft.model import state

NEW = ["<|plan|>", "<|/plan|>"]


@pytest.fixture
def model(save_llama, save_tokenizer):
    """A directory with `spare` more rows than its tokenizer has tokens."""

    def make(tied: bool, spare: int = 0):
        directory, _ = save_llama(vocab_size=320, tie_word_embeddings=tied)
        tokenizer = save_tokenizer(directory)
        rows = len(tokenizer) + spare
        directory, _ = save_llama(vocab_size=rows, tie_word_embeddings=tied)
        save_tokenizer(directory)
        return directory, tokenizer

    return make


def params_of(directory):
    return nnx.to_pure_dict(nnx.state(jaxsft.load_model(directory), nnx.Param))


def logits(base, params, ids):
    graphdef, _, _ = state.abstract(base.settings, "float32", "none")
    return np.asarray(jax.jit(lambda params: nnx.merge(graphdef, params)(ids))(params))


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_with_new_tokens_is_saved_and_reloaded(tied, model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory, tokenizer = model(tied)
    before = params_of(directory)
    plan = new_tokens.plan(directory, NEW, len(tokenizer), multiple=64)
    first = len(tokenizer)
    assert plan.ids == {NEW[0]: first, NEW[1]: first + 1}
    assert plan.rows % 64 == 0 and plan.rows > plan.num_tokens == first + 2
    base = new_tokens.extended(pretrained.open_pretrained(directory), plan)
    params = new_tokens.grow(before, plan)
    new_tokens.write_tokenizer(directory, plan, tmp_path / "tokenizer")
    out = export(params, base, tmp_path / "out", tokenizer=tmp_path / "tokenizer").directory
    after = params_of(out)
    jax.tree.map(np.testing.assert_array_equal, after, params)
    table = np.asarray(after["embedding_VD"])
    np.testing.assert_array_equal(table[:first], before["embedding_VD"])
    mean = np.asarray(before["embedding_VD"]).mean(0)
    np.testing.assert_allclose(table[first:], np.tile(mean, (len(table) - first, 1)), atol=1e-6)
    assert ("head_DV" in after) != tied
    saved = AutoTokenizer.from_pretrained(out)
    text = "a<|plan|>b<|/plan|><|im_end|>"
    assert saved(text).input_ids[1] == first and saved(text).input_ids[-2] == first + 1
    assert saved.decode(saved(text).input_ids, skip_special_tokens=True) == "ab"
    assert saved("it's 1999").input_ids == tokenizer("it's 1999").input_ids
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.config.vocab_size == plan.rows
    head, embedding = theirs.get_output_embeddings(), theirs.get_input_embeddings()
    assert (head.weight.data_ptr() == embedding.weight.data_ptr()) == tied
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (directory / name).read_bytes()


@pytest.mark.parametrize("tied", [False, True])
def test_padding_never_wins_and_old_logits_stay(tied, model):
    directory, tokenizer = model(tied)
    before = params_of(directory)
    base = pretrained.open_pretrained(directory)
    plan = new_tokens.plan(directory, NEW, len(tokenizer), multiple=128)
    ids = np.random.default_rng(0).integers(0, len(tokenizer), (4, 60)).astype(np.int32)
    old = logits(base, before, ids)
    longer = new_tokens.extended(base, plan)
    new = logits(longer, new_tokens.grow(before, plan), ids)
    np.testing.assert_allclose(new[..., : len(tokenizer)], old, rtol=0, atol=1e-4)
    assert (new[..., plan.num_tokens :].max(-1) < new[..., : plan.num_tokens].max(-1)).all()
    # Training may leave padding anywhere: at export it is settled, and a mask never lets it win.
    trained = new_tokens.grow(before, plan)
    leaf = "embedding_VD" if tied else "head_DV"
    rows = trained[leaf] if tied else trained[leaf].T
    rows = rows.at[plan.num_tokens :].multiply(50.0)
    trained |= {leaf: rows if tied else rows.T}
    wild = logits(longer, trained, ids)
    assert (wild.argmax(-1) >= plan.num_tokens).any()
    masked = new_tokens.mask_padding(jnp.asarray(wild), plan.num_tokens)
    assert (np.asarray(masked).argmax(-1) < plan.num_tokens).all()
    settled = logits(longer, new_tokens.settle_padding(trained, plan.num_tokens), ids)
    assert (settled.argmax(-1) < plan.num_tokens).all()
    np.testing.assert_array_equal(
        settled[..., : plan.num_tokens].argmax(-1), new[..., : plan.num_tokens].argmax(-1)
    )


def test_spare_rows_are_used_first(model):
    """A model with padding of its own keeps its size, and tokens don't get a row that was noise."""
    directory, tokenizer = model(True, spare=5)
    plan = new_tokens.plan(directory, NEW, len(tokenizer) + 5, multiple=64)
    assert plan.rows == len(tokenizer) + 5
    before = np.asarray(params_of(directory)["embedding_VD"])
    after = new_tokens.grow({"embedding_VD": jnp.asarray(before)}, plan)["embedding_VD"]
    mean = before[: len(tokenizer)].mean(0)
    np.testing.assert_allclose(after[len(tokenizer) :], np.tile(mean, (5, 1)), atol=1e-6)


def test_noise_tells_new_tokens_apart_but_not_padding(model):
    directory, tokenizer = model(True)
    plan = new_tokens.plan(directory, NEW, len(tokenizer), multiple=64)
    before = params_of(directory)
    table, other = (
        np.asarray(new_tokens.grow(before, plan, "normal", seed)["embedding_VD"]) for seed in (0, 1)
    )
    first = plan.first_free
    assert not np.array_equal(table[first], table[first + 1])
    assert not np.array_equal(table[first], other[first])
    spread = np.asarray(before["embedding_VD"]).std()
    assert 0.5 * spread < (table[first] - table[-1]).std() < 1.5 * spread
    assert (table[plan.num_tokens :] == table[-1]).all()


def test_a_grown_table_may_lie_on_a_mesh(model):
    from jaxsft import config, mesh

    directory, tokenizer = model(False)
    plan = new_tokens.plan(directory, NEW, len(tokenizer), multiple=8)
    params = params_of(directory)
    base = new_tokens.extended(pretrained.open_pretrained(directory), plan)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh.make_mesh(config.Mesh(fsdp=4, tensor=2)))
    host = jax.tree.map(np.asarray, params)
    grown = jax.jit(lambda p: new_tokens.grow(p, plan), out_shardings=placement)(host)
    assert grown["embedding_VD"].sharding == placement["embedding_VD"]
    for name in ("embedding_VD", "head_DV"):
        np.testing.assert_allclose(grown[name], new_tokens.grow(params, plan)[name], atol=1e-6)


def test_the_list_of_added_tokens_grows_where_there_is_one(model, tmp_path, edit_json):
    directory, tokenizer = model(True)
    edit_json(directory / "tokenizer_config.json", added_tokens_decoder={})
    plan = new_tokens.plan(directory, NEW, len(tokenizer))
    new_tokens.write_tokenizer(directory, plan, tmp_path / "t")
    text = (tmp_path / "t" / "tokenizer_config.json").read_text()
    assert f'"{plan.ids[NEW[0]]}": {{' in text and '"content": "<|/plan|>"' in text


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["<think>"], "'<think>' is a token already, id 3"),
        (["a"], "'a' is a token already"),
        (["<|x|>", "<|x|>"], r"\['<\|x\|>', '<\|x\|>'\]: each must be there once"),
        ([""], r"\[''\]: each must be"),
    ],
)
def test_tokens_that_are_there_are_refused(tokens, message, model):
    directory, tokenizer = model(True)
    with pytest.raises(ConversionError, match=message):
        new_tokens.plan(directory, tokens, len(tokenizer))
    (directory / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match="model: has no tokenizer.json to add"):
        new_tokens.plan(directory, NEW, len(tokenizer))
