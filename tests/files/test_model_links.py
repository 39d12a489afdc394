"""Links in a model's directory: those of the hub's cache are followed, none out of it is."""

import json
import os
import shutil
import stat

import pytest

from jaxsft.convert import source
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.errors import ConversionError
from tests import programs
from tests.faults import fault

CANARY = "a file of the user that is nobody else's business"
MODEL = programs.ROOT / "configs" / "debug_model"


@pytest.fixture
def outside(tmp_path):
    file = tmp_path / "private" / "notes.txt"
    file.parent.mkdir()
    file.write_text(CANARY)
    return file


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(MODEL, tmp_path / "model")


def linked(directory, name, target):
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return path


FILES = ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"]
FILES += ["LICENSE", "README.md", "model.safetensors", "additional_chat_templates/tools.jinja"]


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_a_model_is_refused(name, model, outside):
    path = outside
    if (model / name).exists():  # what it leads to would do
        path = shutil.copy(model / name, outside.parent)
    linked(model, name, path)
    with pytest.raises(ConversionError, match=f"{name}: is a link to .*, outside .*cp -rL"):
        source.resolve(model)
    with pytest.raises(ConversionError, match=f"{name}: is a link to"):
        source.tokenizer_directory(MODEL, chosen=model)


@pytest.mark.parametrize("target", ["../private/notes.txt", "nowhere", "/nowhere", "LICENSE"])
def test_relative_broken_and_circular_links_are_told_apart(target, model, outside):
    linked(model, "LICENSE", target)
    if target in ("nowhere", "LICENSE"):
        assert source.resolve(model) == model
    else:
        with pytest.raises(ConversionError, match=f"LICENSE: is a link to {target}"):
            source.resolve(model)


def test_a_link_through_a_folder_is_refused(model, outside):
    (model / "deeper").symlink_to(outside.parent)
    linked(model, "NOTICE", "deeper/notes.txt")
    with pytest.raises(ConversionError, match="NOTICE: is a link to deeper/notes.txt"):
        source.resolve(model)
    (model / "NOTICE").unlink()
    assert source.resolve(model) == model  # nobody reads in that folder
    (model / "additional_chat_templates").symlink_to(outside.parent)
    with pytest.raises(ConversionError, match="additional_chat_templates"):
        source.resolve(model)


def test_the_files_of_an_adapter_are_held_to_it_too(model, outside):
    (model / "config.json").unlink()
    (model / source.ADAPTER).write_text(json.dumps({"base_model_name_or_path": str(MODEL)}))
    assert source.resolve(model) == MODEL
    linked(model, "adapter_model.safetensors", outside)
    with pytest.raises(ConversionError, match="adapter_model.safetensors: is a link to"):
        source.resolve(model)


def test_an_index_names_no_file_elsewhere(model, outside):
    index = {"weight_map": {"model.norm.weight": "../private/notes.txt"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError, match=r"\.\./private/notes\.txt' is not a plain name"):
        Directory(model)


def hub_cache(root):
    """The model as huggingface_hub keeps it: a snapshot of links to its contents."""
    kept = root / "hub" / "models--org--name"
    snapshot = kept / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (kept / "blobs").mkdir()
    for number, file in enumerate(sorted(MODEL.iterdir())):
        shutil.copy(file, kept / "blobs" / f"{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_links_of_the_hubs_cache_and_to_a_model_are_followed(tmp_path, outside):
    snapshot = hub_cache(tmp_path)
    (tmp_path / "link").symlink_to(snapshot)
    linked(snapshot, "COPYING", "config.json")  # and within
    for path in (snapshot, tmp_path / "link"):
        assert source.resolve(path) == path
        assert source.tokenizer_directory(path) == path
    linked(snapshot.parent.parent / "blobs", "99", outside)
    linked(snapshot, "README.md", "../../blobs/99")
    with pytest.raises(ConversionError, match="README.md: is a link to"):
        source.resolve(tmp_path / "link")


def test_blobs_that_are_a_link_are_no_cache(tmp_path, outside):
    snapshot = tmp_path / "snapshots" / "0a1b"
    shutil.copytree(MODEL, snapshot)
    (tmp_path / "blobs").symlink_to(outside.parent)
    linked(snapshot, "README.md", "../../blobs/notes.txt")
    with pytest.raises(ConversionError, match="README.md: is a link to"):
        source.resolve(snapshot)


@fault(
    "models and security",
    "a model's directory with a link out of it",
    "refused with the link and its target before it is read; the hub's own cache goes on working",
    lost="nothing",
    code=66,
)
def test_a_run_copies_nothing_that_a_link_leads_to(tmp_path, model, outside):
    linked(model, "README.md", outside)
    done = programs.train(tmp_path / "run", f"--config.model.source={model}", check=False)
    assert done.returncode == 66
    assert f"{model}/README.md: is a link to {outside}" in done.stderr
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert written and not any(CANARY.encode() in path.read_bytes() for path in written)


@pytest.mark.slow
def test_a_run_exports_what_lies_in_the_hubs_cache_and_keeps_its_own_private(tmp_path):
    snapshot = hub_cache(tmp_path)
    (snapshot.parent.parent / "blobs" / "77").write_text("Apache\n")
    linked(snapshot, "LICENSE", "../../blobs/77")
    (tmp_path / "link").symlink_to(snapshot)
    flags = (f"--config.model.source={tmp_path}/link", "--config.train.steps=1")
    before = os.umask(0)
    try:
        programs.train(tmp_path / "run", *flags, env={"XDG_CACHE_HOME": f"{tmp_path}/home"})
    finally:
        os.umask(before)
    assert (tmp_path / "run" / "export" / "LICENSE").read_text() == "Apache\n"
    assert not (tmp_path / "run" / "export" / "LICENSE").is_symlink()
    made = [tmp_path / "home" / "jaxsft", *(tmp_path / "home" / "jaxsft").iterdir()]
    assert len(made) > 2 and {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
