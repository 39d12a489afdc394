"""Shows the tokens of a run's training data with their weights, as trained.

python tools/inspect_data.py --config=configs/x.py [--limit=20] [--format=jsonl] [--output=F]
"""

import contextlib
import sys

from absl import flags
from rich.console import Console

from jaxsft import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.convert import pretrained, source
from jaxsft.data import inspect
from jaxsft.data.tokenize import ChatTokenizer

jaxsft_flags.define_config()
_LIMIT = flags.DEFINE_integer("limit", None, "Rows shown; all when not set.", lower_bound=1)
_FORMAT = flags.DEFINE_enum("format", "terminal", ["terminal", "jsonl"], "Form of the output.")
_OUTPUT = flags.DEFINE_string("output", None, "File written instead of standard output.")


def main(config: Config) -> None:
    model = pretrained.open_pretrained(config.model.source, weights=False)
    directory = source.tokenizer_directory(config.model.source, config.data.tokenizer)
    tokenizer = ChatTokenizer(str(directory), config.data.template)
    rows = inspect.training_outcomes(
        config.data, tokenizer, model.settings.vocab_size, _LIMIT.value
    )
    with contextlib.ExitStack() as stack:
        output = sys.stdout
        if _OUTPUT.value is not None:
            output = stack.enter_context(open(_OUTPUT.value, "w", encoding="utf-8"))
        if _FORMAT.value == "jsonl":
            inspect.write_jsonl(rows, tokenizer, output)
        else:
            inspect.show(rows, tokenizer, Console(file=output, highlight=False, soft_wrap=True))


if __name__ == "__main__":
    jaxsft_flags.run_program(main)
