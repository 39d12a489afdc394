"""A decoder with every setting turned on keeps the laws: no mesh changes it, no segment leaks."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.model import settings, state
from jaxsft.model.settings import LayerKind, NormSettings, QkNorm, Rope
from jaxsft.training.optimizer import dotted
from jaxsft.training.treatment import decays

LOCAL = Rope(theta=50.0, share=0.5, interleaved=True)
LONG = settings.LongRopeScaling(
    short_factors=(1.0, 1.5),
    long_factors=(2.0, 5.0),
    original_max_positions=8,
    attention_factor=1.2,
)
SCALED = dataclasses.replace(LOCAL, scaling=LONG)
EVERYTHING = dataclasses.replace(
    tiny.SETTINGS,
    num_layers=3,
    rope=SCALED,
    layer_kinds=(
        LayerKind(window=5, rope=LOCAL),
        LayerKind(window=None, rope=SCALED),
        LayerKind(window=3, rope=None),
    ),
    norm=NormSettings(centered=True, bias=True, scale_plus_one=True, scale_in_float32=True),
    norms_after=True,
    qk_norm=QkNorm.WIDTH,
    **dict.fromkeys(("qkv_bias", "attention_out_bias", "mlp_bias", "attention_sinks"), True),
    **{"attention_scale": 0.4, "attention_soft_cap": 3.0, "logit_soft_cap": 4.0},
    activation=settings.Activation.GELU_TANH,
    **{"embedding_scale": 2.0, "residual_scale": 0.7, "logit_scale": 1.3},
)


@pytest.fixture(scope="module")
def params():
    """Scales and biases too are random: zeros and ones would hide that they are left out."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32),
        tiny.host_params(EVERYTHING),
    )


def test_a_mesh_changes_nothing(params):
    batch = tiny.uneven_batch(rows=8)
    one = tiny.run_steps(batch, params=params, model=EVERYTHING)
    sizes = config.Mesh(data=2, fsdp=2, tensor=2)
    many = tiny.run_steps(batch, params=params, model=EVERYTHING, sizes=sizes)
    tiny.assert_trees_close(many.grad_sums, one.grad_sums, rtol=1e-4)
    assert float(many.metrics.sums.nll) == pytest.approx(float(one.metrics.sums.nll), rel=1e-5)


def test_every_parameter_has_a_gradient(params):
    grads = tiny.run_steps(tiny.uneven_batch(rows=8), params=params, model=EVERYTHING).grad_sums
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.abs(leaf).max() > 1e-6, jax.tree_util.keystr(path)


def test_packed_segments_equal_each_one_alone(params):
    """Of lengths on both sides of the scaled rope's original length, and longer than windows."""
    lengths = (11, 6)
    tokens = np.random.default_rng(1).integers(0, tiny.VOCAB, (1, sum(lengths)))
    segments = np.repeat([[1, 2]], lengths, axis=1)
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    packed = tiny.logits(params, tokens, segments, positions, model=EVERYTHING)
    first = tiny.logits(params, tokens[:, :11], model=EVERYTHING)
    second = tiny.logits(params, tokens[:, 11:], model=EVERYTHING)
    np.testing.assert_allclose(packed[:, :11], first, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(packed[:, 11:], second, rtol=1e-5, atol=1e-5)


def test_only_matrices_are_decayed():
    shapes = state.abstract(EVERYTHING, "float32", "none")[1]
    spared = [
        path[-1].key
        for path, _ in jax.tree_util.tree_leaves_with_path(shapes)
        if not decays(dotted(path))
    ]
    assert all("bias" in name or "scale" in name for name in spared)
    assert len(spared) == 8 + 2 + 8 + 2  # biases and sinks, qk norms, a layer's norms, final norm
