"""Parameters kept in bfloat16: the same computation, float32 moments, a run like any other."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from model import test_moe, test_settings
from safetensors.numpy import load_file

from jaxsft.model.state import Params
from tests.programs import tool, train
from tests.test_train import assert_same_result

BFLOAT16 = jnp.dtype("bfloat16")


def rounded(params: Params) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(BFLOAT16), params)


def widened(params: Params) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float32), params)


def random_params(model):
    """Scales and biases too: ones and zeros have no bits to lose."""
    rng = np.random.default_rng(0)
    noisy = tiny.host_params(model)
    return rounded(jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape), noisy))


@pytest.mark.parametrize(
    "model", [tiny.SETTINGS, test_settings.EVERYTHING], ids=["llama", "everything"]
)
def test_the_same_values_in_bfloat16_give_the_same_logits(model):
    kept = random_params(model)
    tokens = np.random.default_rng(1).integers(0, tiny.VOCAB, (2, 17))
    logits = [tiny.logits(params, tokens, model=model) for params in (kept, widened(kept))]
    np.testing.assert_array_equal(*logits, strict=True)


@pytest.mark.parametrize("name", test_moe.SETTINGS)
def test_the_same_experts_in_bfloat16_give_the_same_output(name):
    settings = test_moe.SETTINGS[name]
    kept, x = rounded(test_moe.random_params(settings)), test_moe.inputs()[0]
    outputs = [test_moe.apply(settings, params, x) for params in (kept, widened(kept))]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), *outputs)


def test_a_step_keeps_the_dtype_and_sums_in_float32():
    """One step is the float32 step, rounded; gradients of micro-batches are added in float32."""
    kept, batch = random_params(test_settings.EVERYTHING), tiny.uneven_batch()
    arguments = {"model": test_settings.EVERYTHING, "microbatches": 8, "num_steps": 2}
    narrow = tiny.run_steps(batch, params=kept, **arguments)
    wide = tiny.run_steps(batch, params=widened(kept), **arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.state.params)} == {BFLOAT16}
    moments = jax.tree.leaves((narrow.state.opt_state, narrow.grad_sums))
    assert {leaf.dtype for leaf in moments} == {np.dtype(np.float32), np.dtype(np.int32)}
    np.testing.assert_allclose(narrow.metrics.grad_norm, wide.metrics.grad_norm, rtol=2e-2)
    tiny.assert_trees_close(widened(narrow.state.params), wide.state.params, rtol=2**-7)


@pytest.mark.slow  # test_train does so in float32; the dtype of each part is tested above
def test_a_run_resumes_and_exports_from_any_checkpoint(tmp_path):
    flags = ("--config.model.parameter_dtype=bfloat16", "--config.eval.prompts=0")
    done = train(tmp_path / "whole", *flags)
    assert "bfloat16 parameters" in done.stdout
    assert "an update below 1/512 of its weight is lost" in done.stdout
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for made in ("checkpoints/20", "export"):
        shutil.rmtree(tmp_path / "parts" / made)
    refused = train(tmp_path / "parts", check=False)
    assert refused.returncode == 66
    message = "config.model.parameter_dtype was 'bfloat16' when this run began and is 'float32' now"
    assert message in refused.stderr
    train(tmp_path / "parts", *flags)
    assert_same_result(tmp_path / "parts", tmp_path / "whole")
    exported = tmp_path / "exported"
    done = tool("export_hf", f"--workdir={tmp_path / 'whole'}", f"--output={exported}")
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        load_file(folder / "model.safetensors") for folder in (exported, tmp_path / "whole/export")
    )
    assert {name: a.tobytes() for name, a in ours.items()} == {
        name: a.tobytes() for name, a in theirs.items()
    }
