"""The plan as a user reads it in a terminal, and as JSON."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxsft.plan.estimate import Estimate
from jaxsft.plan.expert_rows import ExpertRows
from jaxsft.plan.measured_data import PlannedRun
from jaxsft.plan.memory import GIB
from jaxsft.plan.topology import Topology


def as_json(estimate: Estimate, topology: Topology, run: PlannedRun) -> dict[str, Any]:
    """One object; the figures are those of one chip but for tokens and hours."""
    value = dataclasses.asdict(estimate)
    seconds = estimate.seconds
    value["step_seconds"] = value.pop("seconds")
    value["memory"] |= {"needed_bytes": estimate.memory.needed_bytes, "fits": estimate.memory.fits}
    value |= {
        "topology": topology.name,
        "num_chips": topology.num_chips,
        "bound": None if seconds is None else seconds.bound,
        "tokens_per_second": None if seconds is None else estimate.tokens / seconds.estimate,
        "num_steps": run.num_steps,
        "rows": run.where_from,
    }
    return value


def show(estimate: Estimate, topology: Topology, run: PlannedRun, terminal: Console) -> None:
    shape = ", ".join(f"{axis}={size}" for axis, size in estimate.mesh.items() if size > 1)
    terminal.print(
        f"{topology.name}: {topology.num_chips} chips, mesh {shape or 'of one device'};"
        f" {estimate.num_parameters / 1e9:.2f}B parameters;"
        f" compiled in {estimate.compile_seconds:.0f} s"
    )
    terminal.print(f"remat: {estimate.remat} ({estimate.remat_why})")
    terminal.print(f"rows: {run.where_from}")
    terminal.print(_memory(estimate))
    terminal.print(_work(estimate))
    if estimate.collectives:
        terminal.print(_communication(estimate))
    if estimate.expert_rows is not None:
        terminal.print(_experts(estimate.expert_rows))
    for line in _time(estimate, topology, run):
        terminal.print(line)


def _experts(rows: ExpertRows) -> str:
    return (
        f"experts: a chip has room for all {rows.buffer:,} pairs of token and expert that a"
        f" micro-batch may bring it, as none is ever dropped; {rows.used:,.0f}"
        f" ({rows.used_share:.0%}) are its experts' own if the router is even, and only these are"
        " multiplied"
    )


def _memory(estimate: Estimate) -> Table:
    memory, state = estimate.memory, estimate.state_bytes
    table = Table("memory of a chip", "GiB", title_justify="left")
    taught = {"teacher": state["teacher"]} if "teacher" in state else {}
    held = state["parameters"] + state["optimizer"] + sum(taught.values())
    rest = memory.arguments_bytes - held
    rows = {
        "parameters": state["parameters"],
        "optimizer state": state["optimizer"],
        **taught,
        "batch and counters": max(rest, 0.0),
        "temporaries: gradients": min(state["gradients"], memory.temporaries_bytes),
        "temporaries: activations and the rest": max(
            memory.temporaries_bytes - state["gradients"], 0.0
        ),
        "output that replaces nothing": memory.output_bytes - memory.donated_bytes,
        "counted but not held at one time": memory.needed_bytes - memory.sum_bytes,
        "in all": memory.needed_bytes,
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / GIB:.2f}")
    if memory.limit_bytes is not None:
        left = memory.limit_bytes - memory.needed_bytes
        verdict = "fits, and leaves" if memory.fits else "does NOT fit: too much by"
        table.add_row("a program may use", f"{memory.limit_bytes / GIB:.2f}")
        table.add_row(verdict, f"{abs(left) / GIB:.2f}")
    return table


def _work(estimate: Estimate) -> Table:
    table = Table("work of a chip in a step", "", "seconds at its peak")
    seconds = estimate.seconds

    def shown(name: str) -> str:
        return "" if seconds is None else f"{getattr(seconds, name):.4f}"

    table.add_row("model FLOPs", f"{estimate.flops / 1e12:.2f} TFLOP", "")
    table.add_row("matrix products", f"{estimate.matmul_flops / 1e12:.2f} TFLOP", shown("matmuls"))
    table.add_row("memory traffic", f"{estimate.bytes_moved / 1e9:.1f} GB", shown("memory"))
    sent = sum(one.bytes for one in estimate.collectives)
    table.add_row("communication", f"{sent / 1e9:.2f} GB", shown("communication"))
    return table


def _communication(estimate: Estimate) -> Table:
    table = Table("communication", "mesh axis", "operations", "GB sent", "seconds at its peak")
    for one in estimate.collectives:
        seconds = "" if one.seconds is None else f"{one.seconds:.4f}"
        table.add_row(one.kind, one.axis, f"{one.count:.0f}", f"{one.bytes / 1e9:.3f}", seconds)
    return table


def _time(estimate: Estimate, topology: Topology, run: PlannedRun) -> list[str]:
    seconds = estimate.seconds
    if seconds is None:
        return ["no estimate of time: the rates of this device are not known"]
    lines = [
        f"estimate: {seconds.estimate:.3f} s a step, {estimate.tokens / seconds.estimate:,.0f}"
        f" tokens/s, MFU {estimate.mfu:.0%}; bound by {seconds.bound}"
    ]
    if run.num_steps is not None:
        hours = run.num_steps * seconds.estimate / 3600
        lines.append(
            f"the run: {run.num_steps:,} steps, {hours:.2f} hours,"
            f" {hours * topology.num_chips:.1f} chip-hours, without evaluations and saves"
        )
    return lines
