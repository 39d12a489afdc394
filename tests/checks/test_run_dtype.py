"""The self-check measures a run's own attention in the run's dtype, and sees its faults."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import tiny

from jaxsft.checks import bench, laws
from jaxsft.config import Mesh
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.kernels.attention import attend, blocked, choose
from jaxsft.kernels.attention.form import Visibility
from jaxsft.training import mesh_program
from tests.training.test_mesh_fit import config


@pytest.fixture(scope="module")
def in_float32():
    """The bench of a run in bfloat16 whose attention is `blocked`, and its gradient in float32."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(choose, "_SHORT_ROW", 16)  # rows of the tests are as long as real ones
        made = bench.make_bench(config(Mesh(fsdp=8)), tiny.SETTINGS)
    assert made.run_back_ends == ("blocked",) and made.run_dtype == "bfloat16"
    with jax.default_matmul_precision("highest"):
        return made, laws._gradients(made, made.rows, mesh_lib.single_device_mesh(), 1)


def test_sound_attention_passes_in_the_dtype_of_the_run(in_float32):
    made, exact = in_float32
    found = list(laws.in_run_dtype(made.as_run("blocked"), exact))
    assert [check.law.split()[0] for check in found] == ["attention", "mesh", "packed"]
    assert all(check.passed for check in found), found
    assert {check.ran_with for check in found} == {"bfloat16, blocked, save_projections"}
    assert all(2**-6 <= check.allowed < 0.2 for check in found)  # a fault is greater


def test_a_fault_of_its_backward_pass_in_bfloat16_alone_is_seen(in_float32, monkeypatch):
    """The gradient goes to the row's other conversations, and is doubled where rows are shared out;

    forward all is right.
    """
    made, exact = in_float32
    num_rows = len(made.rows["tokens_BT"])

    def wrong(q, kv, visibility, form):
        out = blocked.attend(q, kv, visibility, form)
        if q.dtype != jnp.bfloat16:
            return out
        ones_BT = jnp.ones_like(visibility.q_segments_BT)
        seen = Visibility(ones_BT, ones_BT, visibility.first_query)
        back = blocked.attend(q, kv, seen, form) * (2 if len(q) < num_rows else 1)
        return jax.lax.stop_gradient(out) + (back - jax.lax.stop_gradient(back))

    monkeypatch.setitem(attend.BACK_ENDS, "blocked", wrong)
    found = list(laws.in_run_dtype(made.as_run("blocked"), exact))
    assert [check.passed for check in found] == [False] * 3, found


def test_no_number_is_no_pass(in_float32, monkeypatch):
    made, exact = in_float32
    nowhere = jax.tree.map(lambda leaf: leaf * jnp.nan, exact)
    monkeypatch.setattr(laws, "_gradients", lambda given, rows, *_: nowhere)
    assert not any(check.passed for check in laws.in_run_dtype(made.as_run("blocked"), exact))


def test_each_back_end_that_the_data_may_ask_for_is_measured(monkeypatch):
    """As on a GPU: another one for few segments, and one that is for bfloat16 alone."""
    sound = mesh_program.choose_back_ends

    def choose_back_ends(asked, decoder, mesh, max_segments=None):
        attention = asked.model.attention
        if attention == "blocked" and asked.model.dtype == "float32":
            raise ConfigError("config.model.attention=blocked: can't do dtype float32")
        if attention == "auto" and asked.model.dtype == "bfloat16":
            attention = "xla" if max_segments else "blocked"
        model = dataclasses.replace(asked.model, attention=attention)
        return sound(dataclasses.replace(asked, model=model), decoder, mesh, max_segments)

    monkeypatch.setattr(mesh_program, "choose_back_ends", choose_back_ends)
    asked = config(Mesh(fsdp=8))
    assert bench.make_bench(asked, tiny.SETTINGS).run_back_ends == ("blocked", "xla")
    named = dataclasses.replace(asked.model, attention="blocked")
    made = bench.make_bench(dataclasses.replace(asked, model=named), tiny.SETTINGS)
    assert made.run_back_ends == ("blocked",)
    assert made.ran_with == "float32, xla, save_projections"


@pytest.mark.parametrize(("context", "length"), [(1, 1024), (8, 1024), (16, 2048)])
def test_a_device_has_as_many_queries_as_a_kernel_needs(monkeypatch, context, length):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1] * context)
    asked = config(Mesh(context=context))
    data = dataclasses.replace(asked.data, sequence_length=4096)
    small, _ = bench._small(dataclasses.replace(asked, data=data), tiny.SETTINGS)
    assert small.data.sequence_length == length
