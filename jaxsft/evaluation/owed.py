"""The evaluation that a stop came before: the next start makes it, and nothing is missing."""

from jaxsft.devices import distributed
from jaxsft.evaluation.measurer import Measurer
from jaxsft.model.state import Params
from jaxsft.rundir.run_files import Outputs
from jaxsft.rundir.step_figures import is_of_steps


def measure(step: int, params: Params, out: Outputs, measurer: Measurer) -> None:
    """Evaluates the parameters after a step at which that is due, unless an earlier start did."""
    if distributed.of_first(lambda: _is_there(step, out)):
        return
    values = measurer.on_the_way(lambda: False, params, step)
    assert values is not None
    out.metrics.append({"step": step} | values)
    if measurer.watch is not None:
        measurer.watch.add(step, values)


def _is_there(step: int, out: Outputs) -> bool:
    lines = (line for line in out.metrics.history.read() if line["step"] == step)
    return any(not is_of_steps(line) for line in lines)
