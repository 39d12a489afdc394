"""Two models side by side: what moved, what can't be compared, and the loss of each."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
import tiny
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxsft.cli.programs import compare_models
from jaxsft.errors import ConfigError
from tests.programs import ROOT, Done, tool, train
from tests.test_train import weights_in

HELD_OUT = ROOT / "configs" / "debug_data" / "heldout.jsonl"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps from a model that a run of two steps has left."""
    folder = tmp_path_factory.mktemp("pair")
    short = ("--config.train.steps=2", "--config.eval.prompts=0")
    train(folder / "base", *short)
    pretrained = "--config.model.weights=pretrained"
    train(folder / "result", *short, f"--config.model.source={folder / 'base/export'}", pretrained)
    return folder


def compared(*arguments) -> Done:
    return tool("compare_models", *arguments)


@pytest.fixture(scope="module")
def found(run):
    done = compared(run / "base/export", run / "result", f"--data={HELD_OUT}", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_moved_is_what_the_run_says_itself(run, found):
    summary = json.loads((run / "result" / "summary.json").read_text())
    ours = {one["name"]: one for one in found["parameters"]}
    assert len(summary["weights"]) == len(ours) == 12
    for one in summary["weights"]:
        for figure in ("norms", "changes"):
            np.testing.assert_allclose(ours[one["name"]][figure], one[figure], rtol=1e-5)
    page = (run / "result" / "report.html").read_text()
    assert "What changed in the model" in page
    assert f"{ours['attention.q_DNH']['relative']:.3%}" in page


def test_it_is_what_the_files_say(run, found):
    base, result = (weights_in(run / name / "export") for name in ("base", "result"))
    name = "model.embed_tokens.weight"
    moved = np.linalg.norm(result[name] - base[name]) / np.linalg.norm(base[name])
    (table,) = (one for one in found["parameters"] if one["name"] == "embedding_VD")
    assert table["relative"] == pytest.approx(moved, rel=1e-4)
    rows = int((result[name] != base[name]).any(axis=1).sum())
    assert found["rows"][0] == {"name": "embedding_VD", "moved": rows, "rows": 512}
    assert set(found["layers"]) == {"0", "1"} and found["relative_change"] > 0


def test_the_losses_are_those_of_the_runs(run, found):
    runs = [json.loads((run / name / "summary.json").read_text()) for name in ("base", "result")]
    for losses, its in zip(found["losses"], runs, strict=True):
        assert losses["eval/heldout/loss"] == pytest.approx(its["after"]["eval/heldout/loss"])


def test_the_tables_are_printed(run):
    done = compared(run / "base/export", run / "result/export", "--rank_layers=1")
    assert done.returncode == 0, done.stderr
    for said in (
        "of the weights' norm away from",
        "attention.q_DNH",
        "rows moved",
        "90% of the ch",
    ):
        assert said in done.stdout
    assert "On the sets given" not in done.stdout


def test_tokens_that_one_has_more_are_left_out(run, tmp_path):
    longer = shutil.copytree(run / "result/export", tmp_path / "longer")
    with safe_open(longer / "model.safetensors", "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = file.metadata()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.concatenate([tensors[name], tensors[name][:8]])
    save_file(tensors, longer / "model.safetensors", about)
    config = json.loads((longer / "config.json").read_text())
    (longer / "config.json").write_text(json.dumps(config | {"vocab_size": 520}))
    done = compared(run / "base/export", longer, "--json", "--rank_layers=0")
    assert done.returncode == 0, done.stderr
    assert [one["rows"] for one in json.loads(done.stdout)["rows"]] == [512, 512]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_layers": 3}, "other: has other sizes than base: num_layers is 3 and 2"),
        ({"tied_embeddings": True}, "tied_embeddings is True and False"),
        ({"family": "qwen3"}, "other: is a model of family 'qwen3', and base of 'llama'"),
    ],
)
def test_models_without_partners_are_refused_by_name(change, said):
    family = change.get("family", "llama")
    sizes = {name: value for name, value in change.items() if name != "family"}
    other = dataclasses.replace(tiny.SETTINGS, **sizes)
    pair = [
        types.SimpleNamespace(source=name, settings=settings, config={"model_type": kind})
        for name, settings, kind in (("base", tiny.SETTINGS, "llama"), ("other", other, family))
    ]
    with pytest.raises(ConfigError, match=said):
        compare_models.refuse_others(*pair)  # pyright: ignore


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "BASE is missing; the arguments are BASE RESULT"),
        (("a",), "RESULT is missing; the arguments are BASE RESULT"),
        (("a", "b", "c"), "'c': unexpected argument"),
        (("nosuch/x/y", "b"), "nosuch/x/y: no such file or directory"),
    ],
)
def test_a_wrong_command_line_is_one_message(words, said):
    done = compared(*words)
    assert done.returncode in (64, 66) and said in done.stderr
