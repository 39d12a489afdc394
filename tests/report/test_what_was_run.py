"""The config beside the file that it came from: what the command changed, and what the run."""

import dataclasses

from jaxsft.config import Config, Data, Lora, Model, Optim, Source, Train, to_dict
from jaxsft.data.report.data_report import DataReport
from jaxsft.report.page import again
from jaxsft.report.page.write import page_of
from jaxsft.report.run_read import read_run
from jaxsft.rundir.run_files import Command, write_inputs

BASE = Config(
    model=Model(source="m"),
    data=Data(train=(Source(path="a.jsonl"), Source(path="b.jsonl")), sequence_length=8),
    optim=Optim(peak_lr=1e-3),
    train=Train(batch_size=2, steps=3),
)
LINE = "python -m jaxsft.train --config=configs/mine.py --config.optim.peak_lr=0.01"


def written(directory, config, line=LINE, base: Config | None = BASE):
    write_inputs(config, DataReport(), directory, Command(line, "configs/mine.py", base))
    return read_run(directory)


def changed(**sections) -> Config:
    return dataclasses.replace(BASE, **sections)


def test_what_the_command_changed_and_what_the_run_did(tmp_path):
    data = dataclasses.replace(BASE.data, template_date="2026-01-31")
    run = written(tmp_path, changed(data=data, optim=Optim(peak_lr=0.01)))
    assert again.from_base(run) == [
        ("data.template_date", "2026-01-31", "null", "set by the run"),
        ("optim.peak_lr", "0.01", "0.001", "command line"),
    ]
    page = page_of(run)
    assert "Config: what is not as in configs/mine.py" in page and LINE.split()[2] in page


def test_a_section_that_the_command_switched_on_has_the_fields_that_say_something(tmp_path):
    line = f"{LINE} --config.lora.rank=3"
    rows = again.from_base(written(tmp_path, changed(lora=Lora(rank=3)), line))
    assert [row for row in rows if row[0].startswith("lora")] == [
        ("lora.rank", "3", "not set", "command line")
    ]


def test_rows_that_the_command_took_away_are_told(tmp_path):
    data = dataclasses.replace(BASE.data, train=BASE.data.train[:1])
    rows = again.from_base(written(tmp_path, changed(data=data)))
    assert ("data.train[1].path", "not set", "b.jsonl", "set by the run") in rows


def test_a_run_that_goes_on_from_another_says_so(tmp_path):
    model = dataclasses.replace(BASE.model, continue_from="runs/a:20")
    rows = again.from_base(written(tmp_path, changed(model=model), "x --continue_from=runs/a:20"))
    assert rows == [("model.continue_from", "runs/a:20", "null", "command line")]


def test_without_the_file_and_without_a_change_there_is_no_table(tmp_path):
    assert again.from_base(written(tmp_path, BASE)) == []
    assert again.from_base(written(tmp_path, changed(lora=Lora()), base=None)) == []
    assert "what is not as in" not in page_of(read_run(tmp_path))


def test_no_secret_of_the_file_or_the_command_is_kept(tmp_path, monkeypatch):
    secret = "hf_canary1234567890"
    monkeypatch.setenv("HF_TOKEN", secret)
    base = changed(model=Model(source=f"https://{secret}@host/m"))
    written(tmp_path, BASE, f"{LINE} --x={secret}", base)
    assert secret not in "".join(file.read_text() for file in tmp_path.iterdir())
    assert to_dict(base)["model"]["source"].count(secret) == 1
