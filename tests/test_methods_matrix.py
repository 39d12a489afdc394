"""Every method through the programs: its laws on a mesh, a run that stops and goes on, its export.

selfcheck holds the method to micro-batches, mesh, packing and restart; docs/methods.md names them.
"""

import adapted
import numpy as np
import pytest
from adapted import logits
from safetensors.numpy import load_file

from tests.programs import tool, train

LORA = ("lora.rank=4", "optim.peak_lr=1e-2")
METHODS = {
    "adamw": (),
    "adamw_8bit": ("optim.name=adamw_8bit",),
    "adafactor": ("optim.name=adafactor",),
    "lion": ("optim.name=lion", "optim.peak_lr=3e-4"),
    "muon": ("optim.name=muon",),
    "sgd": ("optim.name=sgd", "optim.peak_lr=0.5"),
    "last_layers": ("optim.last_layers=1", "optim.layer_decay=0.9"),
    "ema": ("optim.ema_decay=0.9",),
    "losses": ("loss.reduction=example_mean", "loss.label_smoothing=0.1", "loss.z_loss=1e-3"),
    "dft": ("loss.kind=dft",),
    "neftune": ("loss.neftune_alpha=5",),
    "lora_plus": (*LORA, "lora.rslora=True", "lora.lr_ratio=4", 'lora.train_whole=["norms"]'),
    "dora": (*LORA, "lora.dora=True"),
    "dropout": (*LORA, "lora.dropout=0.2"),
    "pissa": (*LORA, "lora.init=pissa"),
    "nf4": (*LORA, "model.frozen_dtype=nf4"),
    "int8": (*LORA, "model.frozen_dtype=int8", "loss.neftune_alpha=5"),
    "distil": ("distil.teacher=TEACHER", "distil.top_k=20", "distil.dtype=nf4"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model, and beside it another that teaches."""
    directory = tmp_path_factory.mktemp("methods")
    adapted.debug_base(directory / "teacher", seed=1)
    return adapted.debug_base(directory / "base")


def flags_of(base, method, **more):
    fixed = ["model.weights=pretrained", f"model.source={base}", "eval.prompts=0"]
    # A schedule that a longer run goes on with; and no evaluation, which each run would compile.
    fixed += ["optim.schedule=constant", "data.eval=[]"]
    named = (one.replace("TEACHER", str(base.parent / "teacher")) for one in METHODS[method])
    given = [*fixed, *named, *(f"{k.replace('__', '.')}={v}" for k, v in more.items())]
    return [f"--config.{one}" for one in given]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nf4", "distil"])
def test_its_gradient_is_the_same_by_every_way(method, base):
    """Of micro-batches, meshes and packed rows; each of these methods changes the gradient."""
    start = ("--config=configs/debug.py", "--num_processes=1")
    done = tool("selfcheck", *start, *flags_of(base, method))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_its_run_goes_on_to_the_same_bits_and_is_exported(method, base, tmp_path):
    mesh = {"mesh__fsdp": 4, "mesh__tensor": 2, "train__microbatches": 2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, *flags_of(base, method, train__steps=4, **mesh))
    train(parts, *flags_of(base, method, train__steps=2, checkpoint__export=False, **mesh))
    train(parts, *flags_of(base, method, train__steps=4, **mesh))
    name = "adapter_model" if any("lora" in one for one in METHODS[method]) else "model"
    one, other = (load_file(where / "export" / f"{name}.safetensors") for where in (whole, parts))
    assert one.keys() == other.keys()
    for tensor, array in one.items():
        np.testing.assert_array_equal(array, other[tensor], err_msg=tensor)
    found = logits(whole / "export")
    assert np.isfinite(found).all() and np.abs(found - logits(base)).max() > 1e-3
