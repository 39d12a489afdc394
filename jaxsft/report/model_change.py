"""What training changed in the model: its weights, the rows of tokens, its adapters."""

import dataclasses
from collections.abc import Callable, Sequence

from flax import nnx

from jaxsft.config import Config
from jaxsft.convert.pretrained import Pretrained
from jaxsft.model import adapter, adapter_plan
from jaxsft.model.state import Params
from jaxsft.report import adapter_change, token_rows, weight_change
from jaxsft.report.adapter_change import AdapterChange
from jaxsft.report.token_rows import TableChange
from jaxsft.report.weight_change import LeafChange
from jaxsft.training import first_state
from jaxsft.training.mesh_program import MeshProgram


@dataclasses.dataclass(frozen=True)
class ModelChange:
    weights: Sequence[LeafChange] = ()
    tables: Sequence[TableChange] = ()
    adapters: Sequence[AdapterChange] = ()


def of_run(
    config: Config,
    base: Pretrained,
    program: MeshProgram,
    params: Params,
    token_text: Callable[[int], str],
) -> ModelChange:
    """The change of a run's parameters since the model that config.model.source names.

    Where the model's own weights are trained they are read once more, which takes their room beside
    `params`.

    Args:
        token_text: of the token with a number.
    """
    result, s = adapter.together(params), base.settings
    before = own = adapter_plan.without_adapters(params)
    names = map(".".join, nnx.traversals.flatten_mapping(own))
    if program.adapters is None or not program.recipe.frozen.issuperset(names):
        placement, shapes = (
            adapter_plan.without_adapters(tree.params)
            for tree in (program.placement, program.shapes)
        )
        before = first_state.base_params(config, base, placement, shapes)

    def text(token: int) -> str:
        return token_text(token) if token < s.num_tokens else "padding"

    by_path = weight_change.by_path(before, result, s)
    return ModelChange(
        weight_change.in_order(by_path),
        token_rows.measured(before, result, text, base.new_ids),
        adapter_change.measured(result, by_path),
    )
