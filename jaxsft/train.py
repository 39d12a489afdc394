"""Fine-tunes a pretrained model on conversations, from prepared data to an exported model.

    python -m jaxsft.train --config=configs/quickstart.py --workdir=runs/quickstart

Started again with the same flags, it goes on from its last checkpoint.
"""

import json
import shlex
import sys
import traceback
from pathlib import Path

from absl import flags

from jaxsft import errors, xla_flags
from jaxsft import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.redact import redacted, redacted_values
from jaxsft.workdir import ERROR, Workdir, opened

jaxsft_flags.define_config()
flags.DEFINE_string(
    "workdir",
    None,
    "directory of this run, local or gs://; started again, the run goes on there",
)
jaxsft_flags.define_peers()
_XLA_FLAGS = flags.DEFINE_enum(
    "xla_flags",
    "tuned",
    ["tuned", "none"],
    "tuned: those of jaxsft/xla_flags.py for this platform; the environment's always stay",
)


def main(config: Config) -> None:
    with opened(flags.FLAGS.workdir) as workdir:
        _run(config, workdir)


def _run(config: Config, workdir: Workdir) -> None:
    workdir.forget_error()
    chosen = xla_flags.apply(xla_flags.platform_here()) if _XLA_FLAGS.value == "tuned" else []
    # jax, flax and transformers take seconds to import: not before the command line is known good.
    from jaxsft import distributed
    from jaxsft.run import run

    distributed.connect(
        *jaxsft_flags.peers(), lambda line: print(line, file=sys.stderr, flush=True)
    )
    command = ["python", "-m", "jaxsft.train", *sys.argv[1:]]
    try:
        run(config, workdir, shlex.join(command), chosen)
    except errors.Stopped:
        raise
    except Exception as error:
        _write_error(workdir.files / ERROR, error)
        try:
            workdir.copy()
        except errors.CheckpointError as failed:  # the bucket may be what failed in the first place
            print(f"error: {redacted(str(failed))}", file=sys.stderr)
        raise


def _write_error(path: Path, error: Exception) -> None:
    code = error.exit_code if isinstance(error, errors.UserError) else errors.INTERNAL
    value = {
        "exit_code": code,
        "kind": type(error).__name__,
        "message": str(error),
        "traceback": traceback.format_exc(),
    }
    path.write_text(json.dumps(redacted_values(value), indent=2) + "\n")


if __name__ == "__main__":
    jaxsft_flags.run_program(main, required=("workdir",))
