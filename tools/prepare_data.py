"""Makes the caches of a run's data ahead of it and prints the account of every row and token.

    python tools/prepare_data.py --config=configs/x.py

Exit status 65 with file:line and reason of each bad row, when data.bad_rows does not allow them.
"""

from rich.console import Console
from rich.progress import Progress

from jaxsft import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.convert import pretrained, source
from jaxsft.data import inspect
from jaxsft.data.prepare import prepare

jaxsft_flags.define_config()


def main(config: Config) -> None:
    model = pretrained.open_pretrained(config.model.source, weights=False)
    tokenizer = str(source.tokenizer_directory(config.model.source, config.data.tokenizer))
    console = Console(highlight=False)
    for sources in (config.data.train, *((one,) for one in config.data.eval)):
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"preparing {sources[0].path}", total=None)
            cache = prepare(
                sources,
                config.data,
                tokenizer,
                progress=lambda rows, bar=bar, task=task: bar.update(task, completed=rows),
                vocab_size=model.settings.vocab_size,
            )
        inspect.print_report(cache.report, console)
        console.print(str(cache.directory), soft_wrap=True)


if __name__ == "__main__":
    jaxsft_flags.run_program(main)
