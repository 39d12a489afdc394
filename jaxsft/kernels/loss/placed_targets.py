"""Where targets lie over the mesh, and a teacher's head with them.

B: batch row, T: position, U: embed_dim of the teacher.
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import PartitionSpec

from jaxsft.devices.mesh import spec
from jaxsft.kernels.loss.form import LossForm, Targets, TeacherOutputs, TeacherTargets


def head_spec(form: LossForm) -> PartitionSpec:
    """Of a head, or of the embedding that is one."""
    return spec("vocab", "embed") if form.tied else spec("embed", "vocab")


def target_specs(form: LossForm, targets: Targets) -> Targets:
    """Of all targets and what a teacher has for them."""
    rows = spec("batch", "sequence")
    specs = jax.tree.map(lambda _: rows, dataclasses.replace(targets, teacher=None))
    if isinstance(targets.teacher, TeacherTargets):
        teacher: Any = jax.tree.map(lambda _: rows, targets.teacher)
        return dataclasses.replace(specs, teacher=teacher)
    if form.distil is None or form.distil.teacher is None:
        return specs
    head = head_spec(form.distil.teacher)
    teacher = TeacherOutputs(spec("batch", "sequence", None), head)  # pyright: ignore # specs
    return dataclasses.replace(specs, teacher=teacher)


def with_whole_head(form: LossForm, targets: Targets, shared: tuple[str, ...]) -> Targets:
    """The targets with the teacher's head, of which each device holds a part of the embedding."""
    if form.distil is None or form.distil.teacher is None:
        return targets
    assert isinstance(targets.teacher, TeacherOutputs)
    embed_dim = 1 if form.distil.teacher.tied else 0
    head_x = jax.lax.all_gather(targets.teacher.head_x, shared, axis=embed_dim, tiled=True)
    return dataclasses.replace(targets, teacher=dataclasses.replace(targets.teacher, head_x=head_x))


def used(form: LossForm, targets: Targets) -> Targets:
    """The targets without what the form keeps no sums of, a teacher's head in the dtype of the
    product."""
    sources_BT = None if form.num_sources is None else targets.sources_BT
    segments_BT = None if form.num_segments is None else targets.segments_BT
    assert form.num_sources is None or sources_BT is not None, "targets without sources"
    assert form.num_segments is None or segments_BT is not None, "targets without segments"
    own_BT = targets.objective_weights_BT if form.reweighted else None
    assert not form.reweighted or own_BT is not None, "targets without weights of the objective"
    teacher = targets.teacher
    assert (form.distil is None) == (teacher is None), "a teacher without its form, or the reverse"
    if isinstance(teacher, TeacherOutputs):
        # Before devices send it to each other.
        head_x = teacher.head_x.astype(teacher.hidden_BTU.dtype)
        teacher = dataclasses.replace(teacher, head_x=head_x)
    return dataclasses.replace(
        targets,
        sources_BT=sources_BT,
        segments_BT=segments_BT,
        objective_weights_BT=own_BT,
        teacher=teacher,
    )
