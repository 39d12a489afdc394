"""The self-check passes on sound parts, for dense models and experts, and sees planted faults."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import tiny
from test_mesh_fit import EXPERTS, config

from jaxsft import selfcheck, step
from jaxsft.config import Mesh
from jaxsft.kernels import attention

WINDOWED = dataclasses.replace(
    tiny.SETTINGS,
    num_layers=6,
    layer_kinds=tuple(
        dataclasses.replace(kind, window=window)
        for kind, window in zip(
            dataclasses.replace(tiny.SETTINGS, num_layers=6).kinds(), (7, None) * 3, strict=True
        )
    ),
)


def failed(model, sizes):
    return {check.law for check in selfcheck.run(config(sizes), model) if not check.passed}


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (WINDOWED, Mesh(fsdp=2, context=2, tensor=2)),
        (EXPERTS, Mesh(fsdp=2, expert=4)),
    ],
    ids=["dense", "experts"],
)
def test_sound_parts_pass_every_law(model, sizes):
    found = list(selfcheck.run(config(sizes), model))
    assert len(found) == 6 and all(check.passed for check in found), found


def test_a_fault_of_attention_is_seen(monkeypatch):
    """One that lets a token see the row's other conversations, and one that shows it the future."""
    sound = attention.attend

    def without_segments(q, k, v, q_segments, kv_segments, *rest, **options):
        return sound(
            q, k, v, jnp.ones_like(q_segments), jnp.ones_like(kv_segments), *rest, **options
        )

    monkeypatch.setattr(attention, "attend", without_segments)
    seen = failed(tiny.SETTINGS, Mesh(fsdp=8))
    assert any("neighbours" in law for law in seen) and any("packed" in law for law in seen)

    def sees_all(q, k, v, q_segments, kv_segments, *rest, **options):
        return sound(q, k, v, q_segments, kv_segments, k.shape[1], **options)

    monkeypatch.setattr(attention, "attend", sees_all)
    assert any("later ones" in law for law in failed(tiny.SETTINGS, Mesh(fsdp=8)))


def test_a_mean_of_means_is_seen(monkeypatch):
    sound = step.gradient_sums

    def mean_of_means(recipe, params, batch):
        totals, gradients = sound(recipe, params, batch)
        if recipe.microbatches > 1:
            half = dataclasses.replace(recipe, microbatches=1)
            parts = [jax.tree.map(lambda rows, i=i: rows[i::2], batch) for i in range(2)]
            each = [sound(half, params, part) for part in parts]
            gradients = jax.tree.map(
                lambda a, b: (
                    (a / each[0][0][0].weight + b / each[1][0][0].weight) * totals[0].weight / 2
                ),
                each[0][1],
                each[1][1],
            )
        return totals, gradients

    monkeypatch.setattr(step, "gradient_sums", mean_of_means)
    seen = failed(tiny.SETTINGS, Mesh(fsdp=4))
    assert any("micro-batches" in law for law in seen)
