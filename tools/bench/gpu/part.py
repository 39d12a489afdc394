"""One part of the measurements on a GPU: python -m bench.gpu.part PART [ARGUMENT ...]

run.sh beside this file says which parts there are, with their arguments and limits. Each appends
lines to $OUT/results.jsonl; `table` prints them.
"""

import sys
import traceback

from bench.gpu import results


def run(part: str, arguments: list[str]) -> int:
    """The part's exit code. Each imports what it alone needs: a machine may lack torch."""
    match part:
        case "facts":
            from bench.gpu import facts

            facts.measure()
        case "attention":
            from bench.gpu import attention

            attention.measure()
        case "tiles":
            from bench.gpu import triton_tiles

            triton_tiles.measure()
        case "step":
            from bench.gpu import steps

            return steps.measure(*arguments)
        case "experts":
            from bench.gpu import experts

            experts.measure()
        case "torch":
            from bench.gpu import torch_steps

            torch_steps.measure(*arguments)
        case "torch_attention":
            from bench.gpu import torch_attention

            torch_attention.measure()
        case "e2e":
            from bench.gpu import whole_runs

            whole_runs.measure(*arguments)
        case "logits":
            from bench.gpu import whole_runs

            whole_runs.compare_logits()
        case "table":
            print(results.table())
        case _:
            print(f"no part {part!r}", file=sys.stderr)
            return 64
    return 0


def main() -> None:
    part, *arguments = sys.argv[1:] or ["table"]
    try:
        code = run(part, arguments)
    except Exception as error:
        results.put(part, error=results.said(error), trace=traceback.format_exc()[-500:])
        raise
    sys.exit(code)


if __name__ == "__main__":
    main()
