"""Each family in the variants of real checkpoints, against transformers in float32 eager mode."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.convert.export.directory import export
from jaxsft.convert.families.registry import FAMILIES
from jaxsft.devices.mesh import single_device_mesh
from jaxsft.model import state
from jaxsft.model.settings import DecoderSettings, DynamicScaling, Rope
from tests.convert.families import family_cases
from tests.convert.families import family_measures as measures
from tests.convert.families.family_cases import CASES, Case

TOLERANCE = 1e-4
FIRST = {case.family: case for case in reversed(CASES)}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_cases(name: str):
    file = family_cases.FILES[name]
    assert file.models and set(file.told) <= set(file.published)
    assert (file.gguf is None) == (FAMILIES[name].gguf is None)


@pytest.fixture(scope="module")
def decoded() -> set[tuple]:
    """What attention did with the cache in the cases before."""
    return set()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_computes_what_transformers_does(case: Case, tmp_path: Path, decoded: set[tuple]):
    """Of a whole row and of packed ones, and one token after the other where that is new.

    Logits prove the forward pass of each case; what a gradient can get wrong beyond it (a stopped
    gradient, a tensor's way back to their layout) is a family's, and takes most of the time. It
    goes through the forward pass of training, so that the first case needs no other.
    """
    saved = family_cases.save(case, tmp_path)
    model = jaxsft.load_model(tmp_path)
    if first := FIRST[case.family] == case:
        theirs = measures.theirs(saved)
        expected = theirs.logits
        gradients = measures.our_gradients(model, pretrained.open_pretrained(tmp_path).table)
        wrong = measures.relative_differences(gradients, theirs.gradients)
        assert max(wrong.values()) < TOLERANCE, wrong
    else:
        expected = measures.their_logits(saved)
        assert measures.greatest_difference(measures.our_logits(model), expected) < TOLERANCE
    assert max(np.abs(segment).max() for segment in expected) > 1  # or 1e-4 says little
    if first or _with_a_cache(model.settings) not in decoded:
        decoded.add(_with_a_cache(model.settings))
        outputs = measures.decoded(model)
        if isinstance(model.settings.rope.scaling, DynamicScaling):
            outputs = outputs[:1]  # the shorter row is turned as one of the cache's length
        assert measures.greatest_difference(outputs, expected[: len(outputs)]) < TOLERANCE


def _with_a_cache(settings: DecoderSettings) -> tuple:
    """What of a model's attention depends on where a token stands, and in which order it came."""
    kinds = {(kind.window is None, _turns(kind.rope)) for kind in settings.kinds()}
    caps = settings.attention_soft_cap is None, settings.attention_sinks
    return frozenset(kinds), caps, settings.num_kv_heads


def _turns(rope: Rope | None) -> tuple | None:
    return rope and (type(rope.scaling), rope.share < 1, rope.interleaved)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_import_then_export_changes_no_bit(case: Case, tmp_path: Path):
    """Names, dtypes, shards and index are as transformers writes them too."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    family_cases.save(case, theirs, "bfloat16", max_shard_size="20KB")
    base = pretrained.open_pretrained(theirs)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    params = pretrained.read_params(base, state.shardings(shapes, axes, single_device_mesh()))
    export(params, base, ours, max_shard_bytes=20_000)
    index = "model.safetensors.index.json"
    maps = [json.loads((folder / index).read_text())["weight_map"] for folder in (theirs, ours)]
    if case.family == "gpt_neox":  # transformers renames its head, and sorts the names after that
        maps = [set(found) for found in maps]
    assert maps[0] == maps[1]
    actual, expected = (_tensors(folder) for folder in (ours, theirs))
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name, strict=True)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (theirs, ours)]
    for config in configs:
        config["eos_token_id"] = np.ravel(config["eos_token_id"]).tolist()
    assert configs[0] == configs[1]
    assert pretrained.open_pretrained(ours).settings == base.settings


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}
