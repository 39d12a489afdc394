"""What a run writes beside its figures, and the date that its template is told."""

import datetime
import json

from jaxsft import config
from jaxsft.config import Config, Data, Model, Optim, Source, Train
from jaxsft.outputs import with_date, write_inputs


def make_config(**fields) -> Config:
    return Config(
        model=Model(source="m"),
        data=Data(train=(Source(path="a.jsonl"),), sequence_length=8, **fields),
        optim=Optim(peak_lr=1.0),
        train=Train(batch_size=1, steps=1),
    )


def test_the_date_is_that_of_the_first_start(tmp_path):
    today = datetime.date.today().isoformat()
    first = with_date(make_config(), tmp_path)
    assert first.data.template_date == today
    yesterday = make_config(template_date="2026-01-31")
    write_inputs(yesterday, {}, tmp_path)
    assert with_date(make_config(), tmp_path).data.template_date == "2026-01-31"
    assert with_date(make_config(template_date="2025-02-03"), tmp_path).data.template_date == (
        "2025-02-03"
    )


def test_config_and_data_report_are_written(tmp_path):
    write_inputs(make_config(), {"warnings": ["ä"]}, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert config.from_dict(values) == make_config()
    assert json.loads((tmp_path / "data_report.json").read_text()) == {"warnings": ["ä"]}
