"""Tries chat templates on conversations of every shape against transformers, for docs/templates.md.

    python tools/check_templates.py --templates=DIR[,DIR...] --tokenizer=DIR[,DIR...]
        [--output=docs/templates.md]

Each .jinja file of the template directories is tried over the first tokenizer, to which its control
tokens are added; each tokenizer is tried with its own template. A file SOURCE.txt beside templates
says in one line where they come from.
"""

import datetime
import importlib.metadata
import platform
from pathlib import Path

from absl import flags
from pages import template_check, template_page

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.errors import ConfigError

_TEMPLATES = flags.DEFINE_list("templates", [], "Directories of .jinja files.")
_TOKENIZER = flags.DEFINE_list("tokenizer", None, "Directories of tokenizers.")
_OUTPUT = flags.DEFINE_string("output", None, "File written instead of standard output.")


def main() -> int:
    tokenizers = [_directory("tokenizer", path) for path in _TOKENIZER.value]
    own = [template_check.check_tokenizer(path.name, str(path)) for path in tokenizers]
    sections = [("Tokenizers with their own templates", own)]
    for path in _TEMPLATES.value:
        directory = _directory("templates", path)
        sections.append((_origin(directory), _check_all(directory, str(tokenizers[0]))))
    lines = [*template_page.introduction(_versions(), [o for _, some in sections for o in some])]
    for title, outcomes in sections:
        lines += ["", f"## {title}", "", *template_page.markdown(outcomes)]
    text = "\n".join(lines) + "\n"
    if _OUTPUT.value is None:
        print(text, end="")
    else:
        Path(_OUTPUT.value).write_text(text, encoding="utf-8")
    return int(any(outcome.failed or outcome.injected for _, some in sections for outcome in some))


def _check_all(directory: Path, tokenizer: str) -> list[template_check.TemplateOutcome]:
    outcomes = []
    for file in sorted(directory.glob("*.jinja")):
        source = file.read_text(encoding="utf-8")
        outcome = template_check.check_template(file.stem, source, tokenizer)
        stock = file.with_name(file.name.replace("_training.jinja", ".jinja"))
        if stock != file and stock.is_file():
            other = template_check.twin_difference(stock.read_text(encoding="utf-8"), source)
            same = f"renders otherwise than {stock.stem}: {', '.join(other)}"
            outcome.note(same if other else f"renders as {stock.stem}")
        outcomes.append(outcome)
    return outcomes


def _directory(flag: str, path: str) -> Path:
    if not Path(path).is_dir():
        raise ConfigError(f"--{flag}={path}: no such directory")
    return Path(path)


def _origin(directory: Path) -> str:
    source = directory / "SOURCE.txt"
    if source.is_file():
        return source.read_text(encoding="utf-8").splitlines()[0]
    package = directory.parent.name
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return directory.name
    return f"{package} {version} (package), {package}/{directory.name}"


def _versions() -> str:
    packages = ("transformers", "jinja2", "tokenizers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{datetime.date.today()}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    jaxsft_flags.run_tool(main, required=("tokenizer",))
