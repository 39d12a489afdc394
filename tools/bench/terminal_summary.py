"""A measurement in a few lines for the terminal."""

from bench.measurement import StepMeasurement


def summary(found: StepMeasurement) -> str:
    model, seconds = found.model, found.step_seconds
    memory = found.memory.peak_bytes()
    lines = [
        f"{model.name}: {model.parameters / 1e6:,.1f}M {model.weights} parameters,"
        f" {model.batch_size} x {model.sequence_length} tokens, {model.dtype}",
        f"{found.rows}; {found.machine.devices}",
        f"step      {seconds.median:.3f} s (half of {found.steps} within"
        f" {seconds.quartile_low:.3f} to {seconds.quartile_high:.3f})",
        f"tokens/s  {found.tokens_per_second:,.0f}, supervised"
        f" {found.supervised_tokens_per_second:,.0f}",
        f"FLOP/s    {found.flops_per_second / 1e12:,.3f} T{_shares(found)}",
        f"loader    {found.loader_share:.2%} of the time",
        f"compiled  in {found.compile_seconds:.1f} s",
        *([f"memory    {memory / 2**30:.2f} GiB at most"] if memory else []),
        *(f"{what:9} {which}" for what, which in found.choices.items()),
    ]
    return "\n".join(lines + _peer(found))


def _shares(found: StepMeasurement) -> str:
    if found.mfu is None or found.hfu is None or found.peak_flops is None:
        return "; no MFU: this device's peak is not known"
    return f"; MFU {found.mfu:.1%}, HFU {found.hfu:.1%} of {found.peak_flops / 1e12:,.0f} T"


def _peer(found: StepMeasurement) -> list[str]:
    peer, ratios = found.peer, found.ratios
    if peer is None or ratios is None:
        return []
    rate = f"{peer.supervised_tokens_per_second:,.0f}"
    versions = ", ".join(f"{name} {version}" for name, version in peer.about["versions"].items())
    return [
        f"peer      {versions}: {peer.step_seconds.median:.3f} s a step, supervised"
        f" tokens/s {rate}, {peer.host_peak_bytes / 2**30:.2f} GiB at most",
        f"ratio     {ratios.of_totals:.2f} of the totals; rounds' median"
        f" {ratios.median_of_rounds:.2f} ({ratios.quartile_low:.2f} to"
        f" {ratios.quartile_high:.2f} in half of {ratios.rounds});"
        f" first loss {found.losses[0]:.4f}, theirs {peer.losses[0]:.4f}",
    ]
