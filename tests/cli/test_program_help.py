"""What `jaxsft help` says of a field, and that there is something to be said of each."""

import dataclasses

import pytest

from jaxsft.cli import program_help
from jaxsft.cli.programs import by_name
from jaxsft.config import Eval, comments
from jaxsft.errors import BAD_CONFIG, ConfigError

SOURCE = '''
@dataclasses.dataclass
class Section:
    """A section.

    Attributes:
        documented: in the docstring,
            in two lines.
    """

    # Of the run as a
    # whole.
    above: int = 0
    behind: int = 1  # of a step; and more
    # Not of what follows.

    documented: str = ""
    # It is both.
    both: tuple[str, ...] = (
        "a",  # its first
    )
    nothing: int = 2
'''


@pytest.fixture
def meanings(tmp_path):
    file = tmp_path / "section.py"
    file.write_text(SOURCE)
    return comments._of_sections(str(file))["Section"]


def test_comments_above_and_behind_a_field_and_docstrings_say_what_it_means(meanings):
    assert meanings == {
        "above": "Of the run as a whole",
        "behind": "of a step; and more",
        "documented": "in the docstring, in two lines.",
        "both": "its first. It is both",
        "nothing": "",
    }


def test_a_line_has_the_first_sentence():
    assert comments.in_one_line("of a step; and more") == "of a step"
    assert comments.in_one_line("such as 0.05, e.g. here. And there.") == "such as 0.05, e.g. here"


def test_each_field_has_a_meaning():
    assert not [field.path for field in program_help.fields() if len(field.meaning) < 6]


@pytest.mark.parametrize("asked", ["eval.prompts", "config.eval.prompts", "--config.eval.prompts"])
def test_help_on_a_field_is_all_that_is_to_be_said_of_it(asked):
    said = program_help.of_fields(asked)
    meaning = comments.meaning(Eval, "prompts")
    assert (
        said.startswith("config.eval.prompts: int (default: 0)\n")
        and "--config.eval.prompts" in said
    )
    assert meaning.split()[-1] in said and "Eval(prompts=...)" in said


def test_help_on_a_section_is_a_line_for_each_of_its_fields():
    said = program_help.of_fields("mesh").splitlines()
    assert [line.split(":")[0].strip() for line in said] == [
        f"--config.mesh.{axis}" for axis in ("data", "fsdp", "context", "expert", "tensor")
    ]


def test_a_name_alone_is_found_in_each_section_that_has_it():
    assert program_help.of_fields("peak_lr").count("config.optim.peak_lr: float") == 1
    said = program_help.of_fields("batch_size")
    assert "config.train.batch_size" in said and "config.eval.batch_size" in said


def test_what_is_neither_program_nor_field_is_one_message(monkeypatch, capsys):
    with pytest.raises(ConfigError, match="did you mean 'optim.warmup_steps'"):
        program_help.refuse_unknown("warmup_step", by_name.NAMES)
    monkeypatch.setattr("sys.argv", ["jaxsft", "help", "exprot"])
    with pytest.raises(SystemExit) as ended:
        by_name.start()
    assert ended.value.code == BAD_CONFIG
    said = capsys.readouterr().err
    assert said.startswith("error: jaxsft help 'exprot'") and "did you mean 'export'" in said
    assert said.count("\n") == 1


def test_a_name_of_a_program_is_that_program(monkeypatch):
    assert {"eval", "export"} <= set(by_name.NAMES)  # `jaxsft help eval` is the program's
    assert program_help.of_fields("config.eval").count("\n") > 5


def test_fields_say_where_they_are_declared():
    field = next(one for one in program_help.fields() if one.path == "eval.prompts")
    assert field.section is Eval and field.default == "0"
    assert (
        dataclasses.replace(field, meaning="").line == "  --config.eval.prompts: int (default: 0)"
    )
