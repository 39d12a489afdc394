"""A teacher's part in what is minimised, against autodiff of its definition; its laws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.form import (
    DistilForm,
    LossForm,
    Targets,
    TeacherOutputs,
    TeacherTargets,
)
from tests.kernels.loss.test_cross_entropy import inputs

VOCAB, COMPARED, COLUMNS = 40, 37, 64  # tokens that the student has, that both have; columns
KINDS = [
    {"alpha": 0.3, "temperature": 2.0},
    {"alpha": 0.3, "temperature": 2.0, "top_k": 5},
    {"alpha": 0.0, "top_k": 1},
    {"alpha": 0.6, "temperature": 0.5, "top_k": COMPARED},
]


def form_of(tied=False, compared=COMPARED, columns=VOCAB, **distil):
    head = LossForm(vocab_size=compared, soft_cap=3.0, tied=not tied)
    one = LossForm(vocab_size=columns, soft_cap=4.0, tied=tied, label_smoothing=0.1, z_loss=0.01)
    return dataclasses.replace(one, distil=DistilForm(vocab_size=compared, teacher=head, **distil))


def arrays_of(batch=2, length=256, tied=False):
    """Student and teacher, whose width is another and whose head lies the other way round."""
    hidden, head, targets, weights = inputs(batch, length, 16, COLUMNS, COMPARED, 0.6)
    theirs, their_head, *_ = inputs(batch, length, 24, COLUMNS, COMPARED, 0.6, seed=1)
    head, their_head = (head.T, their_head) if tied else (head, their_head.T)
    return hidden, head, Targets(targets, weights, teacher=TeacherOutputs(theirs, their_head))


def logits_of(hidden, head, form):
    head = head.T if form.tied else head
    return form.soft_cap * jnp.tanh(jnp.einsum("BTD,DV->BTV", hidden, head) / form.soft_cap)


def kl_of(hidden, head, targets, form):
    """Of each token with all logits in memory, by log_softmax and sorting."""
    distil, teacher = form.distil, targets.teacher
    compared, temperature = distil.vocab_size, distil.temperature
    ours = logits_of(hidden, head, form)[..., :compared] / temperature
    theirs = logits_of(teacher.hidden_BTU, teacher.head_x, distil.teacher)[..., :compared]
    log_q, log_p = jax.nn.log_softmax(ours), jax.nn.log_softmax(theirs / temperature)
    if distil.top_k is not None and distil.top_k < compared:
        order = jnp.argsort(-log_p, axis=-1)
        log_q, log_p = (jnp.take_along_axis(log, order, axis=-1) for log in (log_q, log_p))

        def with_rest(log):
            rest = jax.nn.logsumexp(log[..., distil.top_k :], axis=-1, keepdims=True)
            return jnp.concatenate([log[..., : distil.top_k], rest], axis=-1)

        log_q, log_p = with_rest(log_q), with_rest(log_p)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def defined(hidden, head, targets, form):
    plain = dataclasses.replace(form, distil=None)
    without = cross_entropy(hidden, head, dataclasses.replace(targets, teacher=None), plain)[0]
    share, temperature = 1 - form.distil.alpha, form.distil.temperature
    kl = jnp.sum(targets.weights_BT * kl_of(hidden, head, targets, form))
    return form.distil.alpha * without.objective + share * temperature**2 * kl, kl


def gradients(hidden, head, targets, form):
    def minimised(hidden, head):
        sums = cross_entropy(hidden, head, targets, form)[0]
        return 3.0 * sums.objective, sums

    return jax.jit(jax.grad(minimised, (0, 1), has_aux=True))(hidden, head)


def assert_close(actual, expected):
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=3e-6 * np.abs(want).max())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_objective_and_gradients_are_those_of_the_definition(kind):
    hidden, head, targets = arrays_of()
    form = form_of(**kind)
    actual, sums = gradients(hidden, head, targets, form)
    value, kl = defined(hidden, head, targets, form)
    np.testing.assert_allclose(sums.objective, value, rtol=1e-5)
    np.testing.assert_allclose(sums.kl, kl, rtol=1e-5)
    np.testing.assert_allclose(sums.objective_weight, targets.weights_BT.sum(), rtol=1e-6)
    assert_close(
        actual,
        jax.grad(lambda *two: 3.0 * defined(*two, targets, form)[0], (0, 1))(hidden, head),
    )


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
@pytest.mark.parametrize(
    ("sizes", "tied"),
    [
        (config.Mesh(fsdp=8), True),
        (config.Mesh(fsdp=2, tensor=4), False),  # the last part of the vocabulary is all padding
        (config.Mesh(data=1, fsdp=2, context=2, tensor=2), True),
    ],
    ids=str,
)
def test_a_mesh_changes_nothing(sizes, tied, kind):
    hidden, head, targets = arrays_of(8, 64, tied)
    targets = dataclasses.replace(targets, weights_BT=targets.weights_BT.at[0].set(0))
    form, over = form_of(tied, **kind), mesh.make_mesh(sizes)
    with jax.set_mesh(over):
        rows, dims = mesh.sharding(over, "batch", "sequence"), mesh.sharding(over, "batch", None)
        heads = {True: ("vocab", "embed"), False: ("embed", "vocab")}
        places = Targets(
            rows, rows, teacher=TeacherOutputs(dims, mesh.sharding(over, *heads[not tied]))
        )
        placed = jax.device_put(targets, places)
        two = jax.device_put((hidden, head), (dims, mesh.sharding(over, *heads[tied])))
        actual, sums = jax.device_get(gradients(*two, placed, form))
    expected, alone = gradients(hidden, head, targets, form)
    assert_close(actual, expected)
    for field in ("objective", "kl", "nll"):
        np.testing.assert_allclose(getattr(sums, field), getattr(alone, field), rtol=1e-5)


@pytest.mark.parametrize("top_k", [None, 3, VOCAB])
def test_a_teacher_that_is_the_student_has_nothing_to_say(top_k):
    hidden, head, targets = arrays_of()
    teacher = LossForm(vocab_size=VOCAB, soft_cap=4.0)
    form = LossForm(
        vocab_size=VOCAB,
        soft_cap=4.0,
        distil=DistilForm(
            vocab_size=VOCAB, teacher=teacher, alpha=0.0, temperature=2.0, top_k=top_k
        ),
    )
    targets = dataclasses.replace(targets, teacher=TeacherOutputs(hidden, head))
    by_teacher, sums = gradients(hidden, head, targets, form)
    other = dataclasses.replace(targets, teacher=TeacherOutputs(hidden[:, ::-1], head))
    by_another, _ = gradients(hidden, head, other, form)
    assert abs(sums.kl) < 1e-5 * sums.weight
    for none, some in zip(by_teacher, by_another, strict=True):
        assert np.abs(none).max() < 1e-6 * np.abs(some).max()


def test_as_many_likeliest_as_there_are_tokens_are_all():
    hidden, head, targets = arrays_of()
    (all_of_them, sums), (whole, alike), (few, _) = (
        gradients(hidden, head, targets, form_of(alpha=0.2, temperature=1.5, top_k=top_k))
        for top_k in (COMPARED, None, COMPARED // 2)
    )
    np.testing.assert_allclose(sums.kl, alike.kl, rtol=1e-6)
    for got, want, other in zip(all_of_them, whole, few, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())
        assert np.abs(other - want).max() > 1e-3 * np.abs(want).max()


def said(targets, form, top_k):
    """What a teacher has for each target, as rows say it; X is more than some places need."""
    logits = logits_of(targets.teacher.hidden_BTU, targets.teacher.head_x, form.distil.teacher)
    logprobs, ids = jax.lax.top_k(jax.nn.log_softmax(logits[..., :COMPARED]), top_k)
    spare = [(0, 0), (0, 0), (0, 2)]
    ids, logprobs = jnp.pad(ids, spare, constant_values=-1), jnp.pad(logprobs, spare)
    return dataclasses.replace(targets, teacher=TeacherTargets(ids.astype(jnp.int32), logprobs))


@pytest.mark.parametrize("top_k", [5, COMPARED])
@pytest.mark.parametrize("sizes", [None, config.Mesh(fsdp=2, tensor=4)], ids=str)
def test_what_rows_say_is_what_the_teacher_would(top_k, sizes):
    """With all of its tokens too, which are the whole divergence."""
    hidden, head, targets = arrays_of(8, 64)
    form = form_of(alpha=0.3, top_k=top_k if top_k < COMPARED else None)
    expected, alone = gradients(hidden, head, targets, form)
    stored = said(targets, form, top_k)
    form = dataclasses.replace(form, distil=dataclasses.replace(form.distil, teacher=None))
    if sizes is None:
        actual, sums = gradients(hidden, head, stored, form)
    else:
        over = mesh.make_mesh(sizes)
        with jax.set_mesh(over):
            actual, sums = jax.device_get(gradients(hidden, head, stored, form))
    np.testing.assert_allclose(sums.kl, alone.kl, rtol=1e-5)
    np.testing.assert_allclose(sums.objective, alone.objective, rtol=1e-5)
    assert_close(actual, expected)


def test_nothing_overflows_where_a_model_is_sure():
    """Logits of 1e4: probabilities of 0 and 1, in the rest too."""
    hidden, head, targets = arrays_of(1, 128)
    targets = dataclasses.replace(
        targets, teacher=TeacherOutputs(1e4 * targets.teacher.hidden_BTU, targets.teacher.head_x)
    )
    for top_k in (None, 2):
        form = form_of(alpha=0.1, top_k=top_k)
        uncapped = dataclasses.replace(form.distil.teacher, soft_cap=None)
        distil = dataclasses.replace(form.distil, teacher=uncapped)
        form = dataclasses.replace(form, soft_cap=None, distil=distil, z_loss=0.0)
        found, sums = gradients(1e4 * hidden, head, targets, form)
        assert all(np.isfinite(leaf).all() for leaf in (*found, sums.kl, sums.objective))


def test_no_array_of_all_logits_is_held():
    """Of neither model."""
    hidden, head, targets, weights = inputs(2, 1024, 8, 512, 512, 1.0)
    theirs, their_head, *_ = inputs(2, 1024, 12, 512, 512, 1.0)
    form = form_of(compared=512, columns=512, alpha=0.5, top_k=8)
    form = dataclasses.replace(
        form, distil=dataclasses.replace(form.distil, teacher=LossForm(vocab_size=512))
    )
    arrays = Targets(targets, weights, teacher=TeacherOutputs(theirs, their_head))

    def objective(hidden, head):
        return cross_entropy(hidden, head, arrays, form)[0].objective

    text = str(jax.make_jaxpr(jax.grad(objective, (0, 1)))(hidden, head))
    assert "f32[256,512]" in text and "f32[2048,512]" not in text and "[2,1024,512]" not in text


def test_a_teacher_comes_with_its_form():
    hidden, head, targets = arrays_of(1, 128)
    with pytest.raises(AssertionError, match="a teacher without its form"):
        cross_entropy(hidden, head, targets, LossForm(vocab_size=VOCAB))
    with pytest.raises(AssertionError, match="a teacher without its form"):
        without = dataclasses.replace(targets, teacher=None)
        cross_entropy(hidden, head, without, form_of(alpha=0.5))
