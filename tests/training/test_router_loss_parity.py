"""A mixture's loss and gradient with its routers' balance loss are those of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers
from flax import nnx

import jaxsft
from jaxsft.config import Loss
from jaxsft.training import optim, router_loss, step
from jaxsft.training.batch import Batch
from jaxsft.training.loss_settings import loss_form
from jaxsft.training.schedule import make_schedule

ROWS, LENGTH, VOCAB = 4, 12, 64


@pytest.fixture(scope="module")
def theirs():
    """With a coefficient at which the balance loss is most of the router's gradient."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=6,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        sliding_window=None,
        initializer_range=0.2,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
    )
    return transformers.MixtralForCausalLM(config).float()


@pytest.mark.parametrize("microbatches", [1, 2])
def test_loss_and_gradient_are_those_of_transformers(theirs, tmp_path, microbatches):
    theirs.save_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    theirs.zero_grad()
    tokens = torch.tensor(ids).long()
    out = theirs(input_ids=tokens, labels=tokens)
    out.loss.backward()

    model = jaxsft.load_model(tmp_path)
    graphdef, params = nnx.split(model, nnx.Param)
    losses = router_loss.router_losses(Loss(), model.settings)
    assert losses == router_loss.RouterLosses(0.5, 0.0)  # by config.json alone
    recipe = step.Recipe(
        graphdef,
        optim.make_optimizer(tiny.OPTIM),
        make_schedule(tiny.OPTIM, 9),
        microbatches,
        max_grad_norm=None,
        loss_form=loss_form(model.settings),
        routers=losses,
    )
    weights = np.ones((ROWS, LENGTH), np.float32)
    weights[:, -1] = 0
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    batch = Batch(ids, np.roll(ids, -1, axis=1), np.ones_like(ids), positions, weights)
    (sums, _), grads = jax.jit(lambda p: step.gradient_sums(recipe, p, batch))(
        jax.tree.map(jnp.asarray, nnx.to_pure_dict(params))
    )
    found = sums.objective / sums.objective_weight
    np.testing.assert_allclose(found, out.loss.item(), rtol=1e-5)
    assert out.loss.item() - sums.nll / sums.weight > 0.9  # 0.5 x about 2
    routers = [
        weight.grad.numpy().T
        for name, weight in theirs.named_parameters()
        if name.endswith("gate.weight")
    ]
    actual = grads["layers"]["moe"]["router_DE"] / sums.objective_weight
    np.testing.assert_allclose(actual, np.stack(routers), rtol=1e-3, atol=2e-6)
