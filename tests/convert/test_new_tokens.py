"""New control tokens: rows at the mean, padding that never wins, saved, reloaded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

import jaxsft
from jaxsft import config
from jaxsft.convert import new_tokenizer, new_tokens, pretrained
from jaxsft.convert.export.directory import export
from jaxsft.devices import mesh
from jaxsft.errors import ConfigError
from jaxsft.model import state

NEW = ["<|plan|>", "<|/plan|>"]
ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture
def model(save_llama, save_tokenizer):
    """A directory with `spare` more rows than its tokenizer has tokens, and their number."""

    def make(tied: bool, spare: int = 0, dtype: str = "float32"):
        directory, _ = save_llama(vocab_size=320, tie_word_embeddings=tied)
        tokens = len(save_tokenizer(directory))
        directory, _ = save_llama(vocab_size=tokens + spare, tie_word_embeddings=tied, dtype=dtype)
        save_tokenizer(directory)
        return directory, tokens

    return make


def opened(directory, new=NEW, multiple=1, initial="mean", seed=0):
    """The extended model and its parameters."""
    base = pretrained.open_pretrained(directory)
    planned = new_tokens.plan(directory, new, base.settings.vocab_size, multiple)
    base = new_tokens.extended(base, planned, initial, seed)
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    params = pretrained.read_params(base, jax.tree.map(lambda _: ONE, shapes))
    return base, params


def params_of(directory):
    return nnx.to_pure_dict(nnx.state(jaxsft.load_model(directory), nnx.Param))


def logits(base, params, ids):
    graphdef, _, _ = state.abstract(base.settings, "float32", "none")
    return np.asarray(jax.jit(lambda params: nnx.merge(graphdef, params)(ids))(params))


def wild(params, tokens):
    """Padding as training might leave it: so large that it would win everywhere."""
    tables = {"embedding_VD": params["embedding_VD"].at[tokens:].multiply(500.0)}
    if "head_DV" in params:
        tables["head_DV"] = params["head_DV"].at[:, tokens:].multiply(500.0)
    return params | tables


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_with_new_tokens_is_saved_and_reloaded(tied, model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory, first = model(tied)
    before = params_of(directory)
    base, params = opened(directory, multiple=64)
    rows, tokens = base.settings.vocab_size, base.settings.num_tokens
    assert rows % 64 == 0 and rows > tokens == first + 2
    assert base.new_ids == {first, first + 1}
    tokenizer = new_tokenizer.cached(directory, NEW, tmp_path / "cache")
    out = export(params, base, tmp_path / "out", tokenizer=tokenizer).directory
    after = params_of(out)
    table = np.asarray(after["embedding_VD"])
    np.testing.assert_array_equal(table[:first], before["embedding_VD"])
    mean = np.asarray(before["embedding_VD"]).mean(0)
    np.testing.assert_allclose(table[first:], np.tile(mean, (rows - first, 1)), atol=1e-6)
    assert ("head_DV" in after) != tied
    saved = AutoTokenizer.from_pretrained(out)
    assert saved.convert_tokens_to_ids(NEW) == [first, first + 1]
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.config.vocab_size == rows
    head, embedding = theirs.get_output_embeddings(), theirs.get_input_embeddings()
    assert (head.weight.data_ptr() == embedding.weight.data_ptr()) == tied


@pytest.mark.parametrize("tied", [False, True])
def test_growth_changes_no_logit_of_an_old_token(tied, model):
    directory, first = model(tied)
    ids = np.random.default_rng(0).integers(0, first, (4, 60)).astype(np.int32)
    old = logits(pretrained.open_pretrained(directory), params_of(directory), ids)
    base, params = opened(directory, multiple=128)
    new = logits(base, params, ids)
    np.testing.assert_allclose(new[..., :first], old, rtol=1e-6, atol=1e-6)


def test_padding_is_never_predicted(model):
    directory, first = model(tied=True)
    base, params = opened(directory, multiple=128)
    tokens = base.settings.num_tokens
    graphdef, _, _ = state.abstract(base.settings, "float32", "none")
    prompts = np.random.default_rng(0).integers(0, first, (4, 8)).tolist()
    answers = tiny.greedy(graphdef, wild(params, tokens), prompts, 6)
    assert answers == tiny.greedy(graphdef, params, prompts, 6)
    assert max(map(max, answers)) < tokens
    shown = dataclasses.replace(base.settings, num_padding=0)
    graphdef, _, _ = state.abstract(shown, "float32", "none")
    won = tiny.greedy(graphdef, wild(params, tokens), prompts, 6)
    assert max(map(max, won)) >= tokens, "the padding is not wild enough to prove anything"


@pytest.mark.parametrize("tied", [False, True])
def test_an_export_settles_padding(tied, model, tmp_path, torch_logits):
    """Transformers takes it for tokens: it must never be the likeliest."""
    from transformers import AutoModelForCausalLM

    directory, first = model(tied)
    base, params = opened(directory, multiple=128)
    tokens = base.settings.num_tokens
    trained = wild(params, tokens)
    out = export(trained, base, tmp_path / "out").directory
    ids = np.random.default_rng(0).integers(0, first, (4, 60)).astype(np.int32)
    theirs = torch_logits(AutoModelForCausalLM.from_pretrained(out).eval(), ids)
    assert theirs.shape[-1] == base.settings.vocab_size and (theirs.argmax(-1) < tokens).all()
    ours = logits(base, trained, ids)
    np.testing.assert_allclose(theirs[..., :tokens], ours[..., :tokens], rtol=0, atol=1e-4)
    assert (ours[..., tokens:] == -np.inf).all()


def test_padding_changes_neither_loss_nor_gradient():
    """Nor, over three steps, any parameter: even where its rows are huge."""
    padded = dataclasses.replace(tiny.SETTINGS, vocab_size=tiny.VOCAB + 8, num_padding=8)
    params, batch = tiny.host_params(), tiny.uneven_batch()
    grown = wild(jax.tree.map(jnp.asarray, with_columns(params, 8)), tiny.VOCAB)
    plain = tiny.run_steps(batch, params=params, num_steps=3)
    with_padding = tiny.run_steps(batch, params=grown, num_steps=3, model=padded)
    for found in ("state", "grad_sums"):
        actual, expected = getattr(with_padding, found), getattr(plain, found)
        if found == "state":
            actual, expected = actual.params, expected.params
        head = actual["head_DV"][:, tiny.VOCAB :]
        assert found == "state" or not head.any()
        cut = actual | {
            "embedding_VD": actual["embedding_VD"][: tiny.VOCAB],
            "head_DV": actual["head_DV"][:, : tiny.VOCAB],
        }
        tiny.assert_trees_close(cut, expected)
    tiny.assert_trees_close(with_padding.metrics.sums, plain.metrics.sums)


def with_columns(params, count):
    rows = np.ones((count, params["embedding_VD"].shape[1]), np.float32)
    return params | {
        "embedding_VD": np.concatenate([params["embedding_VD"], rows]),
        "head_DV": np.concatenate([params["head_DV"], rows.T], axis=1),
    }


def test_spare_rows_of_the_base_are_used_first_and_the_others_stay(model):
    """Those of the base are no padding: transformers gives them logits, and so do we."""
    directory, first = model(tied=True, spare=5)
    before = np.asarray(params_of(directory)["embedding_VD"])
    base, params = opened(directory)
    assert (base.settings.vocab_size, base.settings.num_padding) == (first + 5, 0)
    table = np.asarray(params["embedding_VD"])
    mean = before[:first].mean(0)
    np.testing.assert_allclose(table[first : first + 2], np.tile(mean, (2, 1)), atol=1e-6)
    np.testing.assert_array_equal(table[:first], before[:first])
    np.testing.assert_array_equal(table[first + 2 :], before[first + 2 :])
    padded, params = opened(directory, multiple=64)
    assert padded.settings.num_tokens == first + 5 and padded.settings.vocab_size % 64 == 0
    np.testing.assert_array_equal(params["embedding_VD"][: first + 5], table)


def test_padding_alone_needs_no_tokenizer(model):
    directory, first = model(tied=False)
    (directory / "tokenizer.json").unlink()
    base, params = opened(directory, new=[], multiple=64)
    assert base.settings.num_tokens == first and base.settings.vocab_size % 64 == 0
    assert params["head_DV"].shape[1] == base.settings.vocab_size and not base.new_ids


def test_random_weights_have_rows_for_all(model, tmp_path):
    directory, first = model(tied=False)
    base = pretrained.open_pretrained(directory, weights=False)
    planned = new_tokens.plan(directory, NEW, first, 64)
    base = new_tokens.extended(base, planned, "mean", 0)
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    params = state.random_params(base.settings, 0, jax.tree.map(lambda _: ONE, shapes))
    out = export(params, base, tmp_path / "out").directory
    table = params_of(out)["head_DV"].T
    np.testing.assert_array_equal(table[: first + 2], params["head_DV"].T[: first + 2])
    assert (
        table.shape[0] == planned.rows and len({row.tobytes() for row in table[first + 2 :]}) == 1
    )


def test_noise_tells_new_tokens_apart_but_not_padding(model):
    directory, first = model(tied=False)
    base, params = opened(directory, multiple=64, initial="normal")
    again, other = (opened(directory, NEW, 64, "normal", seed)[1] for seed in (0, 1))
    table, head = np.asarray(params["embedding_VD"]), np.asarray(params["head_DV"]).T
    np.testing.assert_array_equal(table, again["embedding_VD"])
    assert not np.array_equal(table[first], table[first + 1])
    assert not np.array_equal(table[first], other["embedding_VD"][first])
    noises = [(rows[first] - rows[-1]) / rows[:first].std(0) for rows in (table, head)]
    assert abs(np.corrcoef(*noises)[0, 1]) < 0.9
    spread = np.asarray(table[:first]).std()
    assert 0.5 * spread < (table[first] - table[-1]).std() < 1.5 * spread
    assert (table[base.settings.num_tokens :] == table[-1]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_read_straight_into_a_mesh_that_does_not_divide_those_of_the_base(dtype, model):
    directory, rows = model(tied=False, dtype=dtype)
    base, params = opened(directory, multiple=8)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    over = mesh.make_mesh(config.Mesh(fsdp=4, tensor=2))
    own = pretrained.open_pretrained(directory).settings
    with pytest.raises(ConfigError, match=f"does not divide the {rows} .*model.pad_vocab_to=2"):
        state.shardings(state.abstract(own, "float32", "none")[1], axes, over)
    placement = state.shardings(shapes, axes, over)
    split = pretrained.read_params(base, placement)
    jax.tree.map(np.testing.assert_array_equal, split, params)
    assert split["embedding_VD"].sharding == placement["embedding_VD"]
    settled = new_tokens.settle_padding(split, base.settings)
    assert settled["head_DV"].sharding == placement["head_DV"]
    whole = new_tokens.settle_padding(params, base.settings)
    tiny.assert_trees_equal(jax.device_get(settled), jax.device_get(whole))
