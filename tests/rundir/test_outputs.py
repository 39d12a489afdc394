"""What a run writes beside its figures, and the date that its template is told."""

import dataclasses
import datetime
import json

import jax.numpy as jnp
import pytest

from jaxsft import config
from jaxsft.config import Config, Data, Model, Optim, Source, Train, scorers
from jaxsft.data.report import data_report
from jaxsft.data.report.data_report import DataReport, DataWarning
from jaxsft.errors import ConfigError
from jaxsft.files import records
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.rundir.run_files import with_date, write_inputs
from jaxsft.rundir.workdir import Workdir


def make_config(**fields) -> Config:
    return Config(
        model=Model(source="m"),
        data=Data(train=(Source(path="a.jsonl"),), sequence_length=8, **fields),
        optim=Optim(peak_lr=1.0),
        train=Train(batch_size=1, steps=1),
    )


def test_the_date_is_that_of_the_first_start(tmp_path):
    today = datetime.date.today().isoformat()
    workdir, store = Workdir("w", tmp_path), CheckpointStore(tmp_path / "checkpoints", keep=1)
    first = with_date(make_config(), workdir, store)
    assert first.data.template_date == today
    yesterday = make_config(template_date="2026-01-31")
    write_inputs(yesterday, DataReport(), tmp_path)
    assert with_date(make_config(), workdir, store).data.template_date == "2026-01-31"
    other = with_date(make_config(template_date="2025-02-03"), workdir, store)
    assert other.data.template_date == "2025-02-03"


def test_a_config_json_cut_short_stops_no_start(tmp_path):
    """The date is in the checkpoints too."""
    workdir, store = Workdir("w", tmp_path), CheckpointStore(tmp_path / "checkpoints", keep=1)
    store.save(1, {"a": jnp.zeros(3)}, Notes(template_date="2026-01-31"))
    store.wait()
    for cut in ('{"model": {"sou', "", "[]", '{"data": null}'):
        (tmp_path / "config.json").write_text(cut)
        assert with_date(make_config(), workdir, store).data.template_date == "2026-01-31"
    write_inputs(make_config(), DataReport(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "command.json", "data_report.json", "checkpoints")
    }


def test_config_and_data_report_are_written(tmp_path):
    report = DataReport([DataWarning("ä", "b", ["c"])])
    write_inputs(make_config(), report, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert config.from_dict(values) == make_config()
    with_lora = dataclasses.replace(make_config(), lora=config.Lora(targets=("q_*",)))
    assert config.from_dict(json.loads(json.dumps(dataclasses.asdict(with_lora)))) == with_lora
    asks = config.Eval(prompts=1, scorers=("exact", scorers.Function(function=max, name="f")))
    with_function = dataclasses.replace(make_config(), eval=asks)
    written = json.loads(json.dumps(config.to_dict(with_function)))
    again = config.from_dict(written)
    named = scorers.Function(function="max", name="f")  # which a later start's config.py has again
    assert again == dataclasses.replace(
        make_config(), eval=dataclasses.replace(asks, scorers=("exact", named))
    )
    assert config.to_dict(again) == written == json.loads(json.dumps(written))
    text = (tmp_path / "data_report.json").read_text()
    assert records.to_json(data_report.from_json(json.loads(text))) == records.to_json(report)
    assert "ä" in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": None}, "config.model=None: expected the fields of Model"),
        (
            {"eval": {"scorers": [{"kind": "regxe"}]}},
            r"config.eval.scorers\[0\].kind='regxe': there is none; did you mean 'regex'?",
        ),
        ({"data": {"train": 3, "sequence_length": 8}}, "config.data.train=3: expected a tuple"),
        (
            {"data": {"train": ["a"], "sequence_length": 8}},
            r"config.data.train\[0\]='a'|config.data",
        ),
    ],
)
def test_a_spoiled_config_json_is_named(changed, said):
    with pytest.raises(ConfigError, match=said):
        config.from_dict(dataclasses.asdict(make_config()) | changed)
